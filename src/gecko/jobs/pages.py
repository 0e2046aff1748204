"""The jobs' pages: one HTML file each, with nothing outside it, in the report's style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from gecko.report import svg
from gecko.report.templates import beside, templates
from gecko.shards import atomic

_DOTS = 3000  # texts on a map
_SHOWN = 240  # characters of a text


def shorten(text: str, most: int = _SHOWN) -> str:
    """A text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def write_page(path: Path, template: str, **content: Any) -> None:  # noqa: ANN401
    """Fill a template of this folder and write it.

    Raises:
        GeckoError: It cannot be written.
    """
    page = templates(Path(__file__).parent).get_template(template).render(style=beside("style.css"), **content)
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def theme_map(places: np.ndarray, themes: np.ndarray, texts: list[str]) -> Markup:
    """Draw texts as dots, those of a theme in one hue; a theme is lit when its row is pointed at.

    Args:
        places: (m, 2), 0 to 1 each way.
        themes: (m,) the number of each text's theme, 0 for none.
        texts: Their texts (m).
    """
    kept = np.arange(len(texts))
    if len(texts) > _DOTS:
        kept = np.sort(np.random.default_rng(0).choice(len(texts), _DOTS, replace=False))
    dot = Markup('<circle class="{}" cx="{}%" cy="{}" r="3" data-t="{}"{}><title>{}</title></circle>')
    marks = []
    for place in kept:
        number = int(themes[place])
        x, y = places[place]
        # Neighbouring numbers get hues far apart: the golden angle.
        hue = Markup(' style="--hue:{}"').format(f"{number * 137.508 % 360:.0f}") if number else ""
        kind = "dot" if number else "dot none"
        marks.append(
            dot.format(kind, f"{2 + 96 * x:.2f}", f"{8 + 444 * (1 - y):.1f}", number, hue, shorten(texts[place], 120))
        )
    for number in np.unique(themes[themes > 0]):
        x, y = np.median(places[themes == number], axis=0)
        label = Markup('<text class="number" x="{}%" y="{}" text-anchor="middle" data-t="{}">{}</text>')
        marks.append(label.format(f"{2 + 96 * x:.2f}", f"{8 + 444 * (1 - y) + 4:.1f}", number, number))
    return svg.frame(marks, 460, f"Map of {len(kept)} texts by theme")


def columns(counts: list[int], names: list[str], most: int) -> Markup:
    """Draw counts over time as thin columns, each with its name; ``most`` is as high as the picture."""
    width = 100 / max(1, len(counts))
    bar = Markup('<rect class="accent" x="{}%" y="{}" width="{}%" height="{}"><title>{}: {}</title></rect>')
    marks = []
    for index, (count, name) in enumerate(zip(counts, names, strict=True)):
        tall = 26 * count / max(1, most)
        marks.append(
            bar.format(
                f"{index * width:.2f}", f"{27 - tall:.2f}", f"{0.82 * width:.2f}", f"{max(tall, 0.4):.2f}", name, count
            )
        )
    return svg.frame(marks, 28, f"Texts from {names[0]} to {names[-1]}" if names else "")

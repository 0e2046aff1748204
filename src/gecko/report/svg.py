"""Small pictures for the report, drawn as inline SVG.

Positions are percentages of the width, so that a picture fills a phone or a desk without shrinking its type.
Colours come from the page's style sheet (classes ``accent``, ``muted``, ``ink``, ``rule``), so that light, dark
and print need no second drawing. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

LINE_POINTS = 400


@dataclass(frozen=True, slots=True)
class Bar:
    """One before/after comparison, all scores fractions 0-1; ``interval`` bounds ``after``."""

    label: str
    before: float | None
    after: float
    interval: tuple[float, float] | None
    note: str
    reference: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its name, style class and (x, y) points."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a map: its place in the unit square, its style class and what it is."""

    x: float
    y: float
    style: str
    name: str


def before_after(bars: Sequence[Bar], label: str) -> Markup:
    """Draw pairs of horizontal bars on one scale from 0, with an interval on the second of each pair."""
    row, marks = 62, []
    highest = max([1e-9] + [max(b.after, b.before or 0, b.reference or 0, *(b.interval or (0,))) for b in bars])
    scale = 98 / min(1.0, highest * 1.02)
    for index, bar in enumerate(bars):
        top = index * row
        marks.append(_text(0, top + 13, bar.label, "ink"))
        marks.append(_text(100, top + 13, bar.note, "ink", anchor="end"))
        if bar.before is not None:
            marks.append(_rect(0, top + 21, bar.before * scale, 9, "muted", f"base {bar.before:.3f}"))
        marks.append(_rect(0, top + 32, bar.after * scale, 13, "accent", f"tuned {bar.after:.3f}"))
        if bar.interval:
            low, high = (max(0.0, end) * scale for end in bar.interval)
            for style in ("halo", "whisker"):  # the halo keeps the interval legible across the bar's end
                marks.append(_rule(low, top + 38.5, high, top + 38.5, style))
                marks += [_rule(end, top + 35, end, top + 42, style) for end in (low, high)]
        if bar.reference is not None:
            at = bar.reference * scale
            marks.append(_rule(at, top + 18, at, top + 48, "reference"))
    return frame(marks, max(row * len(bars) - 10, 10), label)


def histogram(
    groups: Sequence[tuple[str, Sequence[float]]],
    ticks: Sequence[tuple[float, str]],
    label: str,
    height: int = 112,
    *,
    apart: bool = True,
) -> Markup:
    """Draw one to three shares-per-bin series, numbered by the highest bar.

    Args:
        groups: (style class, heights) of each series, all as long.
        ticks: (position as a fraction of the width, text) under the axis.
        label: What the picture shows, for screen readers.
        height: Pixels, axis included.
        apart: Side by side in each bin; otherwise in one place, for series that never share a bin.
    """
    bins = len(groups[0][1]) if groups else 0
    highest = max([value for _, values in groups for value in values] + [1e-9])
    base, marks = height - 22, []
    slot = 100 / max(bins, 1)
    width = slot * 0.84 / (max(len(groups), 1) if apart else 1)
    for number, (style, values) in enumerate(groups):
        offset = number if apart else 0
        for index, value in enumerate(values):
            if value > 0:
                tall = max(1.0, value / highest * (base - 18))
                left = index * slot + slot * 0.08 + offset * width
                marks.append(_rect(left, base - tall, width * 0.94, tall, style, f"{100 * value:.1f} %"))
    if bins and highest > 1e-9:
        marks += [_rule(0, 17.5, 100, 17.5, "rule"), _text(100, 12, f"{100 * highest:.0f} %", "soft", anchor="end")]
    marks.append(_rule(0, base + 0.5, 100, base + 0.5, "rule"))
    marks += [_tick(100 * at, height - 6, text) for at, text in ticks]
    return frame(marks, height, label)


def curves(
    lines: Sequence[Line],
    label: str,
    *,
    x_name: str,
    marker: float | None = None,
    dots: bool = False,
    height: int = 190,
) -> Markup:
    """Draw curves over a shared, numbered scale; ``marker`` is an x to single out by an upright line."""
    points = [point for line in lines for point in line.points]
    if not points:
        return Markup("")
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    pad = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    low, high = low - pad if low < 0 else max(0.0, low - pad), high + pad
    top, base, start, end = 8, height - 40, 9.0, 99.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left) if right > left else 0.5
        return start + across * (end - start), base - (y - low) / (high - low) * (base - top)

    marks: list[Markup] = []
    for step in range(4):
        value = low + (high - low) * step / 3
        y = place(left, value)[1]
        marks += [_rule(start, y, end, y, "rule"), _text(0, y + 4, f"{value:.3g}", "soft")]
    if marker is not None:
        x = place(marker, low)[0]
        marks.append(_rule(x, top, x, base, "reference"))
    for line in lines:
        for first, second in pairwise(_thin(line.points)):
            (x1, y1), (x2, y2) = place(*first), place(*second)
            marks.append(_rule(x1, y1, x2, y2, f"curve {line.style}"))
        if dots:
            marks += [_dot(*place(x, y), line.style, f"{line.name} {x:g}: {y:.4f}") for x, y in line.points]
    marks.append(_text(start, height - 22, f"{left:g}", "soft"))
    marks.append(_text((start + end) / 2, height - 22, x_name, "soft", anchor="middle"))
    marks.append(_text(end, height - 22, f"{right:g}", "soft", anchor="end"))
    return frame(marks, height - 14, label)


def scatter(points: Sequence[Point], links: Sequence[tuple[int, int]], label: str, height: int = 340) -> Markup:
    """Draw points of the unit square, with thin lines between some of them; each names itself and has its number."""

    def place(point: Point) -> tuple[float, float]:
        return 2 + 96 * point.x, 8 + (height - 16) * (1 - point.y)

    marks = []
    for first, second in links:
        (x1, y1), (x2, y2) = place(points[first]), place(points[second])
        line = Markup('<line class="link" x1="{}%" y1="{}" x2="{}%" y2="{}" data-from="{}" data-to="{}"/>')
        marks.append(line.format(f"{x1:.2f}", f"{y1:.1f}", f"{x2:.2f}", f"{y2:.1f}", first, second))
    for number, point in enumerate(points):
        x, y = place(point)
        circle = Markup('<circle class="{}" cx="{}%" cy="{}" r="{}" data-i="{}"><title>{}</title></circle>')
        radius = "4.5" if point.style == "accent" else "3"
        marks.append(circle.format(f"point {point.style}", f"{x:.2f}", f"{y:.1f}", radius, number, point.name))
    return frame(marks, height, label)


def share_bar(share: float, label: str) -> Markup:
    """Draw one fraction 0-1 as a filled track."""
    share = min(max(share, 0.0), 1.0)
    return frame([_rect(0, 0, 100, 8, "track"), _rect(0, 0, 100 * share, 8, "accent")], 8, label)


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keep at most LINE_POINTS points, each the mean of its neighbourhood, so that a long run stays a small file."""
    if len(points) <= LINE_POINTS:
        return list(points)
    edges = [index * len(points) // LINE_POINTS for index in range(LINE_POINTS + 1)]
    return [(points[(a + b) // 2][0], sum(y for _, y in points[a:b]) / (b - a)) for a, b in pairwise(edges)]


def frame(marks: Sequence[Markup], height: float, label: str) -> Markup:
    """Put marks into one picture as wide as its place, with a label for those who cannot see it."""
    return Markup('<svg role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(
        label, f"{height:g}", Markup("").join(marks)
    )


def _rect(left: float, top: float, width: float, height: float, style: str, title: str = "") -> Markup:
    inside = Markup("<title>{}</title>").format(title) if title else Markup("")
    return Markup('<rect class="{}" x="{}%" y="{}" width="{}%" height="{}" rx="1.5">{}</rect>').format(
        style, f"{left:.3f}", f"{top:.2f}", f"{max(width, 0):.3f}", f"{height:.2f}", inside
    )


def _rule(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup('<line class="{}" x1="{}%" y1="{}" x2="{}%" y2="{}"/>').format(
        style, f"{x1:.3f}", f"{y1:.2f}", f"{x2:.3f}", f"{y2:.2f}"
    )


def _dot(x: float, y: float, style: str, title: str) -> Markup:
    return Markup('<circle class="{}" cx="{}%" cy="{}" r="3.5"><title>{}</title></circle>').format(
        style, f"{x:.3f}", f"{y:.2f}", title
    )


def _tick(x: float, y: float, text: str) -> Markup:
    """Write under an axis, kept inside the picture at both ends."""
    return _text(x, y, text, "soft", anchor="start" if x < 4 else "end" if x > 96 else "middle")


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{}%" y="{}" text-anchor="{}">{}</text>').format(
        style, f"{x:.3f}", f"{y:.2f}", anchor, escape(text)
    )

"""The page and the record of themes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gecko.jobs.pages import columns, theme_map, write_page
from gecko.jobs.themes import Themes
from gecko.shards import write_json


def write_themes(out: Path, name: str, value: dict[str, Any], found: Themes, texts: list[str]) -> None:
    """Write themes.json and themes.html.

    Args:
        out: Directory for them.
        name: Of the file that the texts came from.
        value: What is known of the themes, as ``gecko themes --json`` says it.
        found: The themes, for the map.
        texts: All texts.

    Raises:
        GeckoError: They cannot be written.
    """
    write_json(out / "themes.json", value)
    periods = value["periods"]
    names = periods["names"] if periods else []
    most = max((max(theme["counts"], default=0) for theme in value["themes"] if names), default=0)
    write_page(
        out / "themes.html",
        "themes.html",
        name=name,
        texts=value["texts"],
        without=value["without"],
        named_by=value["named_by"],
        model=value["model"],
        periods=names,
        length=periods["length"] if periods else "",
        timeless=value["timeless"],
        map=theme_map(found.layout, found.of[found.placed], [texts[place] for place in found.placed]),
        themes=[
            {
                **theme,
                "others": [word for word in theme["words"] if word not in theme["name"].split(", ")],
                "picture": columns(theme["counts"], names, most) if names else "",
            }
            for theme in value["themes"]
        ],
    )

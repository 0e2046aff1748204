"""How the pages are filled: templates of a folder, escaped, with the report's own style placed in them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup


def beside(name: str) -> Markup:
    """Read a file of this folder that is placed in a page as it is."""
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))  # noqa: S704


@cache
def templates(folder: Path) -> Any:  # noqa: ANN401
    """The templates of a folder, each compiled once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

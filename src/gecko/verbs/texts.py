"""What the verbs that work on a pile of texts share: their options, and the rows they write."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Argument(help="Path, Hub id or all-MiniLM-L6-v2.")]
TextColumn = Annotated[str, typer.Option("--text", help="Column of the text; default: a usual name.")]
TitleColumn = Annotated[str, typer.Option("--title", help="Column of a title.")]
IdColumn = Annotated[str, typer.Option("--id", help="Column of an id.")]
Dim = Annotated[int | None, typer.Option(min=1, help="Dimensions of the vectors that are kept; default: all.")]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON Lines, whole or not at all."""
    from gecko.shards import atomic

    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

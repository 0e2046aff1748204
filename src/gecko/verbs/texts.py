"""What the verbs that work on a pile of texts share: their options."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="Path, Hub id or all-MiniLM-L6-v2.")]
TextColumn = Annotated[str, typer.Option("--text", help="Column of the text; default: a usual name.")]
TitleColumn = Annotated[str, typer.Option("--title", help="Column of a title.")]
IdColumn = Annotated[str, typer.Option("--id", help="Column of an id.")]
Dim = Annotated[int | None, typer.Option(min=1, help="Dimensions of the vectors that are kept; default: all.")]

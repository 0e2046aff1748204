"""``gecko serve``: a model over HTTP, and a page to search with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gecko.serve.precision import Precision
from gecko.shell import Index, index_option, say, verb

EXAMPLE = (
    "Example: gecko serve runs/docs/model;  "
    "gecko serve runs/docs/model --index index/ --base base-index/ --judged my-test/"
)


@verb
def serve(
    model: Annotated[str, typer.Argument(help="Path, Hub id or all-MiniLM-L6-v2.")],
    index: Annotated[
        Index, index_option("Index of this model (gecko index), a directory or URL: adds /search and a page at /.")
    ] = None,
    base: Annotated[
        Index, index_option("Index of the base model over the same passages: the page's other column.")
    ] = None,
    judged: Annotated[
        Path | None,
        typer.Option(help="Folder of a test set (gecko judge), new or begun, that thumbs on the page go to."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What requests call the model; default: its folder's name.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    batch: Annotated[int, typer.Option(min=1, help="Texts encoded at a time, of all requests together.")] = 64,
    queue: Annotated[
        int,
        typer.Option(
            min=1, help="Texts that may wait, one for each 4,000 characters; a request beyond is answered 429."
        ),
    ] = 4096,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest request, in MB.")] = 16,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Of encoding; auto is int8 on a CPU with onnxruntime (exported at the first start), else bfloat16."
        ),
    ] = Precision.auto,
) -> None:
    """Serve a model: OpenAI's /v1/embeddings, /metrics, with --index search and a page. GECKO_API_KEY sets a key."""
    from gecko.serve.server import KEY, ServeOptions
    from gecko.serve.server import serve as run

    options = ServeOptions(
        model,
        name=name,
        index=index,
        base=base,
        judged=judged,
        host=host,
        port=port,
        batch=batch,
        queue=queue,
        most_bytes=int(max_mb * 1e6),
        key=os.environ.get(KEY) or None,
        precision=precision,
    )
    run(options, say)

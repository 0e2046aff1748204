"""``gecko export``, ``verify`` and ``push``: a model taken elsewhere, proven, published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gecko.errors import GeckoError
from gecko.shell import AsJson, answer, dims, out_option, say, verb

EXPORT_EXAMPLE = "Example: gecko export runs/docs/model --format onnx-int8 --out exports/docs-int8"
VERIFY_EXAMPLE = "Example: gecko verify runs/docs/model exports/docs-onnx exports/docs-int8 --beir my-test/"
PUSH_EXAMPLE = "Example: gecko push runs/docs/model me/docs-embedder --export exports/docs-int8 --dry-run"

Model = Annotated[str, typer.Argument(help="Path, Hub id or all-MiniLM-L6-v2.")]


@verb
def export(
    model: Model,
    kind: Annotated[
        str,
        typer.Option("--format", "--to", metavar="compat|onnx|onnx-int8|static", help="Which format; docs/export.md."),
    ],
    out: Annotated[Path, out_option("Folder of the export; one that is there is replaced.")],
    dim: Annotated[
        int | None, typer.Option(help="Keep the first so many dimensions; default: all, of static 256.")
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(help="static: unified rows to train on; default: those of the model's run.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="static: of the training.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write a model in another format, with tokenizer, prompts and card. The onnx formats need gecko-embed[onnx]."""
    from gecko.export.export import export_model

    made = export_model(model, kind, out, dim=dim, rows=rows, tell=say, seed=seed)
    sizes = ", ".join(map(str, made.dims))
    answer(as_json, made.to_json(), f"{made.format}  {made.out}  {made.bytes / 1e6:,.1f} MB, dimensions {sizes}")


@verb
def verify(
    model: Model,
    exports: Annotated[list[str], typer.Argument(help="Exports of it.")],
    beir: Annotated[
        list[Path] | None,
        typer.Option(help="BEIR folder to measure nDCG@10 on; repeat. Default: those of the model's run."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the judgements; default: the run's, or test.")] = None,
    dimensions: Annotated[str | None, typer.Option("--dims", help="Dimensions, comma separated.")] = None,
    max_gap: Annotated[
        float | None,
        typer.Option(min=0, help="Largest 1 - cosine allowed. Default: 0.0001 of compat and onnx, none of the others."),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(min=0, help="Largest loss of nDCG@10 allowed, a fraction. Default: 0.005, none of static."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put the same texts through a model and its exports: worst cosine, nDCG@10, speed, size; exit 1 if one differs."""
    from gecko.export.verify import Limits, render_verify
    from gecko.export.verify import verify as verify_exports

    value = verify_exports(
        model,
        exports,
        beir=beir or (),
        split=split,
        dims=dims(dimensions),
        limits=Limits(max_gap, max_loss),
        tell=say,
    )
    answer(as_json, value, render_verify(value))
    failed = [one["name"] for one in value["results"] if one["faults"]]
    if failed:
        raise GeckoError(
            f"{len(failed)} of {len(exports)} exports do not answer as the model: {', '.join(failed)}",
            "the table says by how much; --max-gap and --max-loss say what is allowed",
        )


@verb
def push(
    model: Annotated[str, typer.Argument(help="Folder of the model, or of an export.")],
    target: Annotated[str, typer.Argument(metavar="REPO|FOLDER", help="owner/name on the Hub, or a folder (./name).")],
    exports: Annotated[
        list[Path] | None, typer.Option("--export", help="ONNX export to put beside the weights; repeat for several.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go; without a token of the Hub it is one anyway.")
    ] = False,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; default: private.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a model with its card, on the Hugging Face Hub or in a folder."""
    from gecko.export.push import push as push_model

    done = push_model(model, target, exports or (), dry_run=dry_run, public=public)
    lines = [f"{size / 1e6:>10,.2f} MB  {name}" for name, size in done.files.items()]
    state = "dry run, nothing was sent:" if done.dry_run else "published:"
    if done.hub and done.dry_run and not dry_run:
        state = "no token of the Hub (hf auth login, or HF_TOKEN), so a dry run:"
    answer(as_json, done.to_json(), "\n".join([*lines, f"{state} {done.url}"]))

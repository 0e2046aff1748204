"""``gecko compare``: several models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gecko.errors import UsageError
from gecko.shell import AsJson, Precision, answer, dims, tell_prompts, verb

EXAMPLE = (
    "Example: gecko compare base=all-MiniLM-L6-v2 tuned=runs/docs/model --beir my-test/ --dims 384,128 "
    "--vectors float,int8,binary --tasks data/stsb"
)


@verb
def compare(
    models: Annotated[
        list[str], typer.Argument(help="Models: paths, Hub ids or all-MiniLM-L6-v2; NAME=MODEL to show it by a name.")
    ],
    beir: Annotated[list[Path] | None, typer.Option(help="BEIR folder; repeat for several.")] = None,
    tasks: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of general tasks, for what was forgotten; repeat for several."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Compare all with this: a model's name, bm25 or bm25+NAME. Default: the first model."),
    ] = None,
    dimensions: Annotated[str | None, typer.Option("--dims", help="Dimensions, comma separated.")] = None,
    vectors: Annotated[str, typer.Option(help="How vectors are stored: of float, int8, binary.")] = "float",
    hybrids: Annotated[bool, typer.Option(help="Also each model fused with BM25.")] = True,
    show: Annotated[int, typer.Option(min=0, help="Queries won and lost to list, of each set and system.")] = 3,
    split: Annotated[str, typer.Option(help="Split of the judgements.")] = "test",
    precision: Annotated[
        Precision, typer.Option(help="Of encoding; auto is bfloat16 where the hardware has it.")
    ] = Precision.auto,
    limit: Annotated[int | None, typer.Option(min=2, help="--tasks: items of a set at most, a fixed sample.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put models, BM25 and hybrids side by side: paired tests, corrected for their number, and the queries behind."""
    from gecko.embedder.embedder import Embedder
    from gecko.embedder.open import resolve_model
    from gecko.evaluate.beir import load_beir
    from gecko.evaluate.side_by_side import CompareOptions, check_names, compare_models, forms_of
    from gecko.evaluate.side_by_side_table import render_comparison
    from gecko.evaluate.tasks import TaskOptions, compare_tasks, open_sets

    if not beir and not tasks:
        raise UsageError("there is nothing to compare on", "give --beir or --tasks, or both")
    named = _named(models)
    kinds = [name.strip() for name in vectors.split(",") if name.strip()]
    options = CompareOptions(against, dims(dimensions), kinds, hybrids, split)
    check_names([name for name, _ in named], options)
    first = against if against in dict(named) else named[0][0]
    if tasks and len(named) < 2:
        raise UsageError("--tasks compares models, and there is one", "name a second one, or use gecko evaluate")
    for folder in beir or ():  # a mistake is told before a model is loaded
        load_beir(folder, split)
    sets = open_sets(tasks, TaskOptions(split, limit=limit)) if tasks else None
    for _, spec in named:
        resolve_model(spec)
    loaded = {name: Embedder(spec, bf16=precision.bf16) for name, spec in named}
    tell_prompts({name: one.asked for name, one in loaded.items()})
    report: dict[str, Any] = compare_models(loaded, beir, options) if beir else {"results": []}
    if sets is not None:
        others = [name for name in loaded if name != first]
        widths = list(dict.fromkeys(form.dim for form in forms_of(loaded, options)))
        found = compare_tasks([loaded[name] for name in others], loaded[first], sets, widths)
        report |= {"tasks": dict(zip(others, found, strict=True)), "against_model": first}
    answer(as_json, report, render_comparison(report, show))


def _named(models: list[str]) -> list[tuple[str, str]]:
    """Split NAME=MODEL; a path that holds an equals sign is a path."""
    named = []
    for text in models:
        name, equals, spec = text.partition("=")
        named.append((name.strip(), spec) if equals and name.strip() and not Path(text).exists() else (text, text))
    return named

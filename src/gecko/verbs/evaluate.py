"""``gecko evaluate``: a model on human judgements, on general tasks, and on MTEB's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gecko.errors import UsageError
from gecko.shell import AsJson, Precision, answer, dims, out_option, tell_prompts, verb

EXAMPLE = (
    "Example: gecko evaluate runs/docs/model --base all-MiniLM-L6-v2 --beir data/scifact --dims 384,128;  "
    "gecko evaluate runs/docs/model --base all-MiniLM-L6-v2 --mteb STS13 --mteb SciFact --mteb-data data/"
)


@verb
def evaluate(
    model: Annotated[str, typer.Argument(help="Path, Hub id or all-MiniLM-L6-v2.")],
    beir: Annotated[list[Path] | None, typer.Option(help="BEIR folder; repeat for several.")] = None,
    tasks: Annotated[
        list[Path] | None, typer.Option(help="Folder of any type of task, or of such folders; repeat for several.")
    ] = None,
    mteb: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A task of MTEB, by its name there; repeat. Needs gecko-embed[mteb]."),
    ] = None,
    mteb_data: Annotated[
        Path | None,
        typer.Option(help="--mteb: folder of folders with the tasks' data; no network is needed for them."),
    ] = None,
    base: Annotated[str | None, typer.Option(help="The model to compare with.")] = None,
    dimensions: Annotated[str | None, typer.Option("--dims", help="Dimensions, comma separated.")] = None,
    split: Annotated[str, typer.Option(help="Split of the judgements.")] = "test",
    precision: Annotated[
        Precision, typer.Option(help="Of encoding; auto is bfloat16 where the hardware has it.")
    ] = Precision.auto,
    task_word: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=TEXT", help="--tasks, --mteb: words for a set or a type, in gecko's format."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="--tasks: items of a set at most, a fixed sample.")] = None,
    samples_per_label: Annotated[
        int, typer.Option(min=1, help="--tasks: training texts of a label in a classification.")
    ] = 8,
    out: Annotated[
        Path | None, out_option("--mteb: folder of MTEB's own result files; default: mteb in the model's run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on human judgements: retrieval beside BM25 and hybrids, general tasks, or tasks of MTEB."""
    from gecko.embedder.embedder import Embedder
    from gecko.evaluate.evaluate import evaluate_models
    from gecko.evaluate.table import render_mteb, render_table, render_tasks
    from gecko.evaluate.tasks import TaskOptions, evaluate_tasks, open_sets

    _check(beir, tasks, mteb, mteb_data, out, task_word=task_word, limit=limit)
    widths = dims(dimensions)  # a mistake there is told before a model is loaded
    words = _words(task_word or ())
    sets = open_sets(tasks, TaskOptions(split, words, limit, samples_per_label)) if tasks else None
    chosen: list[Any] = []
    if mteb:
        from gecko.evaluate.mteb.chosen import open_mteb
        from gecko.evaluate.mteb.run import evaluate_mteb

        chosen = open_mteb(mteb, mteb_data, split=split, words=words)
    models = Embedder(model, bf16=precision.bf16), Embedder(base, bf16=precision.bf16) if base else None
    if models[1] is not None:
        tell_prompts({"base": models[1].asked, "tuned": models[0].asked})
    report: dict[str, Any] = {"model": model, "base": base, "results": [], "mean": {}}
    text = []
    if sets is not None:
        report = evaluate_tasks(*models, sets, dims=widths)
        text.append(render_tasks(report))
    elif beir:
        report = evaluate_models(*models, beir, dims=widths, split=split)
        text.append(render_table(report))
    if chosen:
        report["mteb"] = evaluate_mteb(*models, chosen, out or _home(model), dims=widths)
        text.append(render_mteb(report["mteb"]))
    answer(as_json, report, "\n\n".join(text))


def _check(
    beir: Sequence[Path] | None,
    tasks: Sequence[Path] | None,
    mteb: Sequence[str] | None,
    mteb_data: Path | None,
    out: Path | None,
    *,
    task_word: Sequence[str] | None,
    limit: int | None,
) -> None:
    """Refuse options that contradict each other, or that nothing would read.

    Raises:
        UsageError: They do.
    """
    if (beir and tasks) or not (beir or tasks or mteb):
        raise UsageError(
            "give either --beir or --tasks, or --mteb",
            "--mteb may also stand beside one of them; for example --tasks data/stsb",
        )
    if limit and not tasks:
        raise UsageError("--limit is of --tasks", "leave it out, or name the folder as --tasks")
    if task_word and not (tasks or mteb):
        raise UsageError("--task-word is of --tasks and --mteb", "leave it out, or name the folder as --tasks")
    if task_word and tasks and mteb:
        raise UsageError("--task-word with both --tasks and --mteb: whose is it?", "run the two one after the other")
    if (mteb_data or out) and not mteb:
        raise UsageError("--mteb-data and --out are of --mteb", "name a task, such as --mteb STS13")


def _home(model: str) -> Path:
    """Where MTEB's files go by default: into the run that made the model, else runs/mteb."""
    run = Path(model).parent
    return run / "mteb" if Path(model).is_dir() and (run / "recipe.yaml").is_file() else Path("runs/mteb")


def _words(pairs: Sequence[str]) -> dict[str, str]:
    words = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--task-word {pair}: expected NAME=TEXT", "for example --task-word 'nli=fact checking'")
        words[name.strip()] = " ".join(text.split())
    return words

"""The command line: one function a verb, no logic (design: command line).

Human text goes to stderr; with ``--json`` one object goes to stdout. Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from gecko.errors import UsageError
from gecko.shell import AsJson, Index, index_argument, index_option
from gecko.shell import answer as _answer
from gecko.shell import out_option as _out
from gecko.shell import say as _say
from gecko.shell import teacher_settings as _teacher_settings
from gecko.shell import verb as _verb
from gecko.verbs import compare, evaluate, export, jobs, judge, serve, themes

app = typer.Typer(
    name="gecko",
    help="Turn a pile of unlabelled text and any language model into your own compact embedding model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


Settings = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=value", help="Change one key of the recipe.")]
BaseUrl = Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server, with its /v1.")]
MaxUsd = Annotated[
    float | None, typer.Option(help="Stop before the teacher's calls cost more than this, in US dollars.")
]
MaxTokens = Annotated[int | None, typer.Option(help="Stop before they use more tokens than this, in and out together.")]
Sources = Annotated[
    list[str] | None,
    typer.Option("--corpus", help="File, folder, glob, BEIR folder, URL (s3://bucket/docs) or stdlib:."),
]


@app.callback()
def main() -> None:
    """Gecko: your own compact text-embedding model, distilled from a language model (arXiv:2403.20327)."""


@app.command(epilog="Example: gecko demo --out runs/demo")
@_verb
def demo(
    out: Annotated[Path, _out("Run directory.")] = Path("runs/demo"),
    teacher: Annotated[str, typer.Option(help="Teacher: the replies that ship with the project, or offline.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the draws and the training.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline on the Python documentation of this interpreter: no download, about eight minutes."""
    from gecko.demo import run_demo

    summary, text = run_demo(out, teacher, _say, seed=seed)
    _answer(as_json, summary, text)


@app.command(epilog="Example: gecko run recipes/domain.yaml --corpus docs/ --set teacher.spec=offline --out runs/docs")
@_verb
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    out: Annotated[Path, _out("Run directory; the same one resumes.")] = Path("runs/run"),
    settings: Settings = None,
    corpus: Sources = None,
    base_url: BaseUrl = None,
    max_usd: MaxUsd = None,
    max_tokens: MaxTokens = None,
    engine: Annotated[
        str,
        typer.Option(metavar="local|ray", help="What runs the stages; the rows are the same, and a run may change it."),
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="Ray cluster to join, such as auto or HOST:6379; default: a Ray of its own.")
    ] = None,
    ray_gpus: Annotated[
        float, typer.Option(min=0, help="GPUs that each Ray worker with a model asks for, where there are any.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Run all stages of a recipe, or go on where an earlier run stopped."""
    from gecko.engine.open import open_engine
    from gecko.evaluate.table import render_evaluation
    from gecko.recipe import load_recipe
    from gecko.run import run_recipe

    changes = [*(settings or ()), *_teacher_settings(base_url, max_usd, max_tokens)]
    values = load_recipe(recipe, changes, corpus or ())
    with closing(open_engine(engine, address=ray_address, gpus=ray_gpus, tell=_say)) as opened:
        summary = run_recipe(values, out, tell=_say, engine=opened)
    table = render_evaluation(summary.evaluation)
    _answer(as_json, summary.to_json(), f"{table}\nmodel   {summary.model}\nreport  {summary.report}")


@app.command(epilog="Example: gecko train recipes/gecko.yaml --stage prefinetune --corpus docs/ --out runs/docs")
@_verb
def train(
    stage: Annotated[str, typer.Option(metavar="prefinetune|finetune", help="Which training.")],
    recipe: Annotated[Path | None, typer.Argument(help="Recipe file; with --rows it may be left out.")] = None,
    rows: Annotated[
        Path | None, typer.Option(help="Train on these unified rows: a .parquet or .jsonl file, or a folder of such.")
    ] = None,
    out: Annotated[
        Path | None, _out("Run directory (default: runs/run), or with --rows a folder for the model (runs/train).")
    ] = None,
    settings: Settings = None,
    corpus: Sources = None,
    base_url: BaseUrl = None,
    max_usd: MaxUsd = None,
    max_tokens: MaxTokens = None,
    as_json: AsJson = False,
) -> None:
    """Train alone: a stage of a run with all it needs, or on rows of your own. The same command again resumes."""
    from gecko.recipe import load_recipe
    from gecko.training import TRAININGS, train_rows, train_stage

    if stage not in TRAININGS:
        raise UsageError(f"--stage {stage}: there is no such training", f"it is {' or '.join(TRAININGS)}")
    if recipe is None and rows is None:
        raise UsageError("there is nothing to train on", "name a recipe, or rows with --rows")
    if corpus and rows is not None:
        raise UsageError("--corpus is not read with --rows", "leave one of them out")
    changes = [*(settings or ()), *_teacher_settings(base_url, max_usd, max_tokens)]
    values = load_recipe(recipe, changes, corpus or ())
    if rows is None:
        summary = train_stage(values, out or Path("runs/run"), TRAININGS[stage], tell=_say)
    else:
        summary = train_rows(rows, values, out or Path("runs/train"), TRAININGS[stage], tell=_say)
    _answer(as_json, summary.to_json(), f"{summary.rows:,} rows, {summary.steps:,} steps\nmodel   {summary.model}")


@app.command(epilog="Example: gecko plan recipes/domain.yaml --corpus docs/ --set teacher.spec=openai:gpt-5-nano")
@_verb
def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    out: Annotated[Path | None, _out("Run directory whose passages and ledger are used; default: none.")] = None,
    settings: Settings = None,
    corpus: Sources = None,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run will ask of its teacher, and its price, without asking it anything."""
    from gecko.plan import plan_run, render_plan
    from gecko.recipe import load_recipe

    values = load_recipe(recipe, [*(settings or ()), *_teacher_settings(base_url)], corpus or ())
    if out is not None:
        value = plan_run(values, out, tell=_say)
    else:
        with tempfile.TemporaryDirectory(prefix="gecko-plan-") as folder:
            value = plan_run(values, Path(folder), tell=_say)
    _answer(as_json, value, render_plan(value))


@app.command(epilog="Example: gecko distill --corpus passages/ --teacher openai:gpt-5-nano --out fret/ --max-usd 5")
@_verb
def distill(
    corpus: Annotated[Path, typer.Option(help="Directory of passages, as gecko corpus or a run makes it.")],
    teacher: Annotated[str, typer.Option(help="SPEC of the teacher, such as offline or openai:MODEL.")],
    out: Annotated[Path, _out("Directory for the FRet rows; the same one resumes.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Seed passages to write queries for.")] = None,
    base_url: BaseUrl = None,
    max_usd: MaxUsd = None,
    max_tokens: MaxTokens = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Make FRet rows of passages: a teacher writes queries, ranks their neighbours, and picks positive and negative."""
    from gecko.distill import distill as distill_passages
    from gecko.recipe import load_recipe

    changes = [
        *(settings or ()),
        f"teacher.spec={json.dumps(teacher)}",
        *_teacher_settings(base_url, max_usd, max_tokens),
    ]
    if limit is not None:
        changes.append(f"fret.limit={limit}")
    value = distill_passages(corpus, load_recipe(None, changes), out, tell=_say)
    _answer(as_json, value, f"{value['rows']:,} FRet rows in {out}, {value['relabelled']:,} of them relabelled")


teacher_app = typer.Typer(help="Find out what a teacher can do.", no_args_is_help=True)
app.add_typer(teacher_app, name="teacher")


@teacher_app.command(
    "check",
    epilog="Example: gecko teacher check openai:qwen3-8b --base-url http://localhost:8000/v1 --beir data/scifact",
)
@_verb
def teacher_check(
    spec: Annotated[str, typer.Argument(help="SPEC of the teacher.")],
    beir: Annotated[
        Path | None, typer.Option(help="BEIR folder: also measure its rankings on a labelled sample.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the judgements; default: train, where there is one, else test.")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="Labelled queries to rank for; default: 200 with a language model, else 1,000."),
    ] = None,
    base_url: BaseUrl = None,
    out: Annotated[Path, _out("Folder of the ledger: what was asked once is not asked again.")] = Path(
        "runs/teacher-check"
    ),
    max_usd: MaxUsd = None,
    max_tokens: MaxTokens = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Find out by asking what a teacher can do, how fast it is, and, with --beir, how well it ranks."""
    from gecko.recipe import load_recipe
    from gecko.teacher_check import check_teacher, render_check

    changes = [*(settings or ()), *_teacher_settings(base_url, max_usd, max_tokens), f"teacher.spec={json.dumps(spec)}"]
    value = check_teacher(load_recipe(None, changes), out, beir, split=split, sample=sample, tell=_say)
    _answer(as_json, value, render_check(value))


ledger_app = typer.Typer(help="Look into the record of a run's teacher calls.", no_args_is_help=True)
app.add_typer(ledger_app, name="ledger")
LedgerPlace = Annotated[Path, typer.Argument(help="A run, a distilled folder or a ledger file.")]
Kind = Annotated[
    str, typer.Option(help="Only calls of this kind: write, likelihood, labels, listwise, grade, rank, probe.")
]


@ledger_app.command("stats", epilog="Example: gecko ledger stats runs/docs")
@_verb
def ledger_stats(run: LedgerPlace, as_json: AsJson = False) -> None:
    """Count the calls, tokens and dollars by kind and model."""
    from gecko.teacher.ledger_view import open_ledger, render_totals

    with open_ledger(run) as ledger:
        value = {"total": ledger.stats(), "kinds": ledger.totals()}
    _answer(as_json, value, render_totals(value))


@ledger_app.command("show", epilog="Example: gecko ledger show runs/docs --failed --last 5")
@_verb
def ledger_show(
    run: LedgerPlace,
    kind: Kind = "",
    failed: Annotated[bool, typer.Option("--failed", help="Only calls that failed.")] = False,
    last: Annotated[int, typer.Option(min=1, help="How many, the newest.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show the newest calls with what was asked and answered."""
    from gecko.teacher.ledger_view import open_ledger, render_calls

    with open_ledger(run) as ledger:
        calls = list(ledger.calls(kind=kind, failed=failed or None, last=last))
    _answer(as_json, {"calls": calls}, render_calls(calls))


@ledger_app.command("export", epilog="Example: gecko ledger export runs/docs --out calls.jsonl")
@_verb
def ledger_export(
    run: LedgerPlace,
    out: Annotated[Path, _out("JSON Lines file.", "FILE")],
    kind: Kind = "",
    as_json: AsJson = False,
) -> None:
    """Write every call, its prompt whole, as JSON Lines."""
    from gecko.teacher.ledger_view import export_calls, open_ledger

    with open_ledger(run) as ledger:
        count = export_calls(ledger, out, kind=kind)
    _answer(as_json, {"calls": count, "out": str(out)}, f"{count:,} calls in {out}")


@app.command(epilog="Example: gecko corpus handbook/ notes.md --out passages/")
@_verb
def corpus(
    sources: Annotated[
        list[str], typer.Argument(help="Files, folders, globs, BEIR folders, URLs (s3://bucket/docs) or stdlib:.")
    ],
    out: Annotated[Path, _out("Directory for the passages.")],
    max_tokens: Annotated[int, typer.Option(help="Longest passage.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Read text into passages: chunked by structure, without duplicates, bad input in quarantine."""
    from gecko.checks import keep_apart
    from gecko.corpus.build import build_passages
    from gecko.recipe import load_recipe
    from gecko.records import PASSAGES
    from gecko.shards import claim_folder, fingerprint, finish_stage, locked, write_stage

    options = load_recipe(None, [f"corpus.max_tokens={max_tokens}"], sources).corpus
    keep_apart(out, options.sources)
    claim_folder(out, PASSAGES)
    with locked(out):
        rows = write_stage(out, build_passages(options), PASSAGES)
        finish_stage(out, fingerprint("passages", options.model_dump()), rows=rows)
    _answer(as_json, {"passages": rows, "out": str(out)}, f"{rows:,} passages in {out}")


app.command(epilog=evaluate.EXAMPLE)(evaluate.evaluate)


@app.command(epilog="Example: gecko audit runs/docs --against data/scifact --against data/stsb")
@_verb
def audit(
    rows: Annotated[
        Path, typer.Argument(help="A run, or unified rows: a .parquet or .jsonl file, or a folder of such.")
    ],
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Evaluation set, as --beir or --tasks take it; repeat. Default: those of the run's recipe."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the sets; default: the run's, or test.")] = None,
    cosine: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Also by vectors of the questions, from this cosine, such as 0.95."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Makes those vectors; default: the run's miner.")] = None,
    out: Annotated[Path | None, _out("JSON Lines file for every leak with its texts.", "FILE")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Find training rows that ask what an evaluation set asks, and count those that share a document with it."""
    from gecko.auditing import audit_place
    from gecko.recipe import load_recipe
    from gecko.report.leakage import render_audit

    changes = [*(settings or ()), *([] if cosine is None else [f"audit.cosine={cosine}"])]
    options = load_recipe(None, changes).audit
    value = audit_place(rows, against or (), options, split=split, model=model, out=out, tell=_say)
    _answer(as_json, value, render_audit(value))


app.command(epilog=compare.EXAMPLE)(compare.compare)
app.command(epilog=judge.EXAMPLE)(judge.judge)
app.command(epilog=export.EXPORT_EXAMPLE)(export.export)
app.command(epilog=export.VERIFY_EXAMPLE)(export.verify)
app.command(epilog=export.PUSH_EXAMPLE)(export.push)
app.command(epilog=serve.EXAMPLE)(serve.serve)
app.command(epilog=themes.EXAMPLE)(themes.themes)
for _job, _example in jobs.VERBS:
    app.command(epilog=_example)(_job)


@app.command(epilog="Example: gecko index runs/docs/model --corpus runs/docs/passages --out index/")
@_verb
def index(
    model: Annotated[str, typer.Argument(help="Path, Hub id or all-MiniLM-L6-v2.")],
    corpus: Annotated[Path, typer.Option(help="Directory of passages, as gecko corpus or a run makes it.")],
    out: Annotated[
        Index, index_option("Directory or URL (s3://bucket/index) of the index; only new passages are encoded.")
    ],
    as_json: AsJson = False,
) -> None:
    """Index passages for dense, full-text and hybrid search."""
    from gecko.embedder.embedder import Embedder
    from gecko.serve.index import build_index
    from gecko.shards import read_rows, to_passage

    added = build_index(Embedder(model), read_rows(corpus, to_passage), out)
    _answer(as_json, {"index": str(out), "added": added}, f"{added:,} passages indexed in {out}")


@app.command(epilog="Example: gecko soup runs/a/model runs/b/model --out soup/")
@_verb
def soup(
    models: Annotated[list[str], typer.Argument(help="Two models or more: paths, Hub ids or all-MiniLM-L6-v2.")],
    out: Annotated[Path, _out("Directory of the merged model.")],
    weights: Annotated[str | None, typer.Option(help="A weight of each, comma separated; default: all alike.")] = None,
    method: Annotated[str, typer.Option(help="mean or slerp.")] = "mean",
    as_json: AsJson = False,
) -> None:
    """Merge the weights of models of one architecture, tokenizer and prompts into one model."""
    from gecko.train.soup import make_soup

    value = make_soup(models, out, weights=_numbers("--weights", weights), method=_method(method))
    _answer(as_json, value, f"the {method} of {len(models)} models in {out}")


@app.command(epilog='Example: gecko search index/ "how do I rotate the keys"')
@_verb
def search(
    index: Annotated[Index, index_argument("Directory of the index, or its URL (s3://bucket/index).")],
    query: Annotated[str, typer.Argument(help="What you look for.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many results.")] = 5,
    mode: Annotated[str, typer.Option(help="dense, text or hybrid.")] = "dense",
    task: Annotated[str | None, typer.Option(help="Task description put before the query.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE", help="Only passages with that source, lang, source_id or title; A* begins so."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search an index."""
    from gecko.corpus.decode import clean
    from gecko.serve.hits import show_hits
    from gecko.serve.search import search_index

    hits = search_index(index, query, k=k, mode=mode, task=task, where=_fields(where or ()))
    value = {"query": clean(query), "hits": [{f: getattr(hit, f) for f in hit.__dataclass_fields__} for hit in hits]}
    _answer(as_json, value, show_hits(hits))


@app.command(epilog="Example: gecko report runs/docs --out report.html")
@_verb
def report(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    out: Annotated[Path | None, _out("HTML file; default: report.html in the run.", "FILE")] = None,
    draw_map: Annotated[
        bool, typer.Option("--map", help="First draw the map of texts before and after, if the run has none.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's report: one HTML file that needs nothing else."""
    from gecko.report.embedding_map import write_map
    from gecko.report.report import write_report

    if draw_map:
        write_map(run)
    path = write_report(run, out or run / "report.html")
    _answer(as_json, {"report": str(path)}, f"report  {path}")


def _fields(conditions: Sequence[str]) -> dict[str, list[str]]:
    """Read ``--where``: the values of a field are alternatives, the fields all hold."""
    where: dict[str, list[str]] = {}
    for condition in conditions:
        field, equals, value = condition.partition("=")
        if not equals:
            raise UsageError(f"--where {condition}: expected FIELD=VALUE", "for example --where lang=en")
        where.setdefault(field.strip(), []).append(value)
    return where


def _method(text: str) -> Any:  # noqa: ANN401
    if text not in {"mean", "slerp"}:
        raise UsageError(f"--method {text}: no such method", "mean or slerp")
    return text


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} {text}: expected numbers", f"for example {option} 1,1") from error


if __name__ == "__main__":
    app()

"""The stages of a run, in order: what each reads, what it depends on, and what it writes.

A stage is a name, a mark (fingerprint of everything its output depends on) and a function that fills its folder. The
rooms do the work; this module only connects them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gecko import auditing, prefinetuning
from gecko.checks import beir_state, model_state, tasks_state, training_state
from gecko.context import RunContext, held_out_rows
from gecko.errors import GeckoError
from gecko.recipe import PREFINETUNED, Recipe
from gecko.records import FRET, PASSAGES, QUERIES, UNIFIED, FretRow, Quarantined, UnifiedRow
from gecko.shards import (
    fingerprint,
    read_rows,
    to_fret,
    to_query,
    to_unified,
    write_json,
    write_stage,
)

_WORTH_TELLING = 0.05  # share of queries in another language than expected; a few are the identifier's mistakes


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run.

    Attributes:
        name: Also its folder's.
        unit: What its rows are.
        mark: Fingerprint of everything its output depends on.
        execute: Fills its folder and returns facts.
        also: Files and folders of the run that it writes beside its own folder.
    """

    name: str
    unit: str
    mark: Callable[[RunContext], str]
    execute: Callable[[RunContext, Path], dict[str, Any]]
    also: tuple[str, ...] = ()


def _marked(name: str, own: Callable[[RunContext], object]) -> Callable[[RunContext], str]:
    """Fingerprint a stage by its own settings and the mark of everything before it that it reads."""

    def mark(context: RunContext) -> str:
        before = [context.marks.get(stage, "") for stage in _reads(name, context.recipe)]
        value = fingerprint(name, own(context), *before)
        context.marks[name] = value
        return value

    return mark


# Which earlier stages each stage may read.
_READS: dict[str, tuple[str, ...]] = {
    "passages": (),
    "queries": ("passages",),
    "pairs": ("passages", "queries"),
    "prefinetune": ("pairs",),
    "miner": ("passages", "prefinetune"),
    "fret": ("miner", "queries"),
    "mixture": ("fret",),
    "audit": ("mixture", "pairs"),
    "train": ("mixture", "prefinetune"),
    "gate": ("train", "mixture"),
    "evaluation": ("gate",),
}


def _reads(name: str, recipe: Recipe) -> list[str]:
    """List which earlier stages a stage reads under a recipe."""
    own = recipe.prefinetune
    unread = {
        ("pairs", "passages"): not (own.corpus or own.queries),
        ("pairs", "queries"): not own.queries,
        ("miner", "prefinetune"): recipe.fret.miner != PREFINETUNED,
        ("train", "prefinetune"): not own.active,
        ("audit", "pairs"): not own.active,
    }
    return [before for before in _READS[name] if not unread.get((name, before), False)]


def stages_for(recipe: Recipe, *wanted: str) -> tuple[Stage, ...]:
    """List stages in the order in which they are run: those named with all they read, or else the whole run.

    Pre-finetuning takes part only where the recipe names pairs, and the audit where it names evaluation sets; they come
    before what reads them and after what they read.
    """
    ordered: dict[str, Stage] = {}
    optional = {**dict.fromkeys(("pairs", "prefinetune"), recipe.prefinetune.active), "audit": recipe.audits}

    def add(name: str) -> None:
        for before in _reads(name, recipe):
            add(before)
        ordered.setdefault(name, _BY_NAME[name])

    for name in wanted or [stage.name for stage in STAGES]:
        if wanted or optional.get(name, True):
            add(name)
    return tuple(ordered.values())


def _source_state(context: RunContext) -> list[object]:
    """Names, sizes and times of the input files: cheap, and changed whenever the input is."""
    from gecko.corpus.read import source_state

    return [context.recipe.corpus.model_dump(), source_state(context.recipe.corpus.sources)]


def _passages(context: RunContext, folder: Path) -> dict[str, Any]:
    from gecko.corpus.build import build_passages

    return {"rows": write_stage(folder, build_passages(context.recipe.corpus, context.engine), PASSAGES)}


def _miner(context: RunContext, folder: Path) -> dict[str, Any]:
    from gecko.fret.store import PassageTable
    from gecko.miner.vectors import encode_corpus

    table = PassageTable(context.folder("passages"))
    model = fingerprint(context.miner.fingerprint, _miner_mark(context))
    encoded = encode_corpus(table, context.miner, folder, model=model, tell=context.tell, engine=context.engine)
    return {"rows": len(table), "dim": context.miner.dim, "made": encoded.made, "kept": encoded.kept}


def _queries(context: RunContext, folder: Path) -> dict[str, Any]:
    from gecko.fret.generate import generate, sample_seeds
    from gecko.fret.languages import LanguageCount

    available = context.writer.seeds_available()
    context.prepare_teachers()
    seeds = sample_seeds(context.passages, context.recipe.fret.limit, available, context.recipe.seed)
    before, counted = context.writer.calls_made, LanguageCount()
    rows = write_stage(folder, generate(seeds, context.writer, counted), QUERIES)
    if rows == 0:
        raise GeckoError("the teacher wrote no query", f"see the reasons in {folder / 'quarantine.parquet'}")
    if context.tell and counted.unwished >= _WORTH_TELLING * rows:
        context.tell(f"{counted.unwished:,} of {rows:,} queries came in another language than expected; they are kept")
    facts = {"rows": rows, "seeds": len(seeds), "calls_made": context.writer.calls_made - before}
    return {**facts, **counted.facts(), "other_language": counted.unwished}


def _fret(context: RunContext, folder: Path) -> dict[str, Any]:
    from gecko.fret.languages import LanguageCount
    from gecko.fret.select import select_rows
    from gecko.miner.search import open_search

    before, counted = context.ranker.calls_made, LanguageCount()
    context.prepare_teachers()
    queries = list(read_rows(context.folder("queries"), to_query))
    vectors, mark, options = context.corpus.vectors, context.marks["miner"], context.recipe.fret
    search = open_search(options.search, vectors, context.folder("miner") / ".index", mark, context.tell)
    selected = select_rows(queries, context.corpus, context.miner, context.ranker, options, search, context.engine)
    rows = write_stage(folder, counted.rows(selected, context.corpus), FRET)
    if rows == 0:
        raise GeckoError("no query has a usable positive", f"see the reasons in {folder / 'quarantine.parquet'}")
    return {"rows": rows, "calls_made": context.ranker.calls_made - before, **counted.facts(), **search.facts()}


def _training_rows(context: RunContext) -> Iterator[FretRow | Quarantined]:
    """All rows but the held-out ones, and but those that would teach a passage which a held-out query asks for."""
    held_out = _dev_rows(context)
    rows = {row.row_id for row in held_out}
    asked_for = {passage_id for row in held_out for passage_id in (row.seed_id, row.positive_id)}
    for row in read_rows(context.folder("fret"), to_fret):
        if row.row_id in rows:
            continue
        if row.seed_id in asked_for or row.positive_id in asked_for:
            yield Quarantined("mixture", row.row_id, "its seed or positive belongs to a held-out query", row.query)
        else:
            yield row


def _dev_rows(context: RunContext) -> list[FretRow]:
    """The held-out rows, but those whose positive pre-finetuning taught another query of."""
    taught = _taught(context)
    rows = (row for row in read_rows(context.folder("fret"), to_fret) if row.positive_id not in taught)
    return held_out_rows(rows, context.recipe.gate.dev_share, context.recipe.gate.max_dev)


def _taught(context: RunContext) -> set[str]:
    """The passages that pre-finetuning saw beside a query."""
    if not context.recipe.prefinetune.queries:
        return set()
    seeds = (query.seed_id for query in read_rows(context.folder("queries"), to_query))
    return {seed_id for seed_id in seeds if not context.is_held_out(seed_id)}


def _mixture(context: RunContext, folder: Path) -> dict[str, Any]:
    from gecko.mixture.load import load_mixture
    from gecko.mixture.rows import Carried, choose_fret, unify_fret

    recipe = context.recipe
    carried = Carried(*_carried(recipe))
    text_format = recipe.train.text_format
    accounts: list[dict[str, Any]] = []

    def unified() -> Iterator[UnifiedRow | Quarantined]:
        chosen = choose_fret(_training_rows(context), recipe.mixture, recipe.seed)
        yield from unify_fret(chosen, context.passages, text_format, carried)
        miner = context.miner if any(source.negatives == "mined" for source in recipe.mixture.sources) else None
        for loaded in load_mixture(recipe.mixture, text_format, recipe.seed, miner):
            accounts.append(loaded.account())
            yield from loaded.rows
            yield from loaded.quarantined

    rows = write_stage(folder, auditing.dropping(context, unified(), "mixture"), UNIFIED)
    if rows == 0:
        raise GeckoError("no row is left to train on", f"see the reasons in {folder / 'quarantine.parquet'}")
    return {"rows": rows, "sources": accounts}


def _train(context: RunContext, folder: Path) -> dict[str, Any]:
    from gecko.train.finetune import finetune

    rows: list[UnifiedRow] = list(read_rows(context.folder("mixture"), to_unified))
    history = finetune(
        rows,
        context.recipe.train,
        folder / "model",
        seed=context.recipe.seed,
        mixture=context.recipe.mixture,
        start=str(context.prefinetuned) if context.recipe.prefinetune.active else None,
        tell=context.tell,
    )
    write_json(folder / "history.json", history)
    return {"rows": history["rows"], "steps": history["steps"]}


def _gate(context: RunContext, folder: Path) -> dict[str, Any]:
    from gecko.train.gate import apply_gate

    verdict = apply_gate(
        _dev_rows(context), context.corpus, context.recipe, context.folder("train") / "model", context.model_path()
    )
    write_json(folder / "gate.json", verdict.to_json())
    return {"rows": verdict.dev_queries, "chosen": verdict.chosen, "alpha": verdict.alpha}


def _evaluation(context: RunContext, folder: Path) -> dict[str, Any]:
    from gecko.embedder.embedder import Embedder
    from gecko.evaluate.evaluate import evaluate_models
    from gecko.evaluate.tasks import TaskOptions, evaluate_tasks, open_sets
    from gecko.train.backbone import keeps_vectors

    options = context.recipe.evaluation
    report: dict[str, Any] = {}
    every: dict[str, list[dict[str, Any]]] = {}
    if options.beir or options.tasks:
        tuned, base = Embedder(str(context.model_path())), Embedder(context.recipe.base)
        report = {"model": tuned.path, "base": base.path, "results": [], "mean": {}, "queries": {}}
    if options.beir:
        same_as_miner = context.recipe.is_miner(context.recipe.base)
        same_student = context.recipe.is_miner(context.recipe.train.student) and keeps_vectors(context.recipe.train)
        kept_base = same_student and context.facts("gate").get("chosen") == "base"
        report = evaluate_models(
            context.knowing_corpus(tuned) if kept_base else tuned,
            context.knowing_corpus(base) if same_as_miner else base,
            [Path(path) for path in options.beir],
            dims=options.dims,
            split=options.split,
            keep=every.__setitem__,
        )
    write_json(folder / "queries.json", every)
    if options.tasks:
        sets = open_sets([Path(path) for path in options.tasks], TaskOptions(limit=options.tasks_limit))
        report["tasks"] = evaluate_tasks(tuned, base, sets, dims=options.dims)
    write_json(context.out / "evaluation.json", report)
    rows = [*report.get("results", ()), *report.get("tasks", {}).get("results", ())]
    return {"rows": sum({(row.get("task_type"), row["dataset"]): row["n"] for row in rows}.values())}


def _carried(recipe: Recipe) -> tuple[int, int, float]:
    """How many candidates a row must carry for what training reads, and how many relevant ones of which grade."""
    train = recipe.train
    extra = train.positives.extra
    return train.candidates.count if train.reads_scores else 0, extra, train.positives.min_rc if extra else 0.0


def _miner_mark(context: RunContext) -> list[object]:
    miner = context.recipe.fret.miner
    return [miner, [] if miner == PREFINETUNED else model_state(miner), 1]


def _fret_mark(context: RunContext) -> list[object]:
    fret = context.recipe.fret
    version = 4 if fret.miner_task else 3  # 4: a miner of the unified format gets the task in that format's place
    # Where it is the default, the search is no part of the mark, as before there was a choice.
    own = fret.model_dump(exclude={"search"} if fret.search == "auto" else None)
    return [context.ranker.fingerprint, own, version]


def _mixture_mark(context: RunContext) -> list[object]:
    from gecko.mixture.load import mixture_state

    recipe = context.recipe
    own: list[object] = [recipe.train.text_format, recipe.gate.dev_share, recipe.gate.max_dev, _carried(recipe)]
    own.append(4 if recipe.train.text_format == "gecko" else 3)  # 4: half of the FRet rows have their kind's label
    sources = [source.model_dump() for source in recipe.mixture.sources]
    taught = ["queries"] if recipe.prefinetune.queries else []  # which rows are held out depends on it
    mixture = recipe.mixture
    seed = recipe.seed if sources or mixture.fret_limit else None
    fret = [mixture.fret_kinds, mixture.fret_limit] if mixture.fret_kinds or mixture.fret_limit else []
    return [*own, sources, mixture_state(mixture), seed, *taught, *fret, *auditing.drop_mark(recipe)]


def _train_mark(context: RunContext) -> list[object]:
    recipe = context.recipe
    models, *texts = training_state(recipe.train)
    labelled = any(source.kind in {"classification", "clustering"} for source in recipe.mixture.sources)
    version = 4 if labelled else 3  # 4: long labelled texts keep their unique ID
    return [recipe.train.model_dump(), recipe.mixture.model_dump(), recipe.seed, models, version, *texts]


# The version at the end of a mark is raised when the stage's code changes what it writes.
STAGES: tuple[Stage, ...] = (
    Stage("passages", "passages", _marked("passages", lambda c: [_source_state(c), 2]), _passages),
    Stage("miner", "vectors", _marked("miner", _miner_mark), _miner),
    Stage(
        "queries",
        "queries",
        _marked(
            "queries", lambda c: [c.writer.fingerprint, c.recipe.fret.limit, c.recipe.fret.styles, c.recipe.seed, 3]
        ),
        _queries,
    ),
    Stage("pairs", "pairs", _marked("pairs", prefinetuning.pairs_mark), prefinetuning.pairs),
    Stage("prefinetune", "pairs", _marked("prefinetune", prefinetuning.prefinetune_mark), prefinetuning.prefinetune),
    Stage("fret", "FRet rows", _marked("fret", _fret_mark), _fret),
    Stage("mixture", "rows", _marked("mixture", _mixture_mark), _mixture),
    Stage("audit", "rows", _marked("audit", auditing.audit_mark), auditing.audit),
    Stage("train", "rows", _marked("train", _train_mark), _train),
    # The student's state is in the mark of train, which the gate reads.
    Stage("gate", "dev queries", _marked("gate", lambda c: [c.recipe.gate.model_dump(), 4]), _gate, ("model",)),
    Stage(
        "evaluation",
        "queries",
        _marked(
            "evaluation",
            lambda c: [
                c.recipe.evaluation.model_dump(),
                beir_state(c.recipe.evaluation.beir),
                tasks_state(c.recipe.evaluation.tasks),
                model_state(c.recipe.base),
                1,
            ],
        ),
        _evaluation,
        ("evaluation.json",),
    ),
)
_BY_NAME = {stage.name: stage for stage in STAGES}

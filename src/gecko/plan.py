"""What a run will ask of its teachers, and what that costs, before the first call (``gecko plan``).

Prompts are rendered for a sample of the run's own seed passages and their tokens are counted; no language model is
asked. A server that ``gecko teacher check`` found to lend its tokenizer counts them, for nothing. Replies' lengths and
the seconds a call takes come from the run's ledger where it has any, else from stated assumptions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gecko.context import RunContext
from gecko.corpus.files import HUB
from gecko.fret.generate import generate, sample_seeds
from gecko.fret.store import PassageTable
from gecko.mixture.options import QUERIES, TITLES
from gecko.recipe import Recipe
from gecko.records import GeneratedQuery, Passage
from gecko.run import run_stage
from gecko.shards import locked
from gecko.stages import STAGES, stages_for
from gecko.teacher.ask import Ask
from gecko.teacher.llm import LLMTeacher
from gecko.teacher.protocol import RankRequest

_SAMPLE = 200
_CHARACTERS_A_TOKEN = 4.0
_REPLY_TOKENS = {"write": 45, "likelihood": 1, "labels": 1, "listwise": 60, "grade": 100}
_SECONDS = {"write": 2.0, "likelihood": 0.5, "labels": 0.5}
_WRITTEN_SHARE = 0.97  # of the seeds; the rest is skipped or cannot be read
_SEEDS_FOUND = 5  # one seed in so many is not among its query's neighbours (0.8 to 0.9 are, on five corpora)
_TYPICAL_QUERY = "how do I keep what I typed when the page is closed"


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What one stage asks of its teacher; ``usd`` is None where the price is not known."""

    name: str
    teacher: str
    rung: str
    calls: int
    input_tokens: int
    output_tokens: int
    usd: float | None
    minutes: float


def plan_run(recipe: Recipe, out: Path, *, tell: Callable[[str], None]) -> dict[str, Any]:
    """Count the calls, tokens, dollars and minutes of a recipe's teacher stages, with no call to a teacher.

    Args:
        recipe: The run's.
        out: A folder for the passages, which must be cut to be counted: the run's own, where they are then found done.
        tell: Receives one line a step.

    Returns:
        ``{"stages": [StagePlan...], "total": {...}, "notes": [what was assumed]}``.

    Raises:
        GeckoError: Another process is working on the folder, or the recipe cannot be run.
    """
    notes: list[str] = []
    with locked(out), RunContext(recipe, out, tell=tell, asks=False) as context:
        context.check([stage.name for stage in stages_for(recipe)])
        run_stage(STAGES[0], context, tell)
        table = PassageTable(context.folder("passages"))
        seeds = sample_seeds(table, recipe.fret.limit, context.writer.seeds_available(), recipe.seed)
        written, queries = _plan_writing(context, table, seeds, notes)
        ranked = _plan_ranking(context, table, queries, len(seeds), notes)
        stages = [written, ranked]
        if recipe.prefinetune.active:
            stages.append(_plan_prefinetuning(context, table, len(seeds), notes))
    prices = [stage.usd for stage in stages if stage.usd is not None]
    total = {
        "calls": sum(stage.calls for stage in stages),
        "input_tokens": sum(stage.input_tokens for stage in stages),
        "output_tokens": sum(stage.output_tokens for stage in stages),
        "usd": sum(prices) if len(prices) == len(stages) else None,
        "minutes": sum(stage.minutes for stage in stages),
    }
    return {"stages": [asdict(stage) for stage in stages], "total": total, "notes": list(dict.fromkeys(notes))}


def render_plan(plan: dict[str, Any]) -> str:
    """The plan as a table for people."""
    lines = [f"{'stage':<12}{'calls':>10}{'input tok':>13}{'output tok':>12}{'usd':>10}{'minutes':>9}  teacher"]
    for row in [*plan["stages"], {**plan["total"], "name": "total", "teacher": "", "rung": ""}]:
        usd = "unknown" if row["usd"] is None else f"{row['usd']:.2f}"
        teacher = f"{row['teacher']} ({row['rung']})" if row["rung"] else row["teacher"]
        lines.append(
            f"{row['name']:<12}{row['calls']:>10,}{row['input_tokens']:>13,}{row['output_tokens']:>12,}"
            f"{usd:>10}{row['minutes']:>9.1f}  {teacher}"
        )
    return "\n".join([*lines, *(f"note: {note}" for note in plan["notes"])])


def _plan_writing(
    context: RunContext, table: PassageTable, seeds: Sequence[Passage], notes: list[str]
) -> tuple[StagePlan, list[GeneratedQuery]]:
    """Step 1, and queries like those it will write, for the plan of step 2."""
    writer, sample = context.writer, _sample(seeds)
    if not isinstance(writer, LLMTeacher):
        # This teacher costs nothing: its own queries are what step 2 will see.
        writer.prepare(table)
        queries = [row for row in generate(sample, writer) if isinstance(row, GeneratedQuery)]
        return StagePlan("queries", writer.name, "", 0, 0, 0, 0.0, 0.0), queries
    notes.append(f"a query is taken to be as long as {_TYPICAL_QUERY!r}, and {_WRITTEN_SHARE:.0%} of the seeds get one")
    queries = [GeneratedQuery(seed.passage_id, "", _TYPICAL_QUERY, seed.lang, "", "", 0, 0) for seed in sample]
    asks: list[list[tuple[str, Ask]]] = [[("write", writer.write_ask(seed))] for seed in sample]
    return _stage(context, writer, "queries", "", asks, len(seeds), notes), queries


def _plan_ranking(
    context: RunContext, table: PassageTable, queries: Sequence[GeneratedQuery], seeds: int, notes: list[str]
) -> StagePlan:
    """Step 2: every query with as many candidates as it will have, of the corpus's lengths."""
    ranker = context.ranker
    if not isinstance(ranker, LLMTeacher):
        return StagePlan("fret", ranker.name, "", 0, 0, 0, 0.0, 0.0)
    rung, guessed = ranker.likely_rung()
    if guessed:
        notes.append(
            f"{ranker.name} was not probed: the rung {rung} is assumed; to know, gecko teacher check and "
            "gecko plan with the same --out"
        )
    draw = random.Random(0)  # noqa: S311
    count = min(context.recipe.fret.neighbours, len(table) - 1)
    asks = []
    for number, query in enumerate(queries):
        # The miner finds most seeds among their query's neighbours; the others are put beside them.
        extra = number % _SEEDS_FOUND == 0
        drawn = [table.at(position) for position in draw.sample(range(len(table)), count - (not extra))]
        asks.append(ranker.ranking_asks(RankRequest(query, [*drawn, table.passage(query.seed_id)]), rung))
    if context.recipe.teacher.schedule != "full":
        notes.append("every score is counted: with teacher.schedule=thrifty about a third of these calls are made")
    notes.append("candidates are taken to be as long as the corpus's passages, and four of five seeds to be among them")
    rows = seeds if not isinstance(context.writer, LLMTeacher) else round(seeds * _WRITTEN_SHARE)
    share = len(queries) / max(min(seeds, _SAMPLE), 1)
    return _stage(context, ranker, "fret", rung, asks, round(rows * share), notes)


def _plan_prefinetuning(context: RunContext, table: PassageTable, seeds: int, notes: list[str]) -> StagePlan:
    """Pre-finetuning: it asks no teacher, so its pairs and steps are told in a note."""
    from gecko.mixture.load import load_mixture
    from gecko.mixture.own_pairs import title_pairs
    from gecko.mixture.sampler import plan_batches

    recipe, own = context.recipe, context.recipe.prefinetune
    text_format = recipe.train.text_format
    counts: dict[str, int] = {}
    if own.corpus:
        counts[TITLES] = len(title_pairs(table, own.corpus_task, text_format, repeats=own.title_repeats).rows)
    if own.queries:
        counts[QUERIES] = round(seeds * _WRITTEN_SHARE * (1 - recipe.gate.dev_share))
    here = [source for source in own.sources if not source.path.startswith(HUB)]
    for loaded in load_mixture(own.mixture.model_copy(update={"sources": here}), text_format, recipe.seed):
        counts[loaded.options.name] = len(loaded.rows)
    away = [source.name for source in own.sources if source.path.startswith(HUB)]
    rows = [name for name, count in counts.items() for _ in range(count)]
    said = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
    if rows:
        batch = own.batch_of(counts.values())
        steps = plan_batches(rows, batch, own.mixture, epochs=own.epochs, seed=recipe.seed).steps
        steps = min(steps, own.max_steps or steps)
        notes.append(
            f"prefinetune asks no teacher: {len(rows):,} pairs ({said}), {steps:,} steps of at most {batch:,}; "
            "its minutes are not estimated"
        )
    if away:
        notes.append(f"the Hub was not asked how many pairs there are of {', '.join(away)}")
    return StagePlan("prefinetune", "", "", 0, 0, 0, 0.0, 0.0)


def _stage(
    context: RunContext,
    teacher: LLMTeacher,
    name: str,
    rung: str,
    asks: Sequence[Sequence[tuple[str, Ask]]],
    rows: int,
    notes: list[str],
) -> StagePlan:
    """Scale the sample's asks, one list a row, to all rows."""
    scale = rows / max(len(asks), 1)
    past = {total["kind"]: total for total in context.ledger.totals() if total["model"] == teacher.name}
    past.pop("probe", None)
    thoughts = teacher.thoughts()
    inputs = outputs = seconds = 0.0
    calls = 0
    for purpose, ask in (pair for row in asks for pair in row):
        known = past.get(purpose)
        inputs += teacher.count_tokens(ask, _CHARACTERS_A_TOKEN)
        first = thoughts or 0 if ask.kind == "write" else 0
        reply = _REPLY_TOKENS[purpose] + first if known is None else known["output_tokens"] / max(known["calls"], 1)
        outputs += reply
        seconds += _SECONDS[ask.kind] if known is None else known["seconds"] / max(known["calls"], 1)
        calls += 1
    if not teacher.counts_tokens():
        notes.append(f"{teacher.name} cannot count tokens: {_CHARACTERS_A_TOKEN:g} characters are taken for one")
    if not past:
        notes.append(f"{teacher.name} has no call in this run's ledger: reply lengths and seconds a call are assumed")
    if thoughts is None and not past:
        notes.append(f"whether {teacher.name} thinks first, which is paid for, is not known; gecko teacher check tells")
    usd = teacher.price(round(inputs * scale), round(outputs * scale))
    if usd is None:
        notes.append(
            f"the price of {teacher.name} is not known: --set 'teacher.price={{input: X, output: Y}}' gives it"
        )
    return StagePlan(
        name=name,
        teacher=teacher.name,
        rung=rung,
        calls=round(calls * scale),
        input_tokens=round(inputs * scale),
        output_tokens=round(outputs * scale),
        usd=usd,
        minutes=round(seconds * scale / teacher.in_flight / 60, 2),
    )


def _sample(rows: Sequence[Any]) -> list[Any]:
    """At most ``_SAMPLE`` of the rows, spread over them."""
    if len(rows) <= _SAMPLE:
        return list(rows)
    return [rows[index * len(rows) // _SAMPLE] for index in range(_SAMPLE)]

"""The stages of pre-finetuning: ``pairs`` gathers what belongs together, ``prefinetune`` trains the student on it.

They stand apart from the other stages because a run has them only where its recipe names pairs. What they make is where
fine-tuning starts from, and the miner where ``fret.miner`` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gecko import auditing
from gecko.checks import model_state
from gecko.context import RunContext
from gecko.errors import GeckoError
from gecko.records import UNIFIED, Quarantined, UnifiedRow
from gecko.shards import read_rows, to_query, to_unified, write_json, write_stage

if TYPE_CHECKING:
    from gecko.mixture.load import LoadedSource


def pairs(context: RunContext, folder: Path) -> dict[str, Any]:
    """Gather the pairs: the run's own, then those of the recipe's sources.

    Raises:
        GeckoError: A source is not there or gives no row, or there are less than two pairs in all.
    """
    loaded: list[LoadedSource] = []

    def unified() -> Iterator[UnifiedRow | Quarantined]:
        for made in gather(context):
            loaded.append(made)
            if not made.rows and context.tell is not None:
                context.tell(f"no pair of {made.options.name}: {made.why_none()}")
            yield from made.rows
            yield from (replace(row, stage="pairs") for row in made.quarantined)

    rows = write_stage(folder, auditing.dropping(context, unified(), "pairs"), UNIFIED)
    if rows < 2:
        why = "; ".join(f"{made.options.name}: {made.why_none()}" for made in loaded)
        raise GeckoError(f"pairs to pre-finetune on: {rows}; {why}", "name other sources under prefinetune, or none")
    return {"rows": rows, "sources": [made.account() for made in loaded]}


def gather(context: RunContext) -> Iterator[LoadedSource]:
    """Load the sources of pairs one after the other, each with the account of its records."""
    from gecko.mixture.load import load_mixture
    from gecko.mixture.own_pairs import query_pairs, title_pairs

    own, text_format = context.recipe.prefinetune, context.recipe.train.text_format
    if own.corpus:
        yield title_pairs(context.passages, own.corpus_task, text_format, repeats=own.title_repeats)
    if own.queries:
        queries = read_rows(context.folder("queries"), to_query)
        yield query_pairs(queries, context.passages, text_format, held_out=context.is_held_out)
    yield from load_mixture(own.mixture, text_format, context.recipe.seed)


def pairs_mark(context: RunContext) -> list[object]:
    """What the pairs depend on, beside the stages they are made from."""
    from gecko.mixture.load import mixture_state

    recipe, own = context.recipe, context.recipe.prefinetune
    titles = [own.corpus_task, own.title_repeats] if own.corpus else None
    held_out = recipe.gate.dev_share if own.queries else None
    sources = [source.model_dump() for source in own.sources]
    state = mixture_state(own.mixture)
    seed = recipe.seed if sources else None
    return [recipe.train.text_format, titles, held_out, sources, state, seed, 1, *auditing.drop_mark(recipe)]


def prefinetune(context: RunContext, folder: Path) -> dict[str, Any]:
    """Train the student on the pairs.

    Raises:
        GeckoError: The disk or the memory is full, or the training diverged.
    """
    from gecko.train import prefinetune as training

    recipe = context.recipe
    rows: list[UnifiedRow] = list(read_rows(context.folder("pairs"), to_unified))
    history = training.prefinetune(
        rows, recipe.prefinetune, recipe.train, context.prefinetuned, seed=recipe.seed, tell=context.tell
    )
    write_json(folder / "history.json", history)
    return {"rows": history["rows"], "steps": history["steps"]}


def prefinetune_mark(context: RunContext) -> list[object]:
    """What the pre-finetuned student depends on, beside the pairs."""
    recipe = context.recipe
    settings = recipe.prefinetune.training(recipe.train).model_dump()
    return [settings, recipe.prefinetune.single_source, recipe.seed, model_state(recipe.train.student), 1]

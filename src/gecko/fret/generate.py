"""FRet step 1: the teacher reads seed passages and writes a task and a query for each (paper, section 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from gecko.errors import GeckoError
from gecko.fret.languages import LanguageCount
from gecko.fret.store import PassageTable
from gecko.keys import digests
from gecko.records import GeneratedQuery, Passage, Quarantined
from gecko.teacher.protocol import AsksMany, Teacher

logger = logging.getLogger(__name__)

_BATCH = 64


def sample_seeds(table: PassageTable, limit: int, available: set[str] | None, seed: int) -> list[Passage]:
    """Draw the seed passages uniformly, without replacement, in corpus order.

    Each passage draws a number of its own, a hash of its id, and the least ones are taken: when a corpus grows by a
    hundredth, a hundredth of the seeds is other ones, and the teacher has written for the rest already.

    Args:
        table: The corpus.
        limit: How many to draw at most.
        available: Source ids that the teacher can answer for; None means all.
        seed: Seed of the draw.

    Raises:
        GeckoError: The teacher can answer for no passage of this corpus.
    """
    if available is None:
        positions: Sequence[int] = range(len(table))
    else:
        found = (table.position_of_source(source_id) for source_id in sorted(available))
        positions = sorted(position for position in found if position is not None)
        unknown = len(available) - len(positions)
        if not positions:
            raise GeckoError(
                "the recorded replies belong to another corpus: none of their ids is a passage here",
                "record replies for this corpus, or use --set teacher.spec=offline",
            )
        if unknown:
            logger.warning(
                "%d of %d recorded replies are for passages of this corpus; %d left out",
                len(positions),
                len(available),
                unknown,
            )
    if limit < len(positions):
        ids = table.ids if available is None else (table.ids[position] for position in positions)
        numbers = digests(f"{seed} {passage_id}" for passage_id in ids)[:, 0]
        positions = [positions[int(place)] for place in np.sort(np.argsort(numbers, kind="stable")[:limit])]
    return [table.at(position) for position in positions]


def generate(
    seeds: Sequence[Passage], teacher: Teacher, counted: LanguageCount | None = None
) -> Iterator[GeneratedQuery | Quarantined]:
    """Ask the teacher for a task and a query for every seed.

    Args:
        seeds: The seed passages.
        teacher: Writes.
        counted: Counts the languages of the queries.

    Yields:
        A query, or a quarantined seed with the teacher's reason and raw reply; one for each seed, in order.

    Raises:
        GeckoError: After the last one, where seeds were not answered for (an outage): the stage is not finished.
    """
    if isinstance(teacher, AsksMany):
        teacher.begin("queries", len(seeds))
    unasked = 0
    counted = counted or LanguageCount()
    size = teacher.rows_at_once if isinstance(teacher, AsksMany) else _BATCH
    for start in range(0, len(seeds), size):
        batch = seeds[start : start + size]
        for passage, reply in zip(batch, teacher.write(batch), strict=True):
            unasked += reply.transient
            if reply.error:
                yield Quarantined("generate", passage.passage_id, reply.error, reply.raw)
                continue
            if reply.skip is not None or not reply.query.strip() or not reply.task.strip():
                reason = reply.skip if reply.skip is not None else "the reply has no task or no query"
                yield Quarantined("generate", passage.passage_id, f"skipped by the teacher: {reason}", reply.raw)
                continue
            query = " ".join(reply.query.split())
            yield GeneratedQuery(
                seed_id=passage.passage_id,
                task=" ".join(reply.task.split()),
                query=query,
                lang=counted.query(query, passage, reply.language),
                teacher=teacher.name,
                prompt_version=teacher.prompt_version,
                input_tokens=reply.input_tokens,
                output_tokens=reply.output_tokens,
            )
    if unasked:
        raise not_asked(unasked, len(seeds), "seeds")


def not_asked(failed: int, total: int, rows: str) -> GeckoError:
    """The error that ends a step whose teacher did not answer for some of its rows."""
    return GeckoError(
        f"the teacher did not answer for {failed:,} of {total:,} {rows}",
        "what was answered is kept: run the same command again to ask for the rest; what then fails again is set aside",
    )

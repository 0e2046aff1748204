"""FRet rows and other sources made into unified rows, the one format that training reads (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from gecko.mixture.format import TextFormat, render_passage
from gecko.mixture.options import MixtureOptions
from gecko.mixture.tasks import task_kind
from gecko.records import Candidate, FretRow, Passage, Quarantined, ScoredText, UnifiedRow, content_id


class Passages(Protocol):
    """Anything that finds a passage by its id."""

    def passage(self, passage_id: str) -> Passage:
        """Fetch one passage."""
        ...


@dataclass(frozen=True, slots=True)
class Carried:
    """Which of a row's candidates go along with it as texts, beside its positive and its negative; default: none.

    Attributes:
        ranked: At most this many, best-ranked first.
        relevant: At most this many that are graded ``min_rc`` or more, best-ranked first.
        min_rc: The least grade of those.
    """

    ranked: int = 0
    relevant: int = 0
    min_rc: float = 0.0

    def of(self, row: FretRow) -> list[Candidate]:
        """Choose among a row's candidates; they keep their order, best-ranked first."""
        if not self.ranked and not self.relevant:
            return []
        others = [c for c in row.candidates if c.passage_id not in (row.positive_id, row.negative_id)]
        graded = [c for c in others if c.rc is not None and c.rc >= self.min_rc]
        chosen = {c.passage_id for c in (*others[: self.ranked], *graded[: self.relevant])}
        return [c for c in row.candidates if c.passage_id in chosen | {row.positive_id, row.negative_id}]


def choose_fret(
    rows: Iterable[FretRow | Quarantined], options: MixtureOptions, seed: int
) -> Iterator[FretRow | Quarantined]:
    """The FRet rows that a mixture trains on: those of its kinds of task, and of these at most ``fret_limit``.

    What was set aside before passes through. Rows keep their order, and a smaller limit takes some of what a larger
    one takes, so that runs of several sizes differ by what was added.

    Args:
        rows: The rows.
        options: ``fret_kinds`` and ``fret_limit``.
        seed: Of the sample.
    """
    wanted: list[FretRow] = []
    for row in rows:
        if isinstance(row, Quarantined):
            yield row
        elif not options.fret_kinds or task_kind(row.task) in options.fret_kinds:
            if options.fret_limit is None:
                yield row
            else:
                wanted.append(row)
    sample = sorted(range(len(wanted)), key=lambda place: content_id(str(seed), wanted[place].row_id))
    yield from (wanted[place] for place in sorted(sample[: options.fret_limit]))


def unify_fret(
    rows: Iterable[FretRow | Quarantined], passages: Passages, text_format: TextFormat, carried: Carried | None = None
) -> Iterator[UnifiedRow | Quarantined]:
    """Render FRet rows: the query as it is, the positive and hard negative as passages.

    Half of the rows, by a hash of their id, and all without a task have the short label of their task's kind as task,
    as a model is asked in use; the others keep the teacher's words. The plain format shows no task, so there all do.
    What was set aside before passes through.

    Args:
        rows: The rows.
        passages: The corpus.
        text_format: How texts are rendered.
        carried: Which candidates training reads beside positive and negative; None for none.
    """
    carried = carried or Carried()

    def rendered(passage_id: str) -> str:
        passage = passages.passage(passage_id)
        return render_passage(passage.title, passage.text, text_format)

    for row in rows:
        if isinstance(row, Quarantined):
            yield row
            continue
        yield UnifiedRow(
            row_id=row.row_id,
            task=row.task if text_format == "plain" else _trained_task(row),
            query=row.query,
            positive=rendered(row.positive_id),
            negatives=(rendered(row.negative_id),) if row.negative_id else (),
            symmetric=False,
            source="fret",
            candidates=tuple(ScoredText(rendered(c.passage_id), c.rc, c.rrf) for c in carried.of(row)),
        )


def _trained_task(row: FretRow) -> str:
    """The task string that a row is trained with: the short label of its kind, or the teacher's words."""
    labelled = int(content_id("task", row.row_id), 16) % 2 == 0
    return task_kind(row.task) if labelled or not row.task.strip() else row.task

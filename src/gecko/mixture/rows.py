"""FRet rows and other sources made into unified rows, the one format that training reads (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from gecko.mixture.format import TextFormat, render_passage
from gecko.records import FretRow, Passage, Quarantined, UnifiedRow


class Passages(Protocol):
    """Anything that finds a passage by its id."""

    def passage(self, passage_id: str) -> Passage:
        """Fetch one passage."""
        ...


def unify_fret(
    rows: Iterable[FretRow | Quarantined], passages: Passages, text_format: TextFormat
) -> Iterator[UnifiedRow | Quarantined]:
    """Render FRet rows: the task and query as they are, the positive and hard negative as passages.

    What was set aside before passes through.
    """

    def rendered(passage_id: str) -> str:
        passage = passages.passage(passage_id)
        return render_passage(passage.title, passage.text, text_format)

    for row in rows:
        if isinstance(row, Quarantined):
            yield row
            continue
        yield UnifiedRow(
            row_id=row.row_id,
            task=row.task,
            query=row.query,
            positive=rendered(row.positive_id),
            negatives=(rendered(row.negative_id),) if row.negative_id else (),
            symmetric=False,
            source="fret",
        )

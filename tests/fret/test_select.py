"""What a FRet row says of how it was ranked."""

from __future__ import annotations

from gecko.fret.retrieve import Neighbourhood
from gecko.fret.select import _row
from gecko.recipe import FretOptions
from gecko.records import FretRow, GeneratedQuery, Quarantined
from gecko.teacher.protocol import Scores

HOOD = Neighbourhood(
    GeneratedQuery("a", "a task", "a query", "en", "the writer", "v1", 1, 2), ("a", "b", "c"), (0.9, 0.8, 0.7)
)


def test_a_row_names_its_ranker_and_what_failed_in_it() -> None:
    note = "1 of 6 calls failed, the first with: 400 too long"
    row = _row(HOOD, Scores((3.0, 2.0, None), (3.0, 0.0, 0.5), "ql+rc", note=note), FretOptions(), "the ranker")
    assert isinstance(row, FretRow)
    assert (row.teacher, row.ranker, row.note) == ("the writer", "the ranker", note)


def test_a_query_that_was_not_ranked_is_set_aside_with_the_reply() -> None:
    nothing = (None, None, None)
    for raw, kept in (("No grades today.", "No grades today."), ("", "a query")):
        row = _row(HOOD, Scores(nothing, nothing, "none", error="unreadable", raw=raw), FretOptions(), "the ranker")
        assert isinstance(row, Quarantined)
        assert (row.reason, row.raw) == ("not ranked: unreadable", kept)

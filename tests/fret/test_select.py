"""Ranking and selection: what a row says of its ranking, and that what was not answered for is not finished."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gecko.errors import GeckoError
from gecko.fret.retrieve import Neighbourhood
from gecko.fret.select import _row, select_rows
from gecko.recipe import FretOptions
from gecko.records import FretRow, GeneratedQuery, Passage, Quarantined
from gecko.teacher.protocol import RankRequest, Scores

PASSAGES = {name: Passage(name, name, "", f"text of {name}", "", "en") for name in "abcd"}


class Ranker:
    """Has no answer for the query ``out``; knows how many rows it will be asked for."""

    name = "the ranker"
    rows_at_once = 2

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []

    def begin(self, what: str, total: int) -> None:
        self.begun.append((what, total))

    def rank_many(self, requests: Sequence[RankRequest]) -> list[Scores]:
        scores = []
        for request in requests:
            numbers = [float(passage.passage_id == request.query.seed_id) * 3 for passage in request.candidates]
            out = request.query.query == "out"
            scores.append(Scores(numbers, numbers, "ql+rc", transient=out, error="HTTP 502" if out else ""))
        return scores


@pytest.fixture
def store() -> Any:
    vectors = np.eye(4, 8, dtype=np.float32)
    ids = list(PASSAGES)
    return SimpleNamespace(ids=ids, vectors=vectors, at=lambda position: PASSAGES[ids[position]], position=ids.index)


def test_rankings_without_an_answer_end_the_step_after_its_last_row(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hoods = {
        name: SimpleNamespace(
            positions=range(4), passage_ids=list(PASSAGES), miner_scores=[0.9, 0.8, 0.7, 0.6], query=None
        )
        for name in PASSAGES
    }

    def retrieve(shard: Sequence[GeneratedQuery], *_: Any, **__: Any) -> Any:
        return [SimpleNamespace(**{**vars(hoods[query.seed_id]), "query": query}) for query in shard]

    monkeypatch.setattr("gecko.fret.select.retrieve", retrieve)
    queries = [
        GeneratedQuery(name, "task", text, "en", "t", "1", 0, 0)
        for name, text in zip(PASSAGES, ("one", "out", "two", "three"), strict=True)
    ]
    ranker, found = Ranker(), []
    with pytest.raises(GeckoError, match="did not answer for 1 of 4 queries"):
        found.extend(select_rows(queries, store, None, ranker, FretOptions()))  # type: ignore[arg-type]
    assert [isinstance(row, FretRow) for row in found] == [True, False, True, True]
    assert ranker.begun == [("rankings", 4)]


HOOD = Neighbourhood(
    GeneratedQuery("a", "a task", "a query", "en", "the writer", "v1", 1, 2), (0, 1, 2), tuple("abc"), (0.9, 0.8, 0.7)
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

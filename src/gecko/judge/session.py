"""One person judging: what is asked next, what was answered, and whether it is enough."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gecko.evaluate.power import Need, need
from gecko.evaluate.retrieval import ndcg_at_k
from gecko.judge.folder import JudgedFolder, marks_of
from gecko.judge.pool import BM25, RANKED, Pool, Pooler
from gecko.judge.queries import Query, distinct

GRADES = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Question:
    """What is shown: a query and one of its candidates, with their places; nothing that tells who found it."""

    query_id: str
    query: str
    doc_id: str
    number: int
    queries: int
    candidate: int
    candidates: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the judging is.

    Attributes:
        queries: All that were pooled.
        judged: Of them, those in the test: judged to their end, with a relevant document.
        without: Judged to their end, and no candidate is relevant: they say nothing about any system and are left out.
        dropped: Left out by the person.
        judgements: Candidates judged or skipped.
        candidates: All there are to judge, those of dropped queries left out.
        skipped: Candidates of judged queries that were skipped; they count as not relevant.
    """

    queries: int
    judged: int
    without: int
    dropped: int
    judgements: int
    candidates: int
    skipped: int


class Session:
    """Keeps a test folder and the person's answers in step.

    Args:
        folder: The test set's folder, which exists.
        pooler: Makes pools of new queries; None where none will come.
        pair: The two systems whose difference the test is to show.
    """

    def __init__(self, folder: JudgedFolder, pooler: Pooler | None, pair: tuple[str, str]) -> None:
        self._folder = folder
        self._pooler = pooler
        self._pair = pair
        self._pools = folder.pools()
        self._events = folder.events()
        self._marks = marks_of(self._events)
        self.export()

    def add(self, texts: Iterable[str]) -> int:
        """Pool new queries, and pool the old ones again, whose models may have changed; returns how many are new."""
        if self._pooler is None:
            raise ValueError("a session without a pooler takes no queries")
        new = [query for query in distinct(texts) if query.query_id not in self._pools]
        old = [Query(pool.query_id, pool.query) for pool in self._pools.values()]
        if old or new:
            pools = self._pooler.pool([*old, *new], self._pools)
            self._folder.write_pools(pools)
            self._pools = {pool.query_id: pool for pool in pools}
            self.export()
        return len(new)

    def question(self) -> Question | None:
        """The next candidate to judge; None where all are judged."""
        for number, pool in enumerate(self._pools.values(), start=1):
            if pool.query_id in self._marks.dropped:
                continue
            marked = self._marks.grades.get(pool.query_id, {})
            for place, doc_id in enumerate(pool.candidates, start=1):
                if doc_id not in marked:
                    return Question(
                        pool.query_id,
                        pool.query,
                        doc_id,
                        number,
                        len(self._pools),
                        place,
                        len(pool.candidates),
                    )
        return None

    def grade(self, asked: Question, grade: int | None) -> None:
        """Record an answer: 0 not relevant, 1 partly, 2 relevant, None for a candidate that is skipped.

        Raises:
            ValueError: There is no such grade.
        """
        known = None if grade is None else _checked(grade)
        self._record({"query_id": asked.query_id, "doc_id": asked.doc_id, "grade": known})

    def mark(self, query_id: str, doc_id: str, grade: int | None) -> None:
        """Record a judgement of a candidate that nobody asked about; None takes an earlier one back.

        Raises:
            ValueError: There is no such grade.
        """
        if grade is None:
            self._record({"query_id": query_id, "doc_id": doc_id, "open": True})
        else:
            self._record({"query_id": query_id, "doc_id": doc_id, "grade": _checked(grade)})
        self.export()

    def drop(self, asked: Question) -> None:
        """Leave a query out of the test."""
        self._record({"query_id": asked.query_id, "drop": True})

    def undo(self) -> bool:
        """Take back the last answer, also one of an earlier session; False where there is none."""
        if not self._events:
            return False
        self._folder.append({"undo": True})
        self._events.pop()
        self._marks = marks_of(self._events)
        self.export()
        return True

    def progress(self) -> Progress:
        """Count what is there and what was judged."""
        ended = [pool for pool in self._pools.values() if self._ended(pool)]
        inside = [pool for pool in ended if self._relevant(pool)]
        asked = [pool for pool in self._pools.values() if pool.query_id not in self._marks.dropped]
        return Progress(
            queries=len(self._pools),
            judged=len(inside),
            without=len(ended) - len(inside),
            dropped=len(self._pools) - len(asked),
            judgements=sum(len(self._marks.grades.get(pool.query_id, ())) for pool in asked),
            candidates=sum(len(pool.candidates) for pool in asked),
            skipped=sum(grade is None for pool in inside for grade in self._marks.grades[pool.query_id].values()),
        )

    def need(self, difference: float, power: float = 0.8) -> tuple[Need, int]:
        """Say what a difference in nDCG@10 takes: (queries, and candidates to judge at the pools' mean size)."""
        found = need(self._differences(), difference, power=power)
        sizes = [len(pool.candidates) for pool in self._pools.values()]
        return found, round(found.queries * (sum(sizes) / len(sizes) if sizes else 0))

    def export(self) -> None:
        """Write the BEIR files of the queries that are judged to their end."""
        inside = [pool for pool in self._pools.values() if self._ended(pool) and self._relevant(pool)]
        qrels = {
            pool.query_id: {doc: grade for doc, grade in self._graded(pool).items() if grade is not None}
            for pool in inside
        }
        self._folder.export({pool.query_id: pool.query for pool in inside}, qrels)

    def _record(self, event: dict[str, Any]) -> None:
        self._folder.append(event)
        self._events.append(event)
        self._marks.take(event)
        if event.get("drop") or self._ended(self._pools[event["query_id"]]):
            self.export()

    def _graded(self, pool: Pool) -> dict[str, int | None]:
        return self._marks.grades.get(pool.query_id, {})

    def _ended(self, pool: Pool) -> bool:
        return pool.query_id not in self._marks.dropped and set(pool.candidates) <= self._graded(pool).keys()

    def _relevant(self, pool: Pool) -> bool:
        return any(self._graded(pool).values())

    def _differences(self) -> list[float]:
        """Per-query differences in nDCG@10 between the two systems, on the queries of the test."""
        found: list[float] = []
        if self._pair[0] == self._pair[1]:  # BM25 alone
            return found
        for pool in self._pools.values():
            if self._ended(pool) and self._relevant(pool) and set(self._pair) <= pool.rankings.keys():
                one, other = (self._ndcg(pool, system) for system in self._pair)
                found.append(one - other)
        return found

    def _ndcg(self, pool: Pool, system: str) -> float:
        # A skipped or unjudged document counts as not relevant, as it will in the test.
        grades = {doc: grade for doc, grade in self._graded(pool).items() if grade}
        position = {doc: place for place, doc in enumerate(dict.fromkeys([*pool.rankings[system], *grades]))}
        ranking = np.array([[position[doc] for doc in pool.rankings[system]]], np.int64).reshape(1, -1)
        judged = {position[doc]: float(grade) for doc, grade in grades.items()}
        return float(ndcg_at_k(ranking, [judged], RANKED)[0])


def _checked(grade: int) -> int:
    if isinstance(grade, bool) or grade not in GRADES:
        raise ValueError(f"no grade {grade}")
    return grade


def pair_of(systems: Iterable[str]) -> tuple[str, str]:
    """The two systems whose difference a test is to show: the model and its base, or BM25 where there is none."""
    names = list(systems)
    mine = "model" if "model" in names else "base" if "base" in names else BM25
    return mine, "base" if "base" in names and mine != "base" else BM25

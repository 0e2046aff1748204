"""Which scores to ask a teacher for next, so that few calls find the positive that all of them would find.

Ranking is most of what a teacher costs, and most of its scores decide nothing: ``rank.decide`` never moves the positive
to a passage whose RC is below the seed's, so where no candidate reaches the seed's RC the positive is the seed,
whatever the likelihoods are. A schedule is a pure function of the answers so far; a teacher runs it like this::

    state = State(miner_scores, seed)
    while asks := schedule.next(state):
        for (candidate, kind), score in zip(asks, answers(asks)):
            state.note(candidate, kind, score)
    ql, rc = state.scores("ql"), state.scores("rc")

The asks of one step do not depend on each other: they may be made at once, or those of a kind in one grouped call.
What a schedule keeps and saves is measured in ``docs/results/relabel.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Kind = Literal["ql", "rc"]
KINDS: tuple[Kind, ...] = ("ql", "rc")


@dataclass(slots=True)
class State:
    """What is known of one query's candidates.

    Attributes:
        miner_scores: Their cosines to the query; a candidate is known by its place here.
        seed: Which of them the query was written from.
        ql: Query likelihoods so far; None where the teacher was asked and has none.
        rc: Relevances so far, likewise.
    """

    miner_scores: Sequence[float]
    seed: int
    ql: dict[int, float | None] = field(default_factory=dict)
    rc: dict[int, float | None] = field(default_factory=dict)

    def note(self, candidate: int, kind: Kind, score: float | None) -> None:
        """Keep an answer; None for an ask that failed, so that it is not made again."""
        (self.ql if kind == "ql" else self.rc)[candidate] = score

    def scores(self, kind: Kind) -> list[float | None]:
        """One kind of score of every candidate, as ``rank.fuse`` takes it; None where there is none."""
        known = self.ql if kind == "ql" else self.rc
        return [known.get(candidate) for candidate in range(len(self.miner_scores))]

    def others(self) -> list[int]:
        """The candidates but the seed, in the miner's order."""
        scores = self.miner_scores
        return sorted((c for c in range(len(scores)) if c != self.seed), key=lambda c: (-scores[c], c))


class Schedule(Protocol):
    """Decides what a query's ranking is worth asking."""

    def next(self, state: State) -> list[tuple[int, Kind]]:
        """What to ask now; nothing when the ranking is done."""
        ...


@dataclass(frozen=True, slots=True)
class Everything:
    """Both scores of every candidate, at once: the paper's ranking."""

    def next(self, state: State) -> list[tuple[int, Kind]]:
        """What has not been asked."""
        candidates = range(len(state.miner_scores))
        return [(c, kind) for kind in KINDS for c in candidates if c not in (state.ql if kind == "ql" else state.rc)]


FULL = Everything()


@dataclass(frozen=True, slots=True)
class Thrifty:
    """Relevance first, in the miner's order and only while it may matter; likelihood only between rivals.

    The *leader* is the candidate of the highest RC so far, the seed to begin with. Once its RC is ``sure``, asking ends
    when ``patience`` candidates in a row have not bettered it and one fit for a negative has been seen; while no leader
    is sure it goes on to the last candidate. Those whose RC is no less than the seed's are its rivals; only where it
    has one are likelihoods asked.

    Attributes:
        patience: Candidates that must fail to better a sure leader; also how many are asked at once.
        sure: RC, on the scale 0 to 3, from which a leader is taken for an answer. It depends on the teacher: near the
            top of what it gives, and above what it gives half the queries' seeds.
        rivals: Rivals whose likelihoods are asked, the seed not counted.
        negative: RC up to which a candidate is fit for a negative (``fret.max_negative_rc``); None does not look for
            one.
        answerable: A query whose leader is below this RC yields no row (``fret.min_positive_rc``), so its likelihoods
            are not asked.
    """

    patience: int = 2
    sure: float = 2.4
    rivals: int = 4
    negative: float | None = 1.0
    answerable: float = 2.0

    def __post_init__(self) -> None:
        if self.patience < 1 or self.rivals < 1:
            raise ValueError("patience and rivals must be at least 1")

    def next(self, state: State) -> list[tuple[int, Kind]]:
        """The next relevances, and when there are enough of them the rivals' likelihoods."""
        relevances = self._relevances(state)
        if relevances:
            return [(candidate, "rc") for candidate in relevances]
        return [(candidate, "ql") for candidate in self._rivals(state) if candidate not in state.ql]

    def _relevances(self, state: State) -> list[int]:
        others = state.others()
        if state.seed not in state.rc:
            return [state.seed, *others[: self.patience]]
        waiting = [candidate for candidate in others if candidate not in state.rc]
        leader, since, negatives = _value(state.rc[state.seed]), 0, 0
        for candidate in others:
            if candidate not in state.rc:
                continue
            rc = state.rc[candidate]
            if _value(rc) > leader:
                leader, since = _value(rc), 0
            else:
                since += 1
            negatives += rc is not None and self.negative is not None and rc <= self.negative
        if not waiting or leader < self.sure:
            return waiting[: self.patience]
        if since < self.patience:
            return waiting[: self.patience - since]
        return [] if negatives or self.negative is None else waiting[:1]

    def _rivals(self, state: State) -> list[int]:
        """The seed and the candidates it may lose to; empty where there are none or the query is of no use."""
        if max((_value(rc) for rc in state.rc.values()), default=-math.inf) < self.answerable:
            return []
        least = _value(state.rc[state.seed])
        rivals = [c for c in state.others() if c in state.rc and _value(state.rc[c]) >= least]
        rivals.sort(key=lambda candidate: -_value(state.rc[candidate]))
        return [state.seed, *rivals[: self.rivals]] if rivals else []


def _value(rc: float | None) -> float:
    return -math.inf if rc is None else rc

"""Schedules of a teacher's asks: everything is asked at most once, and the cheap way decides as the whole one does."""

from __future__ import annotations

import random

import pytest

from gecko.fret.rank import Decision, decide, fuse
from gecko.recipe import FretOptions
from gecko.teacher.schedule import FULL, Schedule, State, Thrifty

MINER = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]


def follow(schedule: Schedule, ql, rc, seed: int = 0, miner=MINER) -> tuple[State, list[list[tuple[int, str]]]]:
    """Run a schedule to its end on scores that are known; the state it leaves, and its steps."""
    state, steps = State(miner[: len(ql)], seed), []
    while asks := schedule.next(state):
        steps.append(asks)
        for candidate, kind in asks:
            assert candidate not in (state.ql if kind == "ql" else state.rc), "asked before"
            state.note(candidate, kind, (ql if kind == "ql" else rc)[candidate])
        assert len(steps) < 100
    return state, steps


def decided(state: State) -> Decision:
    names = [str(i) for i in range(len(state.miner_scores))]
    fused = fuse(names, state.miner_scores, state.scores("ql"), state.scores("rc"))
    return decide(fused, str(state.seed), "q", FretOptions())


def drawn(seed: int) -> tuple[list[float], list[float], int]:
    draw = random.Random(seed)
    size = draw.randint(1, len(MINER))
    ql = [draw.uniform(-9, 0) for _ in range(size)]
    rc = [draw.choice([0.0, 1.0, 2.0, 3.0]) if seed % 2 else draw.uniform(0, 3) for _ in range(size)]
    return ql, rc, draw.randrange(size)


def test_everything_is_asked_in_one_step() -> None:
    state, steps = follow(FULL, [-1.0, -2.0], [1.0, 2.0])
    assert [sorted(step) for step in steps] == [[(0, "ql"), (0, "rc"), (1, "ql"), (1, "rc")]]
    assert state.scores("ql") == [-1.0, -2.0]
    assert state.scores("rc") == [1.0, 2.0]


def test_everything_asks_only_what_is_missing() -> None:
    state = State([0.5, 0.4], 0, ql={0: -1.0}, rc={0: 1.0, 1: None})
    assert FULL.next(state) == [(1, "ql")]


def test_a_sure_seed_without_a_rival_costs_its_first_step() -> None:
    _, steps = follow(Thrifty(patience=3), [-1.0] * 8, [3.0, 0, 2, 0, 3, 3, 3, 3])
    assert steps == [[(0, "rc"), (1, "rc"), (2, "rc"), (3, "rc")]]


def test_the_seed_is_asked_first_wherever_the_miner_put_it() -> None:
    _, steps = follow(Thrifty(patience=2), [-1.0] * 8, [0, 0, 0, 0, 0, 0, 3.0, 0], seed=6)
    assert steps == [[(6, "rc"), (0, "rc"), (1, "rc")]]


def test_a_new_leader_must_be_left_unbeaten_as_long() -> None:
    _, steps = follow(Thrifty(patience=3), [-1.0] * 8, [2.5, 0, 2.9, 0, 0, 0, 0, 0])
    assert [candidate for candidate, kind in steps[0] + steps[1] if kind == "rc"] == [0, 1, 2, 3, 4, 5]
    assert sorted(steps[2]) == [(0, "ql"), (2, "ql")]


def test_an_unsure_leader_is_looked_past_to_the_end() -> None:
    state, _ = follow(Thrifty(patience=3, sure=2.2), [-1.0] * 8, [2.1] + [0.0] * 7)
    assert sorted(state.rc) == list(range(8))
    assert not state.ql


def test_it_goes_on_until_it_has_seen_a_negative() -> None:
    rc = [3.0, 2, 2, 2, 2, 0.5, 0, 0]
    state, _ = follow(Thrifty(patience=2), [-1.0] * 8, rc)
    assert sorted(state.rc) == [0, 1, 2, 3, 4, 5]
    assert decided(state).negative_id == "5"
    assert sorted(follow(Thrifty(patience=2, negative=None), [-1.0] * 8, rc)[0].rc) == [0, 1, 2]


def test_only_the_likeliest_rivals_are_compared_by_likelihood() -> None:
    state, _ = follow(Thrifty(patience=7, rivals=2), [-1.0] * 8, [1.0, 2.1, 1.5, 0.5, 2.9, 1.0, 0, 0])
    assert sorted(state.ql) == [0, 1, 4]


def test_no_likelihood_is_asked_of_a_query_without_an_answer() -> None:
    state, _ = follow(Thrifty(), [-1.0] * 8, [1.0, 1.9, 1.5, 0, 0, 0, 0, 0])
    assert not state.ql
    assert decided(state).reason.startswith("unanswerable")


def test_failed_asks_are_not_repeated_and_end() -> None:
    for schedule in (FULL, Thrifty()):
        state, _ = follow(schedule, [None] * 8, [None] * 8)
        assert decided(state).positive_id == "0"
    without_seed, _ = follow(Thrifty(patience=7), [-1.0] * 8, [None, 2.5, 1.0, 0, 0, 0, 0, 0])
    assert sorted(without_seed.ql) == [0, 1, 2, 3, 4]


def test_a_lone_seed_is_asked_and_done() -> None:
    assert follow(Thrifty(), [-1.0], [3.0])[1] == [[(0, "rc")]]


@pytest.mark.parametrize("seed", range(60))
def test_without_a_rival_the_likelihoods_decide_nothing(seed: int) -> None:
    """What the schedule rests on: the guard gives the seed back whenever nothing reaches its RC."""
    ql, rc, place = drawn(seed)
    whole = decided(follow(FULL, ql, rc, place)[0])
    state, _ = follow(Thrifty(patience=len(MINER), rivals=len(MINER)), ql, rc, place)
    assert bool(whole.reason) == bool(decided(state).reason)
    if not state.ql and not whole.reason:
        assert whole.positive_id == decided(state).positive_id == str(place)


@pytest.mark.parametrize("seed", range(60))
def test_it_never_decides_for_a_passage_below_the_seed_nor_for_an_unsafe_negative(seed: int) -> None:
    ql, rc, place = drawn(seed)
    state, _ = follow(Thrifty(patience=2), ql, rc, place)
    decision = decided(state)
    if decision.positive_id:
        assert rc[int(decision.positive_id)] >= rc[place]
    if decision.negative_id:
        assert rc[int(decision.negative_id)] < rc[int(decision.positive_id)]


@pytest.mark.parametrize("name", ["patience", "rivals"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Thrifty(**{name: 0})

"""Fusion of QL and RC, the choice of positive and negative, and that the input's order never matters."""

from __future__ import annotations

import itertools
import random

import pytest

from gecko.fret.rank import Decision, decide, fuse
from gecko.recipe import FretOptions
from gecko.records import Candidate


def ranked(ql, rc, miner=None, k: float = 0.0) -> tuple[Candidate, ...]:
    """Fuse candidates named a, b, c …, in the miner's order unless its scores are given."""
    names = [chr(ord("a") + i) for i in range(len(ql))]
    miner = miner if miner is not None else [0.9 - 0.1 * i for i in range(len(ql))]
    return fuse(names, miner, ql, rc, k)


def order(candidates: tuple[Candidate, ...]) -> str:
    return "".join(candidate.passage_id for candidate in candidates)


def test_the_formula_of_the_paper() -> None:
    by_id = {c.passage_id: c for c in ranked([-3.0, -1.0, -2.0], [1.0, 0.0, 2.0])}
    assert {name: (c.ql_rank, c.rc_rank) for name, c in by_id.items()} == {"a": (3, 2), "b": (1, 3), "c": (2, 1)}
    assert by_id["a"].rrf == pytest.approx(1 / 3 + 1 / 2)
    assert by_id["b"].rrf == pytest.approx(1 / 1 + 1 / 3)
    assert by_id["c"].rrf == pytest.approx(1 / 2 + 1 / 1)
    assert {name: c.rank for name, c in by_id.items()} == {"c": 1, "b": 2, "a": 3}


def test_the_constant_flattens_the_formula() -> None:
    by_id = {c.passage_id: c for c in ranked([-3.0, -1.0, -2.0], [1.0, 0.0, 2.0], k=60)}
    assert by_id["a"].rrf == pytest.approx(1 / 63 + 1 / 62)
    assert by_id["c"].rrf == pytest.approx(1 / 62 + 1 / 61)


def test_best_first_with_ranks_from_one() -> None:
    candidates = ranked([-3.0, -1.0, -2.0, None], [1.0, 0.0, 2.0, None])
    assert [candidate.rank for candidate in candidates] == [1, 2, 3, 4]
    assert sorted(c.ql_rank for c in candidates) == sorted(c.rc_rank for c in candidates) == [1, 2, 3, 4]
    assert sorted((c.rrf for c in candidates), reverse=True) == [c.rrf for c in candidates]


def test_mirrored_ranks_tie_and_rc_decides() -> None:
    candidates = ranked([-1.0, -2.0], [1.0, 2.0])
    assert candidates[0].rrf == candidates[1].rrf
    assert order(candidates) == "ba"


def test_equal_scores_go_by_the_miner_then_by_id() -> None:
    assert order(ranked([0.0] * 3, [1.0] * 3, [0.1, 0.3, 0.2])) == "bca"
    assert order(ranked([0.0] * 3, [1.0] * 3, [0.5] * 3)) == "abc"


def test_ungraded_candidates_stand_behind_graded_ones_in_the_miners_order() -> None:
    candidates = {c.passage_id: c for c in ranked([None, -9.0, None, -8.0], [None, 0.0, None, 1.0])}
    assert [candidates[name].ql_rank for name in "dbac"] == [1, 2, 3, 4]
    assert [candidates[name].rc_rank for name in "dbac"] == [1, 2, 3, 4]
    assert candidates["a"].ql is None
    assert candidates["a"].rc is None


def test_a_zero_score_is_a_score() -> None:
    assert order(ranked([None, 0.0], [None, 0.0])) == "ba"


@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_the_input_never_matters(seed: int) -> None:
    drawn = random.Random(seed)
    items = [
        (
            name,
            drawn.choice([0.1, 0.2]),
            drawn.choice([None, -1.0, -2.0]),
            drawn.choice([None, 0.0, 1.0, 2.0]),
        )
        for name in "abcde"
    ]
    results = set()
    for permutation in itertools.permutations(items):
        ids, miner, ql, rc = zip(*permutation, strict=True)
        candidates = fuse(ids, miner, ql, rc)
        decisions = tuple(
            decide(candidates, "c", "key", FretOptions(negative=policy, min_positive_rc=0))
            for policy in ("last", "hardest", "random", "none")
        )
        results.add((candidates, decisions))
    assert len(results) == 1


def test_p1_is_the_best_of_ql_or_of_rc() -> None:
    drawn = random.Random(1)
    for _ in range(500):
        size = drawn.randint(1, 21)
        ql = [drawn.choice([None, drawn.uniform(-9, 0)]) for _ in range(size)]
        rc = [drawn.choice([None, float(drawn.randint(0, 3))]) for _ in range(size)]
        best = fuse([f"p{i:02}" for i in range(size)], [drawn.random() for _ in range(size)], ql, rc)[0]
        assert best.ql_rank == 1 or best.rc_rank == 1


def test_no_positive_is_graded_below_the_seed_and_no_negative_reaches_the_positive() -> None:
    drawn = random.Random(2)
    for _ in range(500):
        size = drawn.randint(2, 12)
        ids = [f"p{i:02}" for i in range(size)]
        rc = [drawn.choice([None, 0.0, 1.0, 2.0, 3.0]) for _ in range(size)]
        candidates = fuse(ids, [drawn.random() for _ in ids], [drawn.uniform(-9, 0) for _ in ids], rc)
        options = FretOptions(
            negative=drawn.choice(["last", "hardest", "random"]), positive=drawn.choice(["p1", "seed"])
        )
        decision = decide(candidates, "p01", "key", options)
        by_id = {c.passage_id: c for c in candidates}
        if decision.reason:
            assert decision == Decision("", "", decision.reason)
            continue
        positive, seed = by_id[decision.positive_id], by_id["p01"]
        if options.positive == "p1" and positive.rc is not None:
            assert positive.rc >= options.min_positive_rc
        if positive is not seed:
            assert positive.rc is not None
            assert seed.rc is None or positive.rc >= seed.rc
        if decision.negative_id:
            negative = by_id[decision.negative_id]
            assert negative is not positive
            if negative.rc is not None and positive.rc is not None:
                assert negative.rc < positive.rc
            else:
                assert negative.miner_score <= 0.95 * positive.miner_score


def test_a_better_neighbour_is_relabelled_positive() -> None:
    candidates = ranked([-1.0, -2.0, -3.0], [3.0, 2.0, 0.0])
    assert decide(candidates, "b", "", FretOptions()).positive_id == "a"
    assert decide(candidates, "b", "", FretOptions(positive="seed")).positive_id == "b"


def test_an_irrelevant_rank_one_is_no_positive() -> None:
    candidates = ranked([-1.0, -9.0, -2.0], [1.0, 3.0, 0.0])
    assert order(candidates)[0] == "a"
    assert decide(candidates, "a", "", FretOptions()) == Decision("b", "a")
    # The seed as it is, as in the paper's ablation: only an unanswerable query is set aside.
    assert decide(candidates, "a", "", FretOptions(positive="seed")).positive_id == "a"
    assert decide(ranked([-1.0, -9.0], [1.0, 1.5]), "a", "", FretOptions()).reason


def test_the_seed_stays_when_rank_one_is_graded_lower() -> None:
    candidates = ranked([-1.0, -9.0, -3.0], [2.0, 3.0, 0.0])
    by_ql = fuse("abcd", [0.9, 0.8, 0.7, 0.6], [-1.0, -9.0, -3.0, -4.0], [2.0, 3.0, 2.0, 0.0])
    assert by_ql[0].passage_id == "a"
    assert decide(by_ql, "b", "", FretOptions()).positive_id == "b"
    assert candidates[0].rrf >= candidates[1].rrf


def test_the_seed_stays_when_rank_one_is_not_graded() -> None:
    candidates = ranked([-1.0, -2.0], [None, None])
    assert candidates[0].passage_id == "a"
    decision = decide(candidates, "b", "", FretOptions(negative="last"))
    assert decision.positive_id == "b"
    assert decision.reason == ""


def test_unanswerable_queries_are_set_aside() -> None:
    candidates = ranked([-1.0, -2.0], [1.0, 0.0])
    decision = decide(candidates, "a", "", FretOptions(min_positive_rc=2))
    assert decision == Decision("", "", "unanswerable: no candidate reaches relevance 2")
    assert decide(candidates, "a", "", FretOptions(min_positive_rc=1)).reason == ""


FIVE = ranked([-1.0, -2.0, -3.0, -4.0, -5.0], [3.0, 2.0, 1.0, 0.0, 0.0])


def negative(policy: str, candidates=FIVE, key: str = "", **options) -> str:
    return decide(candidates, "a", key, FretOptions(negative=policy, **options)).negative_id


def test_negative_policies() -> None:
    assert negative("none") == ""
    assert negative("last") == "e"
    assert negative("hardest") == "c"  # b is graded above max_negative_rc
    assert negative("hardest", max_negative_rc=2) == "b"
    assert negative("hardest", max_negative_rc=0.5) == "d"
    assert negative("hardest", max_negative_rc=-1) == ""


def test_a_random_negative_depends_on_the_row_alone() -> None:
    drawn = {negative("random", key=f"row {i}") for i in range(60)}
    assert drawn == set("bcde")
    assert len({negative("random", key="row 1") for _ in range(5)}) == 1


@pytest.mark.parametrize("policy", ["last", "hardest", "random"])
def test_guard_one_a_negative_as_relevant_as_the_positive_is_passed_over(policy: str) -> None:
    candidates = ranked([-1.0, -2.0, -3.0], [2.0, 2.0, 2.0])
    assert negative(policy, candidates, max_negative_rc=3) == ""


@pytest.mark.parametrize("policy", ["last", "random"])
def test_guard_two_an_ungraded_negative_must_be_less_like_the_query(policy: str) -> None:
    near = ranked([-1.0, None], [3.0, None], [0.80, 0.77])
    far = ranked([-1.0, None], [3.0, None], [0.80, 0.75])
    assert negative(policy, near) == ""
    assert negative(policy, far) == "b"
    assert negative(policy, near, negative_margin=0.99) == "b"


def test_the_hardest_negative_is_always_a_graded_one() -> None:
    candidates = ranked([-1.0, None, -3.0], [3.0, None, 0.0], [0.9, 0.2, 0.1])
    assert negative("hardest", candidates) == "c"


def test_a_lone_candidate_has_no_negative() -> None:
    for policy in ("last", "hardest", "random"):
        assert negative(policy, ranked([-1.0], [3.0])) == ""

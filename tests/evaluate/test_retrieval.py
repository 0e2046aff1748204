"""The measures agree with trec_eval, and the search with a plain sort."""

import ir_measures
import numpy as np
import pytest

from gecko.evaluate.compare import paired_bootstrap, wins_losses_ties
from gecko.evaluate.retrieval import average_precision, ndcg_at_k, recall_at_k, reciprocal_rank, rrf
from gecko.miner.exact import top_k


def random_case(seed: int, queries: int = 40, documents: int = 150, depth: int = 120):
    rng = np.random.default_rng(seed)
    ranking = np.stack([rng.permutation(documents)[:depth] for _ in range(queries)])
    judged = [
        {int(d): int(g) for d, g in zip(rng.choice(documents, 12, False), rng.integers(0, 4, 12), strict=True)}
        for _ in range(queries)
    ]
    return ranking, judged


MEASURES = [
    (lambda r, j: ndcg_at_k(r, j, 10), ir_measures.nDCG @ 10),
    (lambda r, j: ndcg_at_k(r, j, 100), ir_measures.nDCG @ 100),
    (lambda r, j: recall_at_k(r, j, 10), ir_measures.R @ 10),
    (lambda r, j: recall_at_k(r, j, 100), ir_measures.R @ 100),
    (lambda r, j: reciprocal_rank(r, j, 10), ir_measures.RR @ 10),
    (average_precision, ir_measures.AP),
]


@pytest.mark.parametrize(("measure", "reference"), MEASURES)
def test_agrees_with_ir_measures(measure, reference):
    ranking, judged = random_case(3)
    judged[0] = dict.fromkeys(judged[0], 0)  # a query nobody found an answer for
    qrels = [ir_measures.Qrel(f"q{q}", f"d{d}", g) for q, grades in enumerate(judged) for d, g in grades.items()]
    run = [
        ir_measures.ScoredDoc(f"q{q}", f"d{d}", float(1000 - rank))
        for q, row in enumerate(ranking)
        for rank, d in enumerate(row)
    ]
    expected = {m.query_id: m.value for m in ir_measures.iter_calc([reference], qrels, run)}
    ours = measure(ranking, judged)
    assert ours.shape == (40,)
    assert ours == pytest.approx([expected[f"q{q}"] for q in range(40)], abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("measure", "reference"), MEASURES)
def test_agrees_with_ir_measures_on_runs_with_ties(measure, reference, seed: int):
    """Scores of few values. Equal ones go by position here and by id there: trec_eval's descend, RR@k's (MS MARCO's
    script) ascend, so the ids are given accordingly."""
    rng = np.random.default_rng(seed)
    queries, documents = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (40, 150))
    scores = queries @ documents.T
    assert max(len(set(row)) for row in scores.tolist()) <= 7  # 150 documents share them
    ids = [f"d{100 + position if reference.NAME == 'RR' else 999 - position}" for position in range(150)]
    judged = [
        {int(d): int(g) for d, g in zip(rng.choice(150, 12, False), rng.integers(0, 4, 12), strict=True)}
        for _ in range(40)
    ]
    run = [ir_measures.ScoredDoc(f"q{q}", ids[d], float(scores[q, d])) for q in range(40) for d in range(150)]
    qrels = [ir_measures.Qrel(f"q{q}", ids[d], g) for q, grades in enumerate(judged) for d, g in grades.items()]
    expected = {m.query_id: m.value for m in ir_measures.iter_calc([reference], qrels, run)}
    ours = measure(top_k(queries, documents, 150, chunk=64)[0], judged)
    assert ours == pytest.approx([expected[f"q{q}"] for q in range(40)], abs=1e-6)
    assert len(set(ours.round(6))) > 3  # neither all right nor all wrong


def test_missing_documents_score_nothing():
    ranking = np.array([[-1, -1, -1]])
    assert ndcg_at_k(ranking, [{0: 1}]) == 0
    assert recall_at_k(ranking, [{0: 1}]) == 0
    assert reciprocal_rank(ranking, [{0: 1}]) == 0
    assert average_precision(ranking, [{0: 1}]) == 0


def test_rrf_adds_reciprocal_ranks():
    fused = rrf([np.array([[5, 1, 2]]), np.array([[1, 9, -1]])])
    # 1: 1/62 + 1/61; 5: 1/61; 9: 1/62; 2: 1/63
    assert fused.tolist() == [[1, 5, 9]]
    assert rrf([np.array([[3, 4]]), np.array([[4, 3]])], depth=4).tolist() == [[3, 4, -1, -1]]


def test_bootstrap_covers_a_known_gain_and_is_zero_for_equals():
    rng = np.random.default_rng(1)
    base = rng.random(400)
    tuned = base + 0.05 + rng.normal(0, 0.1, 400)
    low, high = paired_bootstrap(base, tuned)
    gain = (tuned - base).mean()
    assert low < gain < high and low < 0.05 < high
    # The normal theory's width: four standard errors, nearly.
    assert high - low == pytest.approx(2 * 1.96 * (tuned - base).std() / 20, rel=0.05)
    assert paired_bootstrap(base, tuned) == (low, high)
    assert paired_bootstrap(base, base) == (0.0, 0.0)
    assert wins_losses_ties(np.array([0, 1, 0.5]), np.array([1, 0, 0.5])) == (1, 1, 1)
    with pytest.raises(ValueError, match="equal"):
        paired_bootstrap(base, base[:-1])

"""Each type's figure, against the library or the benchmark that defines it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score

from gecko.errors import GeckoError
from gecko.evaluate.compare import Score, gain_interval
from gecko.evaluate.labels import Classification, Clustering
from gecko.evaluate.pairs import Bitext, PairClassification, Similarity, precision_of, spearman_of
from gecko.evaluate.pools import Reranking, Summaries


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_similarity_is_spearman_of_the_cosine(rng) -> None:
    first, second, gold = unit(rng, 50, 8), unit(rng, 50, 8), rng.integers(0, 4, 50).astype(float)
    score = Similarity([""] * 50, [""] * 50, gold).scores((first, second))["cosine_spearman"]
    assert score.value == pytest.approx(spearmanr((first * second).sum(axis=1), gold).statistic)
    assert score.n == 50
    assert score.resample(np.ones((1, 50), int)) == pytest.approx(score.value)
    same = np.array([[1, 0], [1, 0]], np.float32)
    constant = Similarity(["", ""], ["", ""], np.array([0.0, 1.0])).scores((same, same))
    assert constant["cosine_spearman"].value == 0  # a model that sees no difference orders nothing


def test_pairs_are_ordered_by_the_better_measure(rng) -> None:
    # Few dimensions, so that cosine and Manhattan distance differ in order.
    first, second, gold = unit(rng, 60, 4), unit(rng, 60, 4), rng.integers(0, 2, 60)
    scores = PairClassification([""] * 60, [""] * 60, gold).scores((first, second))
    cosine = average_precision_score(gold, (first * second).sum(axis=1))
    manhattan = average_precision_score(gold, -np.abs(first - second).sum(axis=1))
    assert cosine != pytest.approx(manhattan, abs=1e-3)
    assert scores["cosine_ap"].value == pytest.approx(cosine)
    assert scores["max_ap"].value == pytest.approx(max(cosine, manhattan))
    for score in scores.values():
        assert score.resample(np.ones((2, 60), int)) == pytest.approx([score.value] * 2)


def test_resamples_by_counts_are_those_of_repeated_items(rng) -> None:
    # Whole numbers, so that there are ties; some items drawn several times, some not at all.
    one, other, gold = rng.integers(0, 6, 30) / 1.0, rng.integers(0, 5, 30) / 1.0, rng.integers(0, 2, 30)
    counts = rng.multinomial(30, np.full(30, 1 / 30), 20)
    for row, correlation, precision in zip(
        counts, spearman_of(one, other, counts), precision_of(one, gold, counts), strict=True
    ):
        items = np.repeat(np.arange(30), row)
        assert correlation == pytest.approx(spearmanr(one[items], other[items]).statistic)
        assert precision == pytest.approx(average_precision_score(gold[items], one[items]))
    only = np.eye(30, dtype=int)[:1] * 30
    assert np.isnan(spearman_of(one, other, only)).all()
    assert np.isnan(precision_of(one, np.zeros(30, int), counts)).all()


def test_bitext_is_the_weighted_f1_of_each_language_pair(rng) -> None:
    subsets = ["deu"] * 30 + ["nld"] * 10
    first = unit(rng, 40, 6)
    second = first + rng.normal(0, 0.35, (40, 6)).astype(np.float32)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    scores = Bitext([""] * 40, [""] * 40, subsets).scores((first, second))
    for name, queries, corpus in (("f1", first, second), ("f1_reverse", second, first)):
        expected = []
        for rows in (slice(0, 30), slice(30, 40)):
            nearest = (queries[rows] @ corpus[rows].T).argmax(axis=1)
            expected.append(f1_score(np.arange(len(nearest)), nearest, average="weighted", zero_division=0))
        assert 0.3 < np.mean(expected) < 0.95  # not all right, not all wrong
        assert scores[name].value == pytest.approx(np.mean(expected))  # every language pair alike
        assert scores[name].n == len(scores[name].units) == 40
        assert scores[name].subsets == {"deu": pytest.approx(expected[0]), "nld": pytest.approx(expected[1])}
    assert scores["f1"].value != pytest.approx(scores["f1_reverse"].value)


def test_classification_draws_as_the_benchmark_does() -> None:
    labels = np.array([str(i % 3) for i in range(30)])
    texts = [str(i) for i in range(30)]
    draws = Classification([], np.array([]), texts, labels, per_label=3)._draws()
    # AbsTaskClassification._undersample_data of mteb 2.26.24, seed 42, on the same 30 rows.
    assert draws[0] == [27, 15, 23, 17, 8, 9, 28, 4, 16]
    assert draws[1] == [14, 22, 29, 2, 12, 0, 19, 27, 1]
    assert draws[9] == [7, 10, 29, 2, 1, 18, 9, 15, 20]
    assert len(draws) == 10


def test_classification_is_the_mean_accuracy_of_ten_small_classifiers(rng) -> None:
    labels = np.array(["b", "a", "c"] * 20)
    centres = np.eye(3)[[{"b": 0, "a": 1, "c": 2}[label] for label in labels]]
    train = unit_rows(centres + rng.normal(0, 0.1, (60, 3)))
    task = Classification(["t"] * 60, labels, ["t"] * 60, labels)
    drawn = train[task._union()]
    assert task.scores((train, drawn))["accuracy"].value == 1.0  # the labels are far apart
    noisy = unit_rows(centres + rng.normal(0, 0.6, (60, 3)))
    score = task.scores((noisy, noisy[task._union()]))["accuracy"]
    assert 0.6 < score.value < 0.95
    assert score.n == 60
    assert set(np.unique(score.units * 10) % 1) == {0}  # each text's share of ten experiments
    assert score.units.max() > score.units.min()


def unit_rows(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_clustering_draws_and_clusters_as_the_benchmark_does() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    points = unit_rows((np.eye(3)[labels] + generator.normal(0, 0.6, (90, 3))).astype(np.float32))
    score = Clustering([""] * 90, labels.astype(str)).scores((points,))["v_measure"]
    # _evaluate_clustering_bootstrapped of mteb 2.26.24 on the same vectors.
    assert score.value == pytest.approx(0.2963118, abs=1e-4)
    assert score.repeats[:3] == pytest.approx([0.3499333, 0.2362720, 0.2211881], abs=1e-4)
    assert (score.n, len(score.repeats), score.repeats_of) == (90, 10, 16_384)


def test_reranking_scores_each_pool_and_ties_count_against(rng) -> None:
    query = np.array([[1.0, 0.0]], np.float32)
    texts = np.array([[0.6, 0.8], [0.8, 0.6], [0.6, 0.8], [1.0, 0.0]], np.float32)
    # Two irrelevant, then two relevant; the third text ties with the first.
    task = Reranking(["q"], [["n1", "n2", "p1", "p2"]], [2])
    scores = task.scores((query, texts))
    assert scores["map"].value == pytest.approx((1 / 1 + 2 / 4) / 2)
    assert scores["mrr"].value == 1.0
    assert scores["ndcg_at_10"].value == pytest.approx((1 + 1 / np.log2(5)) / (1 + 1 / np.log2(3)))
    two = Reranking(["q", "r"], [["n", "p"], ["n", "n", "p"]], [1, 1])
    vectors = np.array([[0, 1], [1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    found = two.scores((np.repeat(query, 2, axis=0), vectors))["map"]
    assert found.units == pytest.approx([1.0, 1 / 3])  # the second query's texts are its own


@pytest.mark.parametrize("size", [3, 7, 11, 33])
def test_equal_texts_of_a_pool_tie_whatever_their_place_and_width(rng, size: int) -> None:
    for width in (16, 61, 384):
        query, text = unit(rng, 1, width), unit(rng, 1, width)
        scores = Reranking(["q"], [["t"] * size], [1]).scores((query, np.repeat(text, size, axis=0)))
        assert scores["map"].value == pytest.approx(1 / size)  # the relevant one is put last


def test_summaries_are_scored_by_the_nearest_human_one(rng) -> None:
    human, machine = [["h"] * 2, ["h"] * 3], [["m"] * 4, ["m"] * 5]
    gold = [[1.0, 2.0, 3.0, 2.0], [5.0, 1.0, 2.0, 2.0, 4.0]]
    people, machines = unit(rng, 5, 6), unit(rng, 9, 6)
    score = Summaries(human, machine, gold).scores((people, machines))["cosine_spearman"]
    expected = [
        spearmanr(gold[0], (machines[:4] @ people[:2].T).max(axis=1)).statistic,
        spearmanr(gold[1], (machines[4:] @ people[2:].T).max(axis=1)).statistic,
    ]
    assert score.units == pytest.approx(expected)
    assert score.value == pytest.approx(np.mean(expected))
    flat = np.repeat(people[:1], 9, axis=0)
    assert Summaries(human, machine, gold).scores((people, flat))["cosine_spearman"].value == 0


def test_intervals_of_the_three_kinds(rng) -> None:
    base = rng.random(300)
    tuned = base + 0.1 + rng.normal(0, 0.05, 300)
    low, high = gain_interval(Score.mean(base), Score.mean(tuned))
    assert low < 0.1 < high < 0.12 and low > 0.08

    gold = rng.random(200)
    poor, good = gold + rng.normal(0, 0.6, 200), gold + rng.normal(0, 0.1, 200)

    def correlated(values: np.ndarray) -> Score:
        value = spearmanr(values, gold).statistic
        return Score(value, 200, resample=lambda counts: spearman_of(values, gold, counts))

    low, high = gain_interval(correlated(poor), correlated(good))
    assert 0 < low < correlated(good).value - correlated(poor).value < high < 1
    assert gain_interval(correlated(good), correlated(good)) == [0, 0]  # both on the same resamples

    repeats = [Score(0, 100, repeats=base[:10] + gain, repeats_of=400) for gain in (0, np.arange(10) / 100)]
    low, high = gain_interval(*repeats)
    # Student's t with 9 degrees of freedom times the spread, twice as wide, as 400 were drawn of 100.
    assert (high - low) / 2 == pytest.approx(2.262157 * np.std(np.arange(10) / 100, ddof=1) * 2, rel=1e-5)
    assert (high + low) / 2 == pytest.approx(0.045)
    assert gain_interval(Score(0.1, 5), Score(0.2, 5)) is None
    nothing = Score(0, 5, resample=lambda counts: np.full(len(counts), np.nan))
    assert gain_interval(nothing, nothing) is None


ROW = {"sentence1": "a", "sentence2": "b"}
POOL = {"query": "q", "positive": ["p"], "negative": ["n"]}
SUMMARY = {"human_summaries": ["h"], "machine_summaries": ["m", "n"], "relevance": [1, 2]}
LABELLED = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
BAD = [
    (Similarity, [{**ROW, "score": 1}, {**ROW, "score": "high"}], "line 2: the score 'high' is not a number"),
    (Similarity, [{**ROW, "score": 1}, {**ROW, "score": float("nan")}], "line 2: the score nan is not a number"),
    (Similarity, [{**ROW, "score": 3}, {**ROW, "score": 3.0}], "all 2 scores are 3"),
    (Similarity, [{**ROW, "score": 1}, {"sentence1": "a", "score": 2}], "line 2: no 'sentence2'"),
    (Similarity, [{**ROW, "sentence2": 5, "score": 1}], "line 1: sentence2 is not text but 5"),
    (Similarity, [{**ROW, "rating": 1}], "no column score or similarity_score; there are sentence1, sentence2, rating"),
    (Similarity, [], "holds no row"),
    (PairClassification, [{**ROW, "label": 1}, {**ROW, "label": 2}], "line 2: the label '2' is neither 1 nor 0"),
    (PairClassification, [{**ROW, "label": 1}, {**ROW, "label": None}], "line 2: the label is None"),
    (PairClassification, [{**ROW, "label": 1}, {**ROW, "label": True}], "all 2 labels are 1"),
    (Bitext, [ROW], "holds one pair"),
    (Bitext, [{**ROW, "lang": "x"}, {**ROW, "lang": 7}], "line 2: lang is not text but 7"),
    (Clustering, [{"text": "a", "label": 1}, {"text": "b", "label": 1}], "all 2 labels are 1"),
    (Clustering, [{"text": "a", "intent": 1}], "no column label or labels or is_duplicate; there are text, intent"),
    (Clustering, [{"text": ["a"], "label": 1}], "line 1: text is not text but ['a']"),
    (Reranking, [{**POOL, "negative": []}], "no query has both positive and negative texts"),
    (Reranking, [{**POOL, "positive": [None]}], "line 1: positive is not text but None"),
    (Reranking, [{"query": "q", "positive": ["p"]}], "no column negative or negatives"),
    (Summaries, [{**SUMMARY, "relevance": [1]}], "line 1: 1 human and 2 machine summaries and 1 scores"),
    (Summaries, [{**SUMMARY, "human_summaries": []}], "line 1: 0 human and 2 machine"),
    (Summaries, [{**SUMMARY, "relevance": [1, "x"]}], "line 1: the score 'x' is not a number"),
    (Summaries, [{**SUMMARY, "relevance": [2, 2]}], "no text has summaries with different scores"),
]


@pytest.mark.parametrize(("kind", "rows", "message"), BAD, ids=[f"{kind.__name__}-{m[:30]}" for kind, _, m in BAD])
def test_a_bad_row_or_a_set_that_tells_nothing_is_refused(tmp_path: Path, rows_to, kind, rows, message: str) -> None:
    path = rows_to(tmp_path / "test.jsonl", rows)
    with pytest.raises(GeckoError) as caught:
        kind.read(path)
    assert str(path) in caught.value.message
    assert message in caught.value.message
    assert caught.value.hint and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "train.jsonl: holds no row"),
        ([LABELLED[0]] * 3, "train.jsonl: all 3 labels are x"),
        ([{"text": "a", "label": "X"}, {"text": "b", "label": "Y"}], "test.jsonl: no label of it is in train.jsonl"),
        ([{"text": "a"}], "train.jsonl: no column label"),
    ],
)
def test_a_training_split_that_teaches_nothing_is_refused(tmp_path: Path, rows_to, train, message: str) -> None:
    path = rows_to(tmp_path / "test.jsonl", LABELLED)
    with pytest.raises(GeckoError) as caught:
        Classification.read(path, rows_to(tmp_path / "train.jsonl", train), 8)
    assert message in caught.value.message
    assert caught.value.hint


def test_rows_that_order_nothing_are_counted(tmp_path: Path, rows_to) -> None:
    pools = Reranking.read(rows_to(tmp_path / "a.jsonl", [POOL, {**POOL, "negative": []}, {**POOL, "positive": "p"}]))
    assert (len(pools), pools.left_out, pools.pools) == (2, 1, [["n", "p"]] * 2)
    same = {**SUMMARY, "machine_summaries": ["m", "m"]}
    summaries = Summaries.read(rows_to(tmp_path / "b.jsonl", [SUMMARY, same, {**SUMMARY, "relevance": [3, 3]}]))
    assert (len(summaries), summaries.left_out) == (1, 2)


def test_csv_rows_are_read_too_and_their_faults_told(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text('question1,question2,is_duplicate\n"a, b",c,1\nd,,0\n')
    pairs = PairClassification.read(path)
    assert (pairs.first, pairs.second, pairs.gold.tolist()) == (["a, b", "d"], ["c", ""], [1, 0])
    path.write_text("sentence1,sentence2,score\na,b,1\na,b,x\n")
    with pytest.raises(GeckoError, match="row 2: the score 'x' is not a number"):
        Similarity.read(path)
    path.write_text("sentence1,sentence2,score\na,b,1,9\n")
    with pytest.raises(GeckoError, match="row 1: 4 columns instead of 3"):
        Similarity.read(path)
    path.write_bytes(b"sentence1,sentence2,score\na\xff,b,1\n")
    with pytest.raises(GeckoError, match=r"test\.csv: cannot be read"):
        Similarity.read(path)
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(GeckoError, match=r"test\.parquet: cannot be read"):
        Similarity.read(tmp_path / "test.parquet")

"""Pairs of texts scored: how alike (STS), the same or not (pair classification), translations (bitext mining)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gecko.errors import GeckoError
from gecko.evaluate.compare import Score
from gecko.evaluate.evaluate import Embedder
from gecko.evaluate.rows import check_differ, label_of, read_rows, score_of, text_of
from gecko.miner.exact import top_k

_TRUTH = {"1": 1, "true": 1, "yes": 1, "0": 0, "false": 0, "no": 0}


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """STS: Spearman's correlation of the cosine with people's scores, over all pairs of the set.

    Attributes:
        first, second: The texts (n,).
        gold: People's scores (n,).
    """

    first: list[str]
    second: list[str]
    gold: np.ndarray
    left_out = 0  # every row is scored

    @classmethod
    def read(cls, path: Path) -> Similarity:
        """Read sentence1, sentence2 and score.

        Raises:
            GeckoError: A row is bad, or there is nothing to order: fewer than two pairs, or scores that are all equal.
        """
        first: list[str] = []
        second: list[str] = []
        gold: list[float] = []
        for row, where in read_rows(path, ("sentence1", "sentence2", "score")):
            first.append(text_of(row, "sentence1", where))
            second.append(text_of(row, "sentence2", where))
            gold.append(score_of(row["score"], where))
        if len(set(gold)) < 2:
            raise GeckoError(f"{path}: all {len(gold)} scores are {gold[0]:g}", "is the right column named score?")
        return cls(first, second, np.array(gold))

    def __len__(self) -> int:
        return len(self.gold)

    def take(self, rows: np.ndarray) -> Similarity:
        """Keep some of the pairs."""
        check_differ(self.gold[rows].tolist(), "score")
        return Similarity([self.first[i] for i in rows], [self.second[i] for i in rows], self.gold[rows])

    def encode(self, model: Embedder, word: str) -> tuple[np.ndarray, ...]:
        """Encode both sides alike."""
        return tuple(model.encode_symmetric(texts, word, "STS") for texts in (self.first, self.second))

    def scores(self, vectors: tuple[np.ndarray, ...]) -> dict[str, Score]:
        """Correlate; an interval is drawn over the pairs."""
        from scipy.stats import spearmanr

        cosine = _cosine(*vectors)
        gold = self.gold
        value = float(spearmanr(cosine, gold).statistic) if np.ptp(cosine) > 0 else 0.0
        score = Score(value, len(gold), resample=lambda counts: spearman_of(cosine, gold, counts))
        return {"cosine_spearman": score}


@dataclass(frozen=True, slots=True, eq=False)
class PairClassification:
    """Pairs that are the same or not: average precision when they are ordered by their likeness.

    As MTEB's main score, the best of several measures of likeness. On unit vectors the cosine, the dot product and the
    Euclidean distance order alike, so two remain: the cosine and the Manhattan distance.

    Attributes:
        first, second: The texts (n,).
        gold: 1 where they are the same, else 0 (n,).
    """

    first: list[str]
    second: list[str]
    gold: np.ndarray
    left_out = 0  # every row is scored

    @classmethod
    def read(cls, path: Path) -> PairClassification:
        """Read sentence1, sentence2 and label.

        Raises:
            GeckoError: A row is bad, a label is neither 1 nor 0, or all are the same.
        """
        first: list[str] = []
        second: list[str] = []
        gold: list[int] = []
        for row, where in read_rows(path, ("sentence1", "sentence2", "label")):
            label = label_of(row, where)
            if label.lower() not in _TRUTH:
                raise GeckoError(f"{where}: the label {label!r} is neither 1 nor 0", "1 says that the two are the same")
            first.append(text_of(row, "sentence1", where))
            second.append(text_of(row, "sentence2", where))
            gold.append(_TRUTH[label.lower()])
        if len(set(gold)) < 2:
            raise GeckoError(f"{path}: all {len(gold)} labels are {gold[0]}", "pairs of both labels are needed")
        return cls(first, second, np.array(gold))

    def __len__(self) -> int:
        return len(self.gold)

    def take(self, rows: np.ndarray) -> PairClassification:
        """Keep some of the pairs."""
        check_differ(self.gold[rows].tolist(), "label")
        return PairClassification([self.first[i] for i in rows], [self.second[i] for i in rows], self.gold[rows])

    def encode(self, model: Embedder, word: str) -> tuple[np.ndarray, ...]:
        """Encode both sides alike."""
        return tuple(model.encode_symmetric(texts, word, "PairClassification") for texts in (self.first, self.second))

    def scores(self, vectors: tuple[np.ndarray, ...]) -> dict[str, Score]:
        """Score the order by the better measure, and by the cosine alone; intervals are drawn over the pairs."""
        from sklearn.metrics import average_precision_score

        first, second = vectors
        likeness = [_cosine(first, second), -np.abs(first - second).sum(axis=1)]
        gold = self.gold

        def score(measures: list[np.ndarray]) -> Score:
            return Score(
                max(float(average_precision_score(gold, measure)) for measure in measures),
                len(gold),
                resample=lambda counts: np.max([precision_of(measure, gold, counts) for measure in measures], axis=0),
            )

        return {"max_ap": score(likeness), "cosine_ap": score(likeness[:1])}


@dataclass(frozen=True, slots=True, eq=False)
class Bitext:
    """Translations: is a text's nearest neighbour in the other language its own translation.

    Attributes:
        first, second: The texts (n,), in parallel.
        subsets: The language pair of each (n,); each is searched by itself, and all count alike.
    """

    first: list[str]
    second: list[str]
    subsets: list[str]
    left_out = 0  # every row is scored

    @classmethod
    def read(cls, path: Path) -> Bitext:
        """Read sentence1, sentence2 and, where there is one, lang.

        Raises:
            GeckoError: A row is bad, or there are fewer than two pairs.
        """
        first: list[str] = []
        second: list[str] = []
        subsets: list[str] = []
        for row, where in read_rows(path, ("sentence1", "sentence2"), ("lang",)):
            first.append(text_of(row, "sentence1", where))
            second.append(text_of(row, "sentence2", where))
            subsets.append(text_of(row, "lang", where) if "lang" in row else "")
        if len(first) < 2:
            raise GeckoError(f"{path}: holds one pair", "a translation is looked for among others")
        return cls(first, second, subsets)

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: np.ndarray) -> Bitext:
        """Keep some of the pairs."""
        return Bitext(*([texts[i] for i in rows] for texts in (self.first, self.second, self.subsets)))

    def encode(self, model: Embedder, word: str) -> tuple[np.ndarray, ...]:
        """Encode both sides alike."""
        return tuple(model.encode_symmetric(texts, word, "BitextMining") for texts in (self.first, self.second))

    def scores(self, vectors: tuple[np.ndarray, ...]) -> dict[str, Score]:
        """Score both directions; MTEB's is that from sentence1 to sentence2. Intervals are drawn over the pairs."""
        first, second = vectors
        return {"f1": self._f1(first, second), "f1_reverse": self._f1(second, first)}

    def _f1(self, queries: np.ndarray, corpus: np.ndarray) -> Score:
        """The mean over the subsets of the weighted F1, each position being a class of its own; units are the pairs."""
        names = np.array(self.subsets)
        parts = np.empty(len(names))
        different = list(dict.fromkeys(self.subsets))
        of_subset: dict[str, float] = {}
        for name in different:
            rows = np.flatnonzero(names == name)
            nearest = top_k(queries[rows], corpus[rows], 1)[0][:, 0]
            right = nearest == np.arange(len(rows))
            chosen = np.bincount(nearest, minlength=len(rows))  # how often each was taken for a translation
            f1 = np.where(right, 2 / (1 + chosen), 0.0)
            of_subset[name] = float(f1.mean())
            parts[rows] = f1 * len(names) / (len(different) * len(rows))
        return replace(Score.mean(parts), subsets=of_subset if len(different) > 1 else {})


def spearman_of(one: np.ndarray, other: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's correlation of two vectors (n,) in resamples.

    Args:
        one: Values.
        other: Values of the same items.
        counts: How often each item is in each resample, int (b, n).

    Returns:
        Correlations (b,); not a number where one side is constant.
    """
    weights = counts / counts.sum(axis=1, keepdims=True)
    sides = []
    for values in (one, other):
        ranks = _ranks(values, counts)
        sides.append(ranks - (weights * ranks).sum(axis=1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = [np.sqrt((weights * side * side).sum(axis=1)) for side in sides]
        correlation: np.ndarray = (weights * sides[0] * sides[1]).sum(axis=1) / (spread[0] * spread[1])
    return correlation


def precision_of(scores: np.ndarray, gold: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Average precision of an order in resamples, equal scores taken together as scikit-learn does.

    Args:
        scores: Likeness (n,).
        gold: 1 or 0 (n,).
        counts: How often each item is in each resample, int (b, n).

    Returns:
        Average precisions (b,); not a number where a resample has no positive.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # the last of each group of equal scores
    drawn = counts[:, order]
    hits = np.cumsum(drawn * gold[order], axis=1)[:, last]
    seen = np.cumsum(drawn, axis=1)[:, last]
    gained = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):
        precision: np.ndarray = (gained * hits / np.maximum(seen, 1)).sum(axis=1) / hits[:, -1]
    return precision


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean ranks (b, n) of the items within each resample, equal values sharing one."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    group = np.cumsum(np.append(True, ordered[1:] != ordered[:-1])) - 1
    sizes = np.add.reduceat(counts[:, order], starts, axis=1)
    means = np.cumsum(sizes, axis=1) - sizes + (sizes + 1) / 2
    ranks = np.empty(counts.shape)
    ranks[:, order] = means[:, group]
    return ranks


def _cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines (n,) of unit vectors in pairs."""
    return np.einsum("nd,nd->n", first, second, dtype=np.float64)

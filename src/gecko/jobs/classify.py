"""Texts put into a few classes by a linear head on the vectors, learnt from some labelled texts.

What it would do on new texts is measured by cross-validation, in which the head's strength is chosen inside each fold.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gecko.errors import GeckoError

_STRENGTHS = (1.0, 10.0, 100.0)  # inverse of the penalty on the weights; vectors of unit length want a light one
_FOLDS = 5
_INNER = 3
_STEPS = 1000
_DRAWS = 5  # of the texts that a point of the learning curve is learnt from
_SIZES = (2, 4, 8, 16, 32, 64, 128)  # texts a label, of the learning curve
_SURE = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A linear head: which class a vector is of, and how sure that is.

    Attributes:
        labels: Names of the c classes.
        weights: (c, d), and ``bias`` (c,).
    """

    labels: tuple[str, ...]
    weights: np.ndarray
    bias: np.ndarray

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """The probability of each class for (n, d) vectors: (n, c)."""
        scores = vectors.astype(np.float64) @ self.weights.T + self.bias
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """What cross-validation says of n labelled texts.

    Attributes:
        labels: Names of the c classes.
        gold, given: (n,) the class of each text by its place in ``labels``: the written one, and the head's where the
            text was not learnt from.
        sure: (n,) the probability of the class that was given.
        folds: How many parts the texts were cut into.
    """

    labels: tuple[str, ...]
    gold: np.ndarray
    given: np.ndarray
    sure: np.ndarray
    folds: int

    @property
    def right(self) -> np.ndarray:
        """(n,) 1 where the head was right."""
        return (self.gold == self.given).astype(float)

    def figures(self) -> dict[str, Any]:
        """Accuracy with its interval, macro F1, each label's figures, what is confused, and what sureness is worth."""
        from scipy.stats import binomtest
        from sklearn.metrics import precision_recall_fscore_support

        places = range(len(self.labels))
        precision, recall, f1, count = precision_recall_fscore_support(
            self.gold, self.given, labels=list(places), zero_division=0.0
        )
        interval = binomtest(int(self.right.sum()), len(self.right)).proportion_ci(method="wilson")
        confused = Counter(
            (self.labels[a], self.labels[b]) for a, b in zip(self.gold, self.given, strict=True) if a != b
        )
        return {
            "n": len(self.gold),
            "folds": self.folds,
            "accuracy": float(self.right.mean()),
            "ci95": [float(interval.low), float(interval.high)],
            "commonest": float(np.bincount(self.gold).max() / len(self.gold)),
            "macro_f1": float(np.mean(f1)),
            "labels": [
                {
                    "label": self.labels[place],
                    "n": int(count[place]),
                    "precision": float(precision[place]),
                    "recall": float(recall[place]),
                    "f1": float(f1[place]),
                }
                for place in places
            ],
            "confused": [{"label": a, "given": b, "n": n} for (a, b), n in confused.most_common(20)],
            "sure": [
                {"from": least, "share": float(kept.mean()), "accuracy": float(self.right[kept].mean())}
                for least in _SURE
                if (kept := self.sure >= least).any()
            ],
        }


def check_labels(labels: Sequence[str]) -> tuple[list[int], Counter[str]]:
    """The texts that a head can be learnt from and checked with, and the labels that only one text has.

    Raises:
        GeckoError: Fewer than two labels are left.
    """
    counts = Counter(labels)
    single = Counter({label: 1 for label, count in counts.items() if count == 1})
    kept = [place for place, label in enumerate(labels) if counts[label] > 1]
    there = sorted(label for label, count in counts.items() if count > 1)
    if len(there) < 2:
        named = f"all are {there[0]}" if there else "no label has two texts"
        raise GeckoError(f"{len(labels)} labelled texts, but {named}", "two labels of two texts or more are needed")
    return kept, single


def cross_validate(vectors: np.ndarray, labels: Sequence[str], seed: int = 0) -> Checked:
    """Have each text judged by a head that was not learnt from it.

    Args:
        vectors: (n, d) unit vectors.
        labels: Their labels, each of two texts or more.
        seed: Of the folds.
    """
    names, gold = _number(labels)
    given, sure = np.zeros(len(gold), int), np.zeros(len(gold))
    folds = list(_folds(gold, _FOLDS, seed))
    for learnt, judged in folds:
        head = _fit(vectors[learnt], gold[learnt], names, seed)
        found = head.probabilities(vectors[judged])
        given[judged], sure[judged] = found.argmax(axis=1), found.max(axis=1)
    return Checked(names, gold, given, sure, len(folds))


def learn(vectors: np.ndarray, labels: Sequence[str], seed: int = 0) -> Head:
    """Learn a head from all labelled vectors (n, d)."""
    names, gold = _number(labels)
    return _fit(vectors, gold, names, seed)


def learning_curve(vectors: np.ndarray, labels: Sequence[str], seed: int = 0) -> list[dict[str, float]]:
    """Accuracy on the texts left out, learnt from more and more texts a label: whether more labelling pays.

    A point is the mean over five draws; labels with no more texts than it asks for lend half of what they have.
    """
    names, gold = _number(labels)
    middle = float(np.median(np.bincount(gold)))
    points = []
    for size in _SIZES:
        if size > middle / 2:
            break
        scores = []
        for draw in range(_DRAWS):
            learnt = _draw(gold, size, np.random.default_rng([seed, size, draw]))
            judged = np.setdiff1d(np.arange(len(gold)), learnt)
            found = _learn(vectors[learnt], gold[learnt], names, _STRENGTHS[1]).probabilities(vectors[judged])
            scores.append(float(np.mean(found.argmax(axis=1) == gold[judged])))
        points.append({"per_label": size, "accuracy": float(np.mean(scores))})
    return points


def _number(labels: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    names, gold = np.unique(np.array(labels, object).astype(str), return_inverse=True)
    return tuple(names.tolist()), gold


def _folds(gold: np.ndarray, most: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut texts so that each part has each label in its share; a label of two texts is learnt from in every fold."""
    from sklearn.model_selection import StratifiedKFold

    folds = max(2, min(most, int(np.bincount(gold).max())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label of fewer texts than there are folds is in some only
        yield from StratifiedKFold(folds, shuffle=True, random_state=seed).split(gold[:, None], gold)


def _draw(gold: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    drawn = []
    for label in np.unique(gold):
        own = np.flatnonzero(gold == label)
        drawn.append(rng.choice(own, min(size, max(1, len(own) // 2)), replace=False))
    return np.concatenate(drawn)


def _fit(vectors: np.ndarray, gold: np.ndarray, names: tuple[str, ...], seed: int) -> Head:
    """Learn a head whose strength is the best in a cross-validation of its own; the middle one of too few texts."""
    counts = np.bincount(gold, minlength=len(names))
    if counts[counts > 0].min() < 2:
        return _learn(vectors, gold, names, _STRENGTHS[1])
    right = dict.fromkeys(_STRENGTHS, 0)
    kept, inner = np.unique(gold, return_inverse=True)
    for learnt, judged in _folds(inner, _INNER, seed):
        for strength in _STRENGTHS:
            head = _learn(vectors[learnt], inner[learnt], tuple(names[place] for place in kept), strength)
            right[strength] += int((head.probabilities(vectors[judged]).argmax(axis=1) == inner[judged]).sum())
    return _learn(vectors, gold, names, max(_STRENGTHS, key=lambda strength: right[strength]))


def _learn(vectors: np.ndarray, gold: np.ndarray, names: tuple[str, ...], strength: float) -> Head:
    """Learn the head of one strength; a class that no text has is never given."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # One thread: the products are small, and beside another program two that wait for each other cost ten times more.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=strength, max_iter=_STEPS).fit(vectors, gold)
    coefficients, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(model.classes_) == 2:  # one row, for the second class: half of it for each gives the same probabilities
        coefficients, bias = np.concatenate([-coefficients, coefficients]) / 2, np.concatenate([-bias, bias]) / 2
    weights, offsets = np.zeros((len(names), vectors.shape[1])), np.full(len(names), -np.inf)
    weights[model.classes_], offsets[model.classes_] = coefficients, bias
    return Head(names, weights, offsets)

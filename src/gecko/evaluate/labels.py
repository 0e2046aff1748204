"""Labelled texts scored: can a linear classifier (classification) or k-means (clustering) tell the labels apart.

The draws are MTEB's own, so that figures compare with it: the same seeds, generators and settings.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gecko.errors import GeckoError
from gecko.evaluate.compare import Score
from gecko.evaluate.evaluate import Embedder
from gecko.evaluate.rows import check_differ, label_of, read_rows, text_of

_SEED = 42
_EXPERIMENTS = 10
_CLUSTERED = 16_384  # texts drawn for each experiment of a clustering


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """Accuracy of logistic regression on the vectors of a few texts a label, the mean of ten draws of them.

    Attributes:
        texts, labels: Of the test split (n,).
        train_texts, train_labels: Of the training split.
        per_label: Texts drawn of each label.
    """

    texts: list[str]
    labels: np.ndarray
    train_texts: list[str]
    train_labels: np.ndarray
    per_label: int = 8
    left_out = 0  # every row is scored

    @classmethod
    def read(cls, path: Path, train: Path, per_label: int) -> Classification:
        """Read text and label of both splits.

        Raises:
            GeckoError: A row is bad, the training split has one label only, or none of the test's.
        """
        texts, labels = _labelled(path)
        train_texts, train_labels = _labelled(train)
        known = set(train_labels)
        if len(known) < 2:
            raise GeckoError(f"{train}: all {len(train_labels)} labels are {train_labels[0]}", "two or more are needed")
        if known.isdisjoint(labels):
            raise GeckoError(f"{path}: no label of it is in {train.name}", "do both files number the labels alike?")
        return cls(texts, np.array(labels), train_texts, np.array(train_labels), per_label)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> Classification:
        """Keep some of the test texts; the training split stays whole."""
        return replace(self, texts=[self.texts[i] for i in rows], labels=self.labels[rows])

    def encode(self, model: Embedder, word: str) -> tuple[np.ndarray, ...]:
        """Encode the test texts and those of the training split that a draw holds."""
        drawn = [self.train_texts[i] for i in self._union()]
        return tuple(model.encode_symmetric(texts, word, "Classification") for texts in (self.texts, drawn))

    def scores(self, vectors: tuple[np.ndarray, ...]) -> dict[str, Score]:
        """Fit and predict; an interval is drawn over the test texts."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        test, train = vectors
        place = {row: position for position, row in enumerate(self._union())}
        right = np.zeros(len(self.texts))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred steps are the protocol
            for drawn in self._draws():
                model = LogisticRegression(max_iter=100, random_state=_SEED)
                model.fit(train[[place[row] for row in drawn]], self.train_labels[drawn])
                right += model.predict(test) == self.labels
        return {"accuracy": Score.mean(right / _EXPERIMENTS)}

    def _union(self) -> list[int]:
        return sorted({row for drawn in self._draws() for row in drawn})

    def _draws(self) -> list[list[int]]:
        """The training rows of each experiment: the first of each label in an order that is shuffled on and on."""
        order = list(range(len(self.train_texts)))
        draws = []
        for _ in range(_EXPERIMENTS):
            np.random.RandomState(_SEED).shuffle(order)  # as MTEB draws
            taken: Counter[str] = Counter()
            drawn = []
            for row in order:
                label = self.train_labels[row]
                if taken[label] < self.per_label:
                    taken[label] += 1
                    drawn.append(row)
            draws.append(drawn)
        return draws


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """V-measure of mini-batch k-means with as many clusters as labels, the mean over resamples of the texts.

    Attributes:
        texts, labels: Of the set (n,).
        experiments: Resamples; MTEB has ten, and each ends where its random start leads: with the same data, figures
            of one differ by several points.
    """

    texts: list[str]
    labels: np.ndarray
    experiments: int = _EXPERIMENTS
    left_out = 0  # every row is scored

    @classmethod
    def read(cls, path: Path) -> Clustering:
        """Read text and label.

        Raises:
            GeckoError: A row is bad, or there is one label only.
        """
        texts, labels = _labelled(path)
        if len(set(labels)) < 2:
            raise GeckoError(f"{path}: all {len(labels)} labels are {labels[0]}", "two or more are needed")
        return cls(texts, np.array(labels))

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> Clustering:
        """Keep some of the texts."""
        check_differ(self.labels[rows].tolist(), "label")
        return Clustering([self.texts[i] for i in rows], self.labels[rows], self.experiments)

    def encode(self, model: Embedder, word: str) -> tuple[np.ndarray, ...]:
        """Encode the texts."""
        return (model.encode_symmetric(self.texts, word, "Clustering"),)

    def scores(self, vectors: tuple[np.ndarray, ...]) -> dict[str, Score]:
        """Cluster resamples; an interval comes from how the figure varies over them."""
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.metrics import v_measure_score

        (points,) = vectors
        draw = random.Random(_SEED)  # noqa: S311  (as MTEB draws)
        means = MiniBatchKMeans(
            n_clusters=len(set(self.labels)), batch_size=512, init="k-means++", n_init=1, random_state=_SEED
        )
        found = []
        for _ in range(self.experiments):
            rows = draw.choices(range(len(points)), k=_CLUSTERED)
            found.append(float(v_measure_score(self.labels[rows], means.fit_predict(points[rows]))))
        repeats = np.array(found)
        return {
            "v_measure": Score(float(repeats.mean()), len(self.texts), repeats=repeats, repeats_of=_CLUSTERED),
        }


def _labelled(path: Path) -> tuple[list[str], list[str]]:
    texts: list[str] = []
    labels: list[str] = []
    for row, where in read_rows(path, ("text", "label")):
        texts.append(text_of(row, "text", where))
        labels.append(label_of(row, where))
    return texts, labels

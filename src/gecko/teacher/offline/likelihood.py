"""Query likelihood from counts: a smoothed unigram model of the passage with a translation model of related words.

``P(w|p) = (1-b) P_dirichlet(w|p) + b sum_u T(w|u) P_ml(u|p)`` (Zhai & Lafferty 2001; Berger & Lafferty 1999), where T
is estimated from how often words occur in the same passages of this corpus (positive pointwise mutual information).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gecko.records import Passage

_WORD = re.compile(r"\w+")
_VOCABULARY = 30_000
_ASSOCIATES = 10
_BLOCK = 2048


class QueryLikelihood:
    """log P(query | passage) over a corpus.

    Args:
        mu: Dirichlet prior, in words.
        translation: b, the weight of the translation model.
    """

    def __init__(self, mu: float = 300.0, translation: float = 0.3) -> None:
        import Stemmer
        from bm25s.stopwords import STOPWORDS_EN

        self.mu = mu
        self.translation = translation
        self._stem = Stemmer.Stemmer("english").stemWords
        self._stop = frozenset(STOPWORDS_EN)
        self._collection: dict[str, float] = {}
        self._related: dict[str, list[tuple[str, float]]] = {}

    def words(self, text: str) -> list[str]:
        """Stems of a text's words without stop words."""
        return list(self._stem([word for word in _WORD.findall(text.lower()) if word not in self._stop]))

    def fit(self, passages: Iterable[Passage]) -> None:
        """Count the corpus: word probabilities and the translation table."""
        totals: Counter[str] = Counter()
        bags: list[list[str]] = []
        for passage in passages:
            words = self.words(f"{passage.title} {passage.text}")
            totals.update(words)
            bags.append(sorted(set(words)))
        size = sum(totals.values())
        self._collection = {word: count / size for word, count in totals.items()}
        vocabulary = [word for word, count in totals.most_common(_VOCABULARY) if count >= 3]
        self._related = _associates(bags, vocabulary)

    def score(self, query: str, passage: Passage) -> float:
        """Log-likelihood of the query under the passage's model, in nats."""
        counts = Counter(self.words(f"{passage.title} {passage.text}"))
        length = sum(counts.values())
        return sum(math.log(self._probability(word, counts, length)) for word in self.words(query))

    def scores(self, query: str, passages: Sequence[Passage]) -> list[float]:
        """Log-likelihood of one query under each of several passages."""
        return [self.score(query, passage) for passage in passages]

    def _probability(self, word: str, counts: Counter[str], length: int) -> float:
        background = self._collection.get(word, 1e-7)
        direct = (counts[word] + self.mu * background) / (length + self.mu)
        if not length:
            return direct
        related = sum(weight * counts[other] for other, weight in self._related.get(word, ())) / length
        return (1 - self.translation) * direct + self.translation * (0.5 * related + 0.5 * direct)


def _associates(bags: Sequence[Sequence[str]], vocabulary: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
    """For each word, the words whose presence speaks for it: (other word u, T(word|u)), strongest first."""
    from scipy import sparse

    position = {word: index for index, word in enumerate(vocabulary)}
    rows, columns = [], []
    for row, bag in enumerate(bags):
        for word in bag:
            column = position.get(word)
            if column is not None:
                rows.append(row)
                columns.append(column)
    shape = (len(bags), len(vocabulary))
    presence: Any = sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    frequency = np.asarray(presence.sum(axis=0)).ravel()
    by_word = presence.T.tocsr()
    related: dict[str, list[tuple[str, float]]] = {}
    for start in range(0, len(vocabulary), _BLOCK):
        together = (by_word[start : start + _BLOCK] @ presence).tocsr()
        for offset in range(together.shape[0]):
            index = start + offset
            row = together.getrow(offset)
            keep = (row.indices != index) & (row.data >= 3)
            others, joint = row.indices[keep], row.data[keep]
            if not len(others):
                continue
            pmi = np.log(joint * len(bags) / (frequency[index] * frequency[others]))
            best = np.argsort(-pmi * np.log1p(joint), kind="stable")[:_ASSOCIATES]
            best = best[pmi[best] > 1.0]
            # T(word|u): how often the word is there when u is.
            related[vocabulary[index]] = [
                (vocabulary[others[b]], float(joint[b] / frequency[others[b]]) / _ASSOCIATES) for b in best
            ]
    return related

"""Query likelihood from counts: a smoothed unigram model of the passage with a translation model of related words.

``P(w|p) = (1-b) P_dirichlet(w|p) + b sum_u T(w|u) P_ml(u|p)`` (Zhai & Lafferty 2001; Berger & Lafferty 1999). T(.|u)
keeps half its mass on u itself; the other half goes to the words that occur in the same passages of this corpus more
often than chance (positive pointwise mutual information). T comes from counts of the corpus, not from an embedding.
Where the miner's cosines are known, each term of the query is likelier by ``DENSE`` nats for a unit of cosine: words
alone put passages first that hold them in another sense.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gecko.records import Passage
from gecko.teacher.offline.terms import Terms

_VOCABULARY = 30_000
_ASSOCIATES = 10
_LEAST_TOGETHER = 3
_BLOCK = 1024
_CACHED = 50_000
DENSE = 4.0


class QueryLikelihood:
    """log P(query | passage) over a corpus.

    Args:
        mu: Dirichlet prior, in words.
        translation: b, the weight of the translation model.
        terms: Turns text into terms; English where none is given.
    """

    def __init__(self, mu: float = 300.0, translation: float = 0.3, terms: Terms | None = None) -> None:
        self.mu = mu
        self.translation = translation
        self.terms = terms or Terms()
        self._collection: dict[str, float] = {}
        self._sources: dict[str, list[tuple[str, float]]] = {}
        self._cache: dict[str, Counter[str]] = {}

    def fit(self, passages: Iterable[Passage]) -> None:
        """Count the corpus: word probabilities and the translation table."""
        totals: Counter[str] = Counter()
        numbers: dict[str, int] = {}
        # A word of a passage is four bytes here and would be sixty as a string of its own.
        bags: list[np.ndarray] = []
        for passage in passages:
            words = self.terms.of(f"{passage.title} {passage.text}")
            totals.update(words)
            bags.append(np.array([numbers.setdefault(word, len(numbers)) for word in sorted(set(words))], np.int32))
        size = max(1, sum(totals.values()))
        self._collection = {word: count / size for word, count in totals.items()}
        self._cache = {}
        ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
        vocabulary = [word for word, count in ranked[:_VOCABULARY] if count >= _LEAST_TOGETHER]
        self._sources = _translations(bags, vocabulary, numbers)

    def counts(self, passage: Passage) -> Counter[str]:
        """Terms of a passage with their counts; kept for the next query that meets it."""
        found = self._cache.get(passage.passage_id)
        if found is None:
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            found = self._cache[passage.passage_id] = Counter(self.terms.of(f"{passage.title} {passage.text}"))
        return found

    def scores(self, query: str, passages: Sequence[Passage], cosines: Sequence[float] | None = None) -> list[float]:
        """Log-likelihood of one query under each of several passages, up to a constant of the query."""
        words = self.terms.of(query)
        results = []
        for index, passage in enumerate(passages):
            counts = self.counts(passage)
            length = counts.total()
            dense = 0.0 if cosines is None else DENSE * len(words) * cosines[index]
            results.append(sum(math.log(self._probability(word, counts, length)) for word in words) + dense)
        return results

    def _probability(self, word: str, counts: Counter[str], length: int) -> float:
        background = self._collection.get(word, 1e-7)
        smoothed = (counts[word] + self.mu * background) / (length + self.mu)
        if not length:
            return smoothed
        translated = sum(weight * counts[source] for source, weight in self._sources.get(word, ()))
        own = counts[word] * (0.5 if word in self._sources else 1.0)
        return (1 - self.translation) * smoothed + self.translation * (own + translated) / length


def _translations(
    bags: Sequence[np.ndarray], vocabulary: Sequence[str], numbers: Mapping[str, int]
) -> dict[str, list[tuple[str, float]]]:
    """For each word w the words u that translate into it, with T(w|u); co-occurrence is computed in blocks.

    Args:
        bags: The words of each passage, by number.
        vocabulary: The words that are translated.
        numbers: The number of each word.
    """
    from scipy import sparse

    position = np.full(len(numbers), -1, np.int32)
    position[[numbers[word] for word in vocabulary]] = np.arange(len(vocabulary))
    columns = [position[bag] for bag in bags]
    columns = [row[row >= 0] for row in columns]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in columns])]).astype(np.int64)
    flat = np.concatenate([np.zeros(0, np.int32), *columns])
    shape = (len(bags), len(vocabulary))
    presence: Any = sparse.csr_matrix((np.ones(len(flat), dtype=np.float32), flat, starts), shape=shape)
    frequency = np.asarray(presence.sum(axis=0)).ravel()
    by_word = presence.T.tocsr()
    sources: dict[str, list[tuple[str, float]]] = {word: [] for word in vocabulary}
    for start in range(0, len(vocabulary), _BLOCK):
        together = (by_word[start : start + _BLOCK] @ presence).tocsr()
        for offset in range(together.shape[0]):
            source = start + offset
            row = slice(together.indptr[offset], together.indptr[offset + 1])
            others, joint = together.indices[row], together.data[row]
            keep = (others != source) & (joint >= _LEAST_TOGETHER)
            others, joint = others[keep], joint[keep]
            if not len(others):
                continue
            strength = np.log(joint * len(bags) / (frequency[source] * frequency[others])) * np.log1p(joint)
            best = np.lexsort((others, -strength))[:_ASSOCIATES]
            best = best[strength[best] > 0]
            total = float(strength[best].sum())
            for index in best:
                sources[vocabulary[others[index]]].append((vocabulary[source], 0.5 * float(strength[index]) / total))
    return sources

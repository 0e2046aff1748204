"""Relevance from fused lexical and dense evidence, on the scale 0 to 3 of the graded teachers.

``RC = 3 sigmoid(6 (lexical + dense) / 2 - 3)``, with ``lexical`` the share of the query's weight (idf) that the passage
holds, and ``dense`` the miner's cosine mapped from 0.1–0.8 to 0–1. Both must speak for a passage to reach 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from gecko.records import Passage

_LOWEST_COSINE, _HIGHEST_COSINE = 0.1, 0.8


class Relevance:
    """Scores how well a passage serves a query.

    Args:
        words: Turns a text into the terms that are compared.
    """

    def __init__(self, words: Callable[[str], list[str]]) -> None:
        self._words = words
        self._idf: dict[str, float] = {}
        self._rarest = 1.0

    def fit(self, passages: Iterable[Passage]) -> None:
        """Count in how many passages each term stands."""
        frequency: dict[str, int] = {}
        total = 0
        for passage in passages:
            total += 1
            for word in set(self._words(f"{passage.title} {passage.text}")):
                frequency[word] = frequency.get(word, 0) + 1
        self._rarest = math.log1p(total)
        self._idf = {word: math.log1p((total - count + 0.5) / (count + 0.5)) for word, count in frequency.items()}

    def scores(self, query: str, passages: Sequence[Passage], cosines: Sequence[float]) -> list[float]:
        """RC of each passage, in (0, 3); it grows with either evidence."""
        terms = set(self._words(query))
        weight = self._weight(terms)
        results = []
        for passage, cosine in zip(passages, cosines, strict=True):
            held = terms & set(self._words(f"{passage.title} {passage.text}"))
            lexical = self._weight(held) / weight if weight else 0.0
            dense = (cosine - _LOWEST_COSINE) / (_HIGHEST_COSINE - _LOWEST_COSINE)
            evidence = (lexical + min(1.0, max(0.0, dense))) / 2
            results.append(3.0 / (1.0 + math.exp(3.0 - 6.0 * evidence)))
        return results

    def _weight(self, terms: set[str]) -> float:
        # fsum does not depend on the order, and a set's order changes from process to process.
        return math.fsum(self._idf.get(term, self._rarest) for term in terms)

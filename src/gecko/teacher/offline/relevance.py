"""Relevance from fused lexical and dense evidence, on the scale 0 to 3 of the graded teachers.

``RC = 3 sigmoid(b + w_c coverage + w_l bm25/best + w_d (cosine - best) + w_t title)``, every weight positive, so RC
grows with each evidence and stays inside (0, 3). *coverage* is the share of the query's idf weight that the passage
holds; *bm25* is Lucene's formula (k1 = 0.9, b = 0.4), divided by the best among the query's candidates; *title* is the
share of the query's terms in the title; *cosine* is the miner's, less the best among the candidates, so that RC means
the same in corpora whose cosines are high and low. Without the miner's scores a second set of weights does without the
cosine.

The weights are a logistic regression on grades that a large language model gave to 780 query–passage pairs (130
queries written for PowerShell's documentation, six candidates each); on 130 other queries of that corpus the
correlation with the grades is 0.61. Figures of the offline teacher on that corpus profit from it. The weight of the
cosine is not from there: those candidates were the six nearest by cosine, which hides what it is worth. It was chosen
by nDCG@10 on the training queries of scifact and the dev queries of mlquestions and feedbackqa.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from gecko.records import Passage
from gecko.teacher.offline.likelihood import QueryLikelihood

K1, B = 0.9, 0.4
# (bias, coverage, bm25/best, cosine, title)
WITH_MINER = (-2.7, 1.5, 3.1, 8.0, 0.1)
WITHOUT_MINER = (-3.5, 1.5, 3.1, 0.0, 0.1)


class Relevance:
    """Scores how well a passage serves a query.

    Args:
        likelihood: Shares its terms and the passages' counts.
    """

    def __init__(self, likelihood: QueryLikelihood) -> None:
        self._likelihood = likelihood
        self._idf: dict[str, float] = {}
        self._rarest = 1.0
        self._mean_length = 1.0

    def fit(self, passages: Iterable[Passage]) -> None:
        """Count in how many passages each term stands, and how long passages are."""
        frequency: Counter[str] = Counter()
        total, length = 0, 0
        for passage in passages:
            counts = Counter(self._likelihood.terms.of(f"{passage.title} {passage.text}"))
            frequency.update(counts.keys())
            total, length = total + 1, length + counts.total()
        self._mean_length = length / max(1, total) or 1.0
        self._rarest = math.log1p(total + 0.5)
        self._idf = {word: math.log1p((total - count + 0.5) / (count + 0.5)) for word, count in frequency.items()}

    def bm25(self, terms: Iterable[str], passage: Passage) -> float:
        """Lucene's BM25 of a passage for a query's terms."""
        counts = self._likelihood.counts(passage)
        norm = K1 * (1 - B + B * counts.total() / self._mean_length)
        return sum(self._idf.get(term, 0.0) * counts[term] / (counts[term] + norm) for term in terms)

    def evidence(
        self, query: str, passages: Sequence[Passage], cosines: Sequence[float] | None
    ) -> list[tuple[float, float, float, float]]:
        """Coverage, BM25 over the best, cosine less the best and title share of each passage."""
        listed = self._likelihood.terms.of(query)
        terms = sorted(set(listed))
        weight = sum(self._idf.get(term, self._rarest) for term in terms) or 1.0
        bm25 = [self.bm25(listed, passage) for passage in passages]
        best = max(bm25, default=0.0) or 1.0
        nearest = max(cosines or (0.0,))
        rows = []
        for index, passage in enumerate(passages):
            counts = self._likelihood.counts(passage)
            held = sum(self._idf.get(term, self._rarest) for term in terms if counts[term])
            title = set(self._likelihood.terms.of(passage.title))
            named = sum(term in title for term in terms) / max(1, len(terms))
            cosine = 0.0 if cosines is None else cosines[index] - nearest
            rows.append((held / weight, bm25[index] / best, cosine, named))
        return rows

    def scores(self, query: str, passages: Sequence[Passage], cosines: Sequence[float] | None = None) -> list[float]:
        """RC of each passage, in (0, 3)."""
        bias, *weights = WITHOUT_MINER if cosines is None else WITH_MINER
        rows = self.evidence(query, passages, cosines)
        sums = [bias + sum(w * value for w, value in zip(weights, row, strict=True)) for row in rows]
        return [3.0 / (1.0 + math.exp(-value)) for value in sums]

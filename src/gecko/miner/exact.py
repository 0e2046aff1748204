"""Exact nearest-neighbour search: blocks of float32 products propose, float64 products decide.

A float32 matrix product rounds otherwise in a block of another shape, so scores taken from it would depend on how
queries and documents were cut. Here it only says which documents cannot be among the best: those that stay behind by
more than its greatest possible error. The others, some dozens a query, are scored again one by one. Scores and
positions are therefore the same to the bit whatever the blocks, shards, threads or the linear-algebra library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

QUERY_BLOCK = 2048
CHUNK = 16_384
_GROUP = 64  # scores of which only the greatest is looked at first
_PAIRS = 512  # vectors scored again at a time
_NOT_A_NUMBER = "a similarity is not a finite number: the vectors hold NaN or infinity"

Found = tuple[np.ndarray, np.ndarray]


def top_k(queries: np.ndarray, documents: Any, k: int, chunk: int = CHUNK) -> Found:  # noqa: ANN401
    """Find each query's k documents of greatest inner product, exactly and deterministically.

    A score is the inner product in float64, rounded to float32; equal scores go to the lower position. Memory is
    bounded by ``QUERY_BLOCK`` x ``chunk`` scores whatever the number of queries or documents, so ``documents`` may be
    memory-mapped.

    Args:
        queries: Vectors (n, d), of any real type; they are read as float32.
        documents: Vectors (m, d), likewise.
        k: Neighbours a query; fewer where the corpus is smaller.
        chunk: Documents multiplied at a time.

    Returns:
        Positions (n, k) int64 and scores (n, k) float32, best first.

    Raises:
        ValueError: A score is not a number, or the widths differ.
    """
    k = min(k, len(documents))
    positions = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float32)
    if k == 0 or len(queries) == 0:
        return positions, scores
    starts = range(0, len(documents), chunk)
    longest: list[float] = []  # the greatest length of a vector in each chunk
    for first in range(0, len(queries), QUERY_BLOCK):
        block = _Block(np.asarray(queries[first : first + QUERY_BLOCK], np.float32), k, min(chunk, len(documents)))
        for number, start in enumerate(starts):
            part = np.asarray(documents[start : start + chunk], np.float32)
            if number == len(longest):
                longest.append(float(_lengths(part).max()))
            block.look_at(part, start, longest[number])
        positions[first : first + QUERY_BLOCK] = block.positions
        scores[first : first + QUERY_BLOCK] = block.scores
    return positions, scores


def search_shard(queries: np.ndarray, shard: Any, k: int, first: int) -> Found:  # noqa: ANN401
    """Search one shard of a corpus, as :func:`top_k` does.

    Args:
        queries: Vectors (n, d).
        shard: Vectors (m, d): the corpus's from position ``first`` on.
        k: Neighbours wanted of the whole corpus.
        first: Position of the shard's first vector in the corpus.

    Returns:
        Positions in the corpus (n, min(k, m)) int64 and scores float32, best first.
    """
    positions, scores = top_k(queries, shard, k)
    return positions + first, scores


def merge(parts: Sequence[Found], k: int) -> Found:
    """Merge what was found in the shards of a corpus; equal to the bit to a search of the whole, in any order.

    Args:
        parts: Positions and scores of the same queries, of every shard.
        k: Neighbours a query.

    Returns:
        Positions (n, k) int64 and scores (n, k) float32, best first; fewer where the corpus is smaller.
    """
    positions = np.concatenate([part[0] for part in parts], axis=1)
    scores = np.concatenate([part[1] for part in parts], axis=1)
    order = np.lexsort((positions, -scores), axis=1)[:, :k]
    return np.take_along_axis(positions, order, 1), np.take_along_axis(scores, order, 1)


def pair_scores(queries: np.ndarray, documents: np.ndarray, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Score pairs as :func:`top_k` defines a score.

    Args:
        queries: Vectors (n, d) float64.
        documents: Vectors (m, d).
        rows: Which query of each pair (p,).
        places: Which document of each pair (p,).

    Returns:
        Scores (p,) float32.
    """
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _PAIRS):
        pairs = slice(start, start + _PAIRS)
        right = np.asarray(documents[places[pairs]], np.float32).astype(np.float64)
        scores[pairs] = np.einsum("nd,nd->n", queries[rows[pairs]], right)
    return scores + np.float32(0)  # which turns -0.0 into 0.0


class _Block:
    """Some queries and the best documents that they have met so far.

    Attributes:
        positions: (n, k) int64, best first.
        scores: (n, k) float32.
    """

    def __init__(self, queries: np.ndarray, k: int, chunk: int) -> None:
        self.positions = np.full((len(queries), k), np.iinfo(np.int64).max)
        self.scores = np.full((len(queries), k), -np.inf, np.float32)
        self._queries = queries
        self._exactly = queries.astype(np.float64)
        self._lengths = _lengths(queries)
        self._products = np.empty(len(queries) * (chunk + _GROUP), np.float32)

    def look_at(self, part: np.ndarray, start: int, longest: float) -> None:
        """Take the documents of one chunk into account; chunks come in the order of the corpus."""
        rows, places = self._candidates(part, longest)
        if len(rows):
            self._take(rows, places + start, pair_scores(self._exactly, part, rows, places))

    def _candidates(self, part: np.ndarray, longest: float) -> tuple[np.ndarray, np.ndarray]:
        """All pairs of a query and a document of the chunk that may belong to the query's best: rows, places."""
        count, k = self.scores.shape
        reach = self._lengths * longest
        if not (reach <= np.finfo(np.float32).max).all():  # nor is a NaN
            raise ValueError(_NOT_A_NUMBER)
        group = _group_size(len(part), k)
        groups = -(-len(part) // group)
        products = self._products[: count * groups * group].reshape(count, groups * group)
        products[:, len(part) :] = -np.inf
        np.matmul(self._queries, part.T, out=products[:, : len(part)])
        columns = products.reshape(count, group, groups)  # a group is a column of these: quick to take the maximum of
        greatest = columns.max(axis=1)
        least = self.scores[:, -1].astype(np.float64)
        if groups >= k:  # so many documents reach the k-th greatest maximum
            least = np.maximum(least, np.partition(greatest, groups - k, axis=1)[:, groups - k])
        # The greatest error of an inner product in float32, summed in any order, is unit / (1 - unit) of the product of
        # the lengths (Higham 2002, equation 3.5). Twice: for the document that sets the bar, and for the one that it
        # measures. The last terms are for the rounding of both scores and of the bar, and for products near zero.
        unit = part.shape[1] * 2.0**-24
        error = (2 * unit / (1 - unit) + 2.0**-22) * reach + part.shape[1] * float(np.finfo(np.float32).tiny)
        bar = (least - error).astype(np.float32)
        rows, which = np.nonzero(greatest >= bar[:, None])
        pairs, inside = np.nonzero(columns[rows, :, which] >= bar[rows, None])
        places = inside * groups + which[pairs]
        real = places < len(part)
        return rows[pairs][real], places[real]

    def _take(self, rows: np.ndarray, positions: np.ndarray, scores: np.ndarray) -> None:
        """Put scored documents among the best."""
        k = self.scores.shape[1]
        touched, counts = np.unique(rows, return_counts=True)
        rows = np.concatenate([np.repeat(touched, k), rows])
        positions = np.concatenate([self.positions[touched].ravel(), positions])
        scores = np.concatenate([self.scores[touched].ravel(), scores])
        order = np.lexsort((positions, -scores, rows))
        firsts = np.concatenate([[0], np.cumsum(counts + k)[:-1]])
        best = order[firsts[:, None] + np.arange(k)]
        self.positions[touched], self.scores[touched] = positions[best], scores[best]


def _group_size(count: int, k: int) -> int:
    """Documents of a group, such that there are several times as many groups as neighbours."""
    group = _GROUP
    while group > 1 and count < 4 * k * group:
        group //= 2
    return group


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """Lengths of vectors, float64; NaN or infinity where one holds that."""
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))

"""Exact nearest-neighbour search and the measures of a ranking, all in bounded memory.

A *ranking* is an (n, depth) integer array: row q lists document positions, best first; -1 means "no document".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

QUERY_BLOCK = 256
LOW_BITS = np.int64(0xFFFFFFFF)


def top_k(queries: np.ndarray, documents: np.ndarray, k: int, chunk: int = 16384) -> tuple[np.ndarray, np.ndarray]:
    """Find each query's k documents of greatest inner product, exactly and deterministically.

    Equal scores go to the lower position. Memory is bounded by ``QUERY_BLOCK`` x ``chunk`` scores whatever the
    size of the corpus, so ``documents`` may be memory-mapped.

    Args:
        queries: Vectors (n, d).
        documents: Vectors (m, d), fewer than 2^32.
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
    if k == 0:
        return positions, scores
    for first in range(0, len(queries), QUERY_BLOCK):
        block = np.asarray(queries[first : first + QUERY_BLOCK], np.float32)
        best = np.empty((len(block), 0), np.int64)
        for start in range(0, len(documents), chunk):
            part = np.asarray(documents[start : start + chunk], np.float32)
            keys = _keys(block @ part.T, start)
            if keys.shape[1] > k:
                keys = np.partition(keys, -k, axis=1)[:, -k:]
            best = np.concatenate([best, keys], axis=1)
            if best.shape[1] > k:
                best = np.partition(best, -k, axis=1)[:, -k:]
        best = -np.sort(-best, axis=1)
        positions[first : first + len(block)] = LOW_BITS - (best & LOW_BITS)
        scores[first : first + len(block)] = _unkey(best)
    return positions, scores


def _keys(scores: np.ndarray, start: int) -> np.ndarray:
    """Pack score and position into one int64 that sorts by score, then by lower position.

    A plain partition of the scores would pick arbitrarily among ties at the cut.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a similarity is not a finite number: the vectors hold NaN or infinity")
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.int32).astype(np.int64)  # + 0 turns -0.0 into 0.0
    ordered = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    low = LOW_BITS - np.arange(start, start + scores.shape[1], dtype=np.int64)
    return (ordered << 32) | low


def _unkey(keys: np.ndarray) -> np.ndarray:
    """Return the float32 scores packed by ``_keys``."""
    ordered = keys >> 32
    bits = np.where(ordered < 0, (-ordered) | 0x80000000, ordered)
    return bits.astype(np.uint32).view(np.float32)


def cut(vectors: np.ndarray, width: int) -> np.ndarray:
    """Keep the first dimensions and bring the rows back to unit length."""
    if width >= vectors.shape[1]:
        return vectors
    kept = vectors[:, :width]
    lengths: np.ndarray = np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
    return np.asarray(kept / lengths, np.float32)


def gains(ranking: np.ndarray, judged: Sequence[Mapping[int, float]]) -> np.ndarray:
    """Look up the grade of every ranked document, 0 where nobody judged it or the grade is negative; (n, depth)."""
    looked_up = [
        [max(grades.get(position, 0), 0) for position in row]
        for row, grades in zip(ranking.tolist(), judged, strict=True)
    ]
    return np.asarray(looked_up, np.float64).reshape(ranking.shape)


def ndcg_at_k(ranking: np.ndarray, judged: Sequence[Mapping[int, float]], k: int = 10) -> np.ndarray:
    """Score each query's first k documents by normalised discounted cumulative gain, linear gain as in trec_eval.

    Args:
        ranking: Document positions (n, depth).
        judged: For each query, document position → grade.
        k: Cut.

    Returns:
        Fractions (n,); 0 where the query has no relevant document.
    """
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    found = gains(ranking[:, :k], judged)
    dcg = found @ discounts[: found.shape[1]]
    ideal = np.zeros(len(judged))
    for row, grades in enumerate(judged):
        best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:k]
        ideal[row] = np.dot(best, discounts[: len(best)])
    return np.divide(dcg, ideal, out=np.zeros_like(dcg), where=ideal > 0)


def recall_at_k(ranking: np.ndarray, judged: Sequence[Mapping[int, float]], k: int = 100) -> np.ndarray:
    """Score each query by the share of its relevant documents among the first k; fractions (n,)."""
    found = (gains(ranking[:, :k], judged) > 0).sum(axis=1).astype(np.float64)
    relevant = np.array([sum(grade > 0 for grade in grades.values()) for grades in judged], np.float64)
    recall: np.ndarray = np.divide(found, relevant, out=np.zeros_like(found), where=relevant > 0)
    return recall


def average_precision(ranking: np.ndarray, judged: Sequence[Mapping[int, float]]) -> np.ndarray:
    """Score each query by the mean, over its relevant documents, of the precision at their ranks; fractions (n,)."""
    hits = gains(ranking, judged) > 0
    precision = np.cumsum(hits, axis=1) / np.arange(1, ranking.shape[1] + 1)
    relevant = np.array([sum(grade > 0 for grade in grades.values()) for grades in judged], np.float64)
    found = (precision * hits).sum(axis=1)
    averaged: np.ndarray = np.divide(found, relevant, out=np.zeros_like(found), where=relevant > 0)
    return averaged


def reciprocal_rank(ranking: np.ndarray, judged: Sequence[Mapping[int, float]], k: int = 10) -> np.ndarray:
    """Score each query by 1 / rank of its first relevant document among the first k, else 0; fractions (n,)."""
    hits = gains(ranking[:, :k], judged) > 0
    return np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1), 0.0)


def rrf(rankings: Sequence[np.ndarray], k: int = 60, depth: int | None = None) -> np.ndarray:
    """Fuse rankings of the same queries by reciprocal rank fusion: score = Σ 1 / (k + rank), ranks from 1.

    Args:
        rankings: Arrays (n, depth_i) of document positions, -1 for none.
        k: Smoothing constant (60 as in the paper that introduced it).
        depth: Documents kept a query; the longest input's depth if None.

    Returns:
        The fused ranking (n, depth) int64, equal scores to the lower position, -1 where a row runs out.
    """
    depth = depth or max(ranking.shape[1] for ranking in rankings)
    weights = np.concatenate([1.0 / (k + np.arange(1, ranking.shape[1] + 1)) for ranking in rankings])
    stacked = np.concatenate(rankings, axis=1)
    fused = np.full((len(stacked), depth), -1, np.int64)
    for row, positions in enumerate(stacked):
        real = positions >= 0
        found, where = np.unique(positions[real], return_inverse=True)
        # Rounded, so that sums taken in another order still tie.
        score = np.round(np.bincount(where, weights=weights[real], minlength=len(found)), 12)
        order = np.lexsort((found, -score))[:depth]
        fused[row, : len(order)] = found[order]
    return fused

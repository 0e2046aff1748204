"""The measures of a ranking, and rankings fused.

A *ranking* is an (n, depth) integer array: row q lists document positions, best first; -1 means "no document".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


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

"""Items like an item: the nearest by cosine, spread out so that the list is not ten times the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gecko.miner.exact import top_k

_POOL = 5  # times as many candidates as wanted, from which a diversified list is chosen
_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Like:
    """An item of a list: its place among all items, and its cosine to what the list is for."""

    index: int
    score: float


def similar_to(
    queries: np.ndarray,
    items: np.ndarray,
    k: int,
    *,
    diversity: float = 0.0,
    same: float = 1.0,
    own: Sequence[int | None] | None = None,
) -> list[list[Like]]:
    """List the items most like each query, best first.

    With a diversity above 0 the list is chosen by maximal marginal relevance (Carbonell and Goldstein 1998) from the
    nearest ``5 k``: each next item is the one with the greatest ``(1 - diversity) * cosine to the query - diversity *
    greatest cosine to one that is chosen``.

    Args:
        queries: (q, d) unit vectors.
        items: (n, d) unit vectors.
        k: Items of a list; fewer where there are not as many.
        diversity: 0 to below 1.
        same: An item whose cosine to the query, or to one chosen before, is greater is the same thing again, and left
            out; 1 leaves none out.
        own: Each query's own place among the items, which is not listed; None for a query that is no item.
    """
    own = own if own is not None else [None] * len(queries)
    pool = min(len(items), _POOL * k + 1 if diversity or same < 1 else k + 1)
    lists = []
    for start in range(0, len(queries), _BATCH):
        ranking, scores = top_k(queries[start : start + _BATCH], items, pool)
        for offset, (row, near) in enumerate(zip(ranking, scores, strict=True)):
            keep = np.array([place != own[start + offset] for place in row], bool)
            lists.append(_spread(row[keep], near[keep], items, k, diversity, same))
    return lists


def _spread(
    pool: np.ndarray, nearness: np.ndarray, items: np.ndarray, k: int, diversity: float, same: float
) -> list[Like]:
    """Choose k of a pool that is sorted by nearness."""
    if not diversity and same >= 1:
        return [Like(int(place), float(score)) for place, score in zip(pool[:k], nearness[:k], strict=True)]
    vectors = items[pool]
    nearest = np.full(len(pool), -1.0)  # greatest cosine to one that is chosen
    free = nearness <= same
    chosen: list[Like] = []
    while free.any() and len(chosen) < k:
        worth = (1 - diversity) * nearness - (diversity * nearest if chosen else 0.0)
        best = int(np.where(free, worth, -np.inf).argmax())
        chosen.append(Like(int(pool[best]), float(nearness[best])))
        nearest = np.maximum(nearest, vectors @ vectors[best])
        free &= nearest <= same
        free[best] = False
    return chosen


def spread_of(lists: Sequence[Sequence[Like]], items: np.ndarray) -> float:
    """One less the mean cosine between two items of a list, the mean over the lists: how unlike they are."""
    found = []
    for each in lists:
        if len(each) < 2:
            continue
        vectors = items[[like.index for like in each]]
        cosine = vectors @ vectors.T
        found.append(1 - float((cosine.sum() - np.trace(cosine)) / (len(each) * (len(each) - 1))))
    return float(np.mean(found)) if found else 0.0

"""Sentences matched with their translations (bitext mining) by the margin between the best match and the next ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gecko.miner.exact import top_k

NEIGHBOURS = 4
MARGIN = 1.06  # as LASER's and NLLB's mining take


@dataclass(frozen=True, slots=True)
class Match:
    """A sentence of each side, by their places, their cosine, and the margin by which they are each other's best."""

    left: int
    right: int
    score: float
    margin: float


def match(left: np.ndarray, right: np.ndarray, *, least: float = MARGIN, neighbours: int = NEIGHBOURS) -> list[Match]:
    """Pair sentences that are each other's best by ratio margin (Artetxe and Schwenk 2019, equation 2).

    The margin is a pair's cosine over the mean cosine of both sentences' nearest neighbours: a sentence that is near to
    everything needs a closer translation.

    Args:
        left: (n, d) unit vectors.
        right: (m, d) unit vectors.
        least: Smallest margin of a pair.
        neighbours: Nearest neighbours of each sentence that count.

    Returns:
        The pairs, the greatest margin first; a sentence is in one at most.
    """
    forward, forward_cosine = top_k(left, right, neighbours)
    backward, backward_cosine = top_k(right, left, neighbours)
    left_mean, right_mean = forward_cosine.mean(axis=1) / 2, backward_cosine.mean(axis=1) / 2
    ahead = forward_cosine / np.maximum(left_mean[:, None] + right_mean[forward], 1e-6)
    behind = backward_cosine / np.maximum(right_mean[:, None] + left_mean[backward], 1e-6)
    best, back = (
        forward[np.arange(len(left)), ahead.argmax(axis=1)],
        backward[np.arange(len(right)), behind.argmax(axis=1)],
    )
    found = [
        Match(index, int(other), float(left[index] @ right[other]), float(ahead[index].max()))
        for index, other in enumerate(best)
        if back[other] == index and ahead[index].max() >= least
    ]
    return sorted(found, key=lambda pair: (-pair.margin, pair.left))

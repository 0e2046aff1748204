"""Is the tuned model better than the base, or is it luck: statistics of per-query differences."""

from __future__ import annotations

import numpy as np

DRAWS_AT_ONCE = 4_000_000


def paired_bootstrap(
    base: np.ndarray, tuned: np.ndarray, *, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Bound the mean gain of ``tuned`` over ``base`` on the same queries by a 95 % percentile interval.

    Queries are drawn with replacement, both models' scores together; blocks of resamples keep memory at a
    few tens of megabytes.

    Args:
        base: Scores (n,) of the base model.
        tuned: Scores (n,) of the tuned model, same queries in the same order.
        samples: Resamples.
        seed: Makes the interval reproducible.

    Returns:
        (low, high) of the mean of ``tuned - base``.

    Raises:
        ValueError: The arrays differ in shape or are empty.
    """
    if base.shape != tuned.shape or base.ndim != 1 or not len(base):
        raise ValueError(f"expected two equal, non-empty vectors; got {base.shape} and {tuned.shape}")
    difference = np.asarray(tuned, np.float64) - np.asarray(base, np.float64)
    size = len(difference)
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    block = max(1, DRAWS_AT_ONCE // size)
    for start in range(0, samples, block):
        count = min(block, samples - start)
        drawn = generator.integers(0, size, (count, size), dtype=np.int32)
        means[start : start + count] = difference[drawn].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def wins_losses_ties(base: np.ndarray, tuned: np.ndarray, tolerance: float = 1e-9) -> tuple[int, int, int]:
    """Count the queries that the tuned model answers better, worse, and the same."""
    difference = np.asarray(tuned, np.float64) - np.asarray(base, np.float64)
    wins, losses = int((difference > tolerance).sum()), int((difference < -tolerance).sum())
    return wins, losses, len(difference) - wins - losses

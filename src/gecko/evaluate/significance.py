"""Could luck alone make such a difference, and how much luck is there in many comparisons: two tests of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gecko.evaluate.compare import DRAWS_AT_ONCE

RESAMPLES = 99_999
_EXACT = 16  # differing queries up to which all sign patterns (2^16) are tried
_ROUNDING = 1e-9  # sums taken in another order differ by less


def randomisation_test(differences: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Test for each column whether its mean differs from zero: Fisher's paired randomisation test, two-sided.

    If two systems were alike, each query's difference might as well have the other sign. The p-value is the share of
    sign patterns whose mean is as far from zero as the one seen: all patterns where at most 16 queries differ, else
    ``resamples`` random ones and the one seen, so that it is never 0. All columns share the patterns, which is many
    times faster than ``scipy.stats.permutation_test`` for each of them.

    Args:
        differences: Per-query differences (n, m) of m comparisons.
        resamples: Random patterns.
        seed: Makes the p-values reproducible.

    Returns:
        p-values (m,).
    """
    differences = np.asarray(differences, np.float64)
    differing = differences[np.abs(differences).max(axis=1, initial=0) > _ROUNDING]
    seen = np.abs(differing.sum(axis=0)) - _ROUNDING
    exact = len(differing) <= _EXACT
    as_far, patterns = (0, 0) if exact else (1, 1)
    counts = np.full(differences.shape[1], as_far, np.int64)
    for signs in _all_signs(len(differing)) if exact else _random_signs(len(differing), resamples, seed):
        counts += (np.abs(signs @ differing) >= seen).sum(axis=0)
        patterns += len(signs)
    return np.asarray(counts / patterns)


def _all_signs(size: int) -> Iterator[np.ndarray]:
    bits = np.arange(2**size)[:, None] >> np.arange(size) & 1
    yield 1.0 - 2.0 * bits


def _random_signs(size: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks of patterns of bounded size."""
    generator = np.random.default_rng(seed)
    block = max(1, DRAWS_AT_ONCE // size)
    for start in range(0, resamples, block):
        bits = generator.integers(0, 2, (min(block, resamples - start), size), dtype=np.int8)
        yield 1.0 - 2.0 * bits


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Correct p-values for how many were looked at (Holm, 1979): below 0.05, any false alarm at all has that chance.

    Args:
        p_values: Of m tests, which may depend on each other in any way.

    Returns:
        Adjusted p-values (m,), in the same order; none is smaller than it was.
    """
    given = np.asarray(p_values, np.float64)
    order = np.argsort(given, kind="stable")
    steps = given[order] * np.arange(len(given), 0, -1)
    adjusted = np.empty(len(given))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted

"""Is the tuned model better than the base, or is it luck: statistics of per-query differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

DRAWS_AT_ONCE = 4_000_000
RESAMPLES = 2_000  # of a figure that has to be computed anew for each


@dataclass(frozen=True, slots=True)
class Score:
    """A figure of one model, with what the uncertainty of a difference is drawn from: one of the three, or nothing.

    Attributes:
        value: The figure.
        n: How many items it is of.
        units: Scores (m,) of which it is the mean: of queries, test items, documents.
        resample: Computes it anew for resamples of its items, which are given as how often each is in one, int (b, n);
            not a number where a resample does not determine it.
        repeats: The figure (r,) on resamples of the items that the protocol draws itself.
        repeats_of: How many items each of these resamples holds.
        subsets: The figure of each part of the set, where it is a mean over parts.
    """

    value: float
    n: int
    units: np.ndarray | None = None
    resample: Callable[[np.ndarray], np.ndarray] | None = None
    repeats: np.ndarray | None = None
    repeats_of: int = 0
    subsets: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def mean(cls, units: np.ndarray) -> Score:
        """The mean of the items' own scores."""
        return cls(float(units.mean()), len(units), units=units)


def gain_interval(base: Score, tuned: Score, *, seed: int = 0) -> list[float] | None:
    """Bound the gain of ``tuned`` over ``base`` on the same items by a 95 % interval; None where there is no basis."""
    if base.units is not None and tuned.units is not None:
        return list(paired_bootstrap(base.units, tuned.units, seed=seed))
    if base.resample is not None and tuned.resample is not None:
        return _resampled(base.resample, tuned.resample, tuned.n, seed)
    if base.repeats is not None and tuned.repeats is not None:
        return _of_repeats(tuned.repeats - base.repeats, tuned.repeats_of, tuned.n)
    return None


def _resampled(
    base: Callable[[np.ndarray], np.ndarray], tuned: Callable[[np.ndarray], np.ndarray], size: int, seed: int
) -> list[float] | None:
    """Percentiles of the gain over resamples of the items, both models on the same ones, in blocks of bounded size."""
    generator = np.random.default_rng(seed)
    block = max(1, DRAWS_AT_ONCE // (8 * size))
    gains = []
    for start in range(0, RESAMPLES, block):
        counts = generator.multinomial(size, np.full(size, 1 / size), min(block, RESAMPLES - start))
        gains.append(tuned(counts) - base(counts))
    known = np.concatenate(gains)
    known = known[np.isfinite(known)]
    return [float(bound) for bound in np.percentile(known, [2.5, 97.5])] if len(known) else None


def _of_repeats(gains: np.ndarray, drawn: int, size: int) -> list[float]:
    """Student's interval from the spread over resamples of ``drawn`` of ``size`` items.

    The spread over resamples estimates the standard error (Efron's bootstrap); resamples larger than the set vary less
    than sets of its size do, by the root of the ratio.
    """
    from scipy.stats import t

    error = float(gains.std(ddof=1)) * max(1.0, drawn / size) ** 0.5
    half = float(t.ppf(0.975, len(gains) - 1)) * error
    return [float(gains.mean()) - half, float(gains.mean()) + half]


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

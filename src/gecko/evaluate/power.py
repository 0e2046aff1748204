"""How many queries a test needs before it can tell two models apart (power of the paired t-test)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

# Deviation of per-query differences in nDCG@10 that is assumed before any is seen. The intervals in docs/results/ tell
# that of base and tuned model: 0.09 where training changed little, 0.28 where it gained 15 points.
PRIOR = 0.25
_PRIOR_QUERIES = 5  # that the prior counts for: with a few queries, the deviation seen is luck


@dataclass(frozen=True, slots=True)
class Need:
    """What a test must have to show a difference.

    Attributes:
        difference: Mean difference in nDCG@10 to be shown, a fraction.
        power: The chance that the test shows it, if it is there.
        level: The chance that the test shows one, if there is none.
        deviation: Standard deviation of the per-query differences that is reckoned with.
        seen: How many per-query differences that was learnt from, beside the prior.
        queries: Queries needed.
        detectable: The difference that as many queries as seen can show; None below two.
    """

    difference: float
    power: float
    level: float
    deviation: float
    seen: int
    queries: int
    detectable: float | None


def need(differences: Sequence[float], difference: float, *, power: float = 0.8, level: float = 0.05) -> Need:
    """Say how many queries show a difference, from the per-query differences seen so far.

    The mean of what was seen is not used and not told: whoever stops when it looks good fools himself.

    Args:
        differences: Per-query differences in nDCG@10 of the two models; none yet is fine.
        difference: Mean difference to be shown, above 0.
        power: Wanted chance to show it, between ``level`` and 1.
        level: Level of the two-sided test.
    """
    seen = len(differences)
    spread = deviation(differences)
    return Need(
        difference,
        power,
        level,
        spread,
        seen,
        queries_needed(difference, spread, power=power, level=level),
        detectable(seen, spread, power=power, level=level) if seen > 1 else None,
    )


def deviation(differences: Sequence[float]) -> float:
    """Estimate the deviation of per-query differences; the prior counts as five queries of its own."""
    values = np.asarray(differences, np.float64)
    squares = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    freedom = max(len(values) - 1, 0)
    return float(np.sqrt((_PRIOR_QUERIES * PRIOR**2 + squares) / (_PRIOR_QUERIES + freedom)))


def power_of(queries: int, difference: float, spread: float, *, level: float = 0.05) -> float:
    """The chance that a two-sided paired t-test of so many queries shows a mean difference."""
    from scipy.stats import nct, t

    freedom = queries - 1
    bound = t.ppf(1 - level / 2, freedom)
    shift = difference / spread * queries**0.5
    other = nct.cdf(-bound, freedom, shift)  # which scipy gives as NaN where it vanishes
    return float(nct.sf(bound, freedom, shift) + np.nan_to_num(other))


def queries_needed(difference: float, spread: float, *, power: float = 0.8, level: float = 0.05) -> int:
    """The fewest queries whose paired t-test has that power."""
    from scipy.stats import norm

    # The normal theory is short by two or so, since it takes the deviation as known.
    queries = max(2, ceil(((norm.isf(level / 2) + norm.isf(1 - power)) * spread / difference) ** 2))
    while power_of(queries, difference, spread, level=level) < power:
        queries += 1
    return queries


def detectable(queries: int, spread: float, *, power: float = 0.8, level: float = 0.05) -> float:
    """The mean difference that so many queries (two or more) show with that power."""
    from scipy.optimize import brentq

    low, high = 1e-6 * spread, spread
    while power_of(queries, high, spread, level=level) < power:
        high *= 2
    return float(brentq(lambda size: power_of(queries, size, spread, level=level) - power, low, high))

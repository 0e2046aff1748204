"""The tests of differences agree with scipy and with published tables, and say no where there is nothing."""

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_1samp

from gecko.evaluate.power import PRIOR, detectable, deviation, need, power_of, queries_needed
from gecko.evaluate.significance import holm, randomisation_test


def by_scipy(column: np.ndarray, resamples: float) -> float:
    found = permutation_test(
        (column,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        random_state=np.random.default_rng(1),
    )
    return float(found.pvalue)


def test_few_differences_are_tested_exactly():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.3, 1, (12, 3))
    differences[:, 1] = np.round(differences[:, 1], 1)  # ties among the patterns
    differences = np.vstack([differences, np.zeros((300, 3))])  # queries that both answer alike change nothing
    expected = [by_scipy(differences[:12, column], np.inf) for column in range(3)]
    assert randomisation_test(differences) == pytest.approx(expected, abs=1e-12)


def test_many_differences_agree_with_scipy_and_with_the_t_test():
    rng = np.random.default_rng(2)
    differences = rng.normal(0, 0.3, (120, 4)) + np.array([0.0, 0.04, 0.07, 0.3])
    found = randomisation_test(differences)
    assert found == pytest.approx([by_scipy(differences[:, column], 4999) for column in range(4)], abs=0.03)
    assert found == pytest.approx(ttest_1samp(differences, 0).pvalue, abs=0.02)
    assert found[3] == pytest.approx(1 / 100_000)  # none of the patterns, but the one seen
    assert (randomisation_test(-differences) == found).all()
    assert randomisation_test(np.zeros((50, 2))).tolist() == [1, 1]


def test_p_values_of_nothing_are_uniform():
    rng = np.random.default_rng(3)
    p_values = randomisation_test(rng.normal(0, 1, (40, 2000)), resamples=999)
    assert (p_values < 0.05).mean() == pytest.approx(0.05, abs=0.015)
    assert (p_values < 0.5).mean() == pytest.approx(0.5, abs=0.04)


def test_holm_steps_down():
    # The example of R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm").
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([]).tolist() == []


def test_queries_needed_are_those_of_the_tables():
    # Cohen's d of 0.5 and 0.2, 80 % power, 5 % two-sided: 34 and 199 pairs (G*Power); 90 %: 44 and 265.
    assert [queries_needed(d, 1.0) for d in (0.5, 0.2)] == [34, 199]
    assert [queries_needed(d, 1.0, power=0.9) for d in (0.5, 0.2)] == [44, 265]
    assert queries_needed(0.05, 0.25) == 199
    assert power_of(34, 0.5, 1.0) >= 0.8 > power_of(33, 0.5, 1.0)
    assert detectable(34, 1.0) == pytest.approx(0.495, abs=0.001)
    assert all(np.isfinite(detectable(n, 0.2)) for n in (2, 3, 100_000))


def test_the_power_is_what_simulated_tests_have():
    rng = np.random.default_rng(5)
    drawn = rng.normal(0.1, 0.25, (4000, 52))
    assert (ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(power_of(52, 0.1, 0.25), abs=0.02)


def test_the_deviation_begins_at_the_prior_and_follows_what_is_seen():
    assert deviation([]) == PRIOR
    assert need([], 0.05).seen == 0 and need([], 0.05).detectable is None
    alike = [0.0] * 20
    assert 0 < deviation(alike) < PRIOR / 2  # equal so far is no promise
    assert deviation(np.random.default_rng(0).normal(5, 0.6, 500)) == pytest.approx(0.6, rel=0.1)
    assert need(alike, 0.05).queries < need([], 0.05).queries < need([0.5, -0.5] * 10, 0.05).queries

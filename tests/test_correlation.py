"""Correlation of overlap reduction and gain in accuracy, with intervals over data sets."""

import numpy as np
import pytest
from conftest import says
from scipy.stats import pearsonr, spearmanr

from clipnotes.analysis.correlation import correlation, outlier


def runs(slope, noise, n_groups=10, per_group=6, seed=0):
    """Rows of data sets: one overlap reduction a data set, gains that follow it, noise of data set and of row."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), per_group)
    overlap = rng.normal(size=n_groups)[groups]
    accuracy = slope * overlap + noise * rng.normal(size=n_groups)[groups] + 0.1 * rng.normal(size=len(groups))
    return overlap, accuracy, groups


def test_coefficients_against_scipy():
    x, y, groups = runs(-1.0, 1.0)
    found = correlation(x, y, groups)
    assert found.pearson == pytest.approx(pearsonr(x, y).statistic)
    assert found.spearman == pytest.approx(spearmanr(x, y).statistic)
    assert (found.n, found.n_groups) == (60, 10)
    for value, (low, high) in ((found.pearson, found.pearson_interval), (found.spearman, found.spearman_interval)):
        assert -1 <= low < value < high <= 1


def test_the_outlier_is_the_data_set_that_makes_the_correlation():
    x, y = np.array([0.0, 1.0, 0.0, 1.0, 8.0, 9.0]), np.array([0.0, 0.0, 1.0, 1.0, 8.0, 9.0])  # a square has none by itself
    name, without = outlier(x, y, np.array(["a", "b", "c", "d", "e", "e"]))  # without one of e's rows it stays high
    assert name == "e" and without == pytest.approx(0) and pearsonr(x, y).statistic > 0.9


def test_groups_may_be_names_and_rows_may_come_in_any_order():
    x, y, groups = runs(-1.0, 1.0)
    found, order = correlation(x, y, groups, draws=300), np.random.default_rng(1).permutation(60)
    named = correlation(x[order], y[order], [f"set {g}" for g in groups[order]], draws=300)
    assert named.pearson == pytest.approx(found.pearson)
    assert named.pearson_interval == pytest.approx(found.pearson_interval)


def test_more_rows_of_the_same_data_sets_do_not_narrow_the_interval():
    few, many = (correlation(*runs(-0.5, 1.0, per_group=k), draws=500) for k in (2, 50))
    width = [high - low for low, high in (few.pearson_interval, many.pearson_interval)]
    assert width[1] == pytest.approx(width[0], rel=0.2)
    more_sets = correlation(*runs(-0.5, 1.0, n_groups=100, per_group=2), draws=500)
    assert more_sets.pearson_interval[1] - more_sets.pearson_interval[0] < 0.6 * width[0]


def test_the_bootstrap_against_plain_draws():
    x, y, groups = runs(-1.0, 1.0, n_groups=5, per_group=3)
    rng, values = np.random.default_rng(7), []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in rng.choice(5, 5)])
        if len(set(x[rows])) > 1:
            values.append(pearsonr(x[rows], y[rows]).statistic)
    expected = np.quantile(values, [0.025, 0.975])
    assert correlation(x, y, groups, draws=1000).pearson_interval == pytest.approx(expected, abs=0.1)


def test_a_perfect_monotone_relation():
    x = np.arange(12.0)
    found = correlation(x, -np.exp(x), np.arange(12) // 2)
    assert found.spearman == pytest.approx(-1) and found.spearman_interval == pytest.approx((-1, -1))
    assert -1 < found.pearson < -0.5


def test_chance_rarely_excludes_zero():
    misses = 0
    for seed in range(20):
        low, high = correlation(*runs(0.0, 1.0, n_groups=15, per_group=3, seed=seed), draws=200).pearson_interval
        misses += not low < 0 < high
    assert misses <= 4  # 5 % are expected, somewhat more with 15 data sets


def test_bad_input():
    x, y, groups = runs(1.0, 1.0)
    for given, message in [
        ((x[:5], y, groups), r"^\(5,\) overlap reductions, \(60,\) gains and \(60,\) groups do not fit; give one"),
        ((np.where(groups == 0, np.nan, x), y, groups), "^6 rows of overlap_reduction are NaN or infinite; leave them out.$"),
        ((x, 0 * y, groups), "^gain is the same in all 60 rows, so nothing can correlate with it; give runs that"),
        ((x, y, groups % 2), "^Rows of 2 data sets; a bootstrap over data sets needs three or more.$"),
    ]:
        with says(message):
            correlation(*given)

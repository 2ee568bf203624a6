"""Does less overlap go with more accuracy (paper A, claim 4)? Correlation over runs in groups."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clipnotes.analysis.statistics import LEVEL
from clipnotes.checks import SEED, Whole
from clipnotes.errors import ClipnotesError


@dataclass(frozen=True)
class Correlation:
    """Pearson's r and Spearman's rho, with bootstrap intervals over groups. n: rows. n_groups: data sets."""
    pearson: float
    pearson_interval: tuple
    spearman: float
    spearman_interval: tuple
    n: int
    n_groups: int


def correlation(overlap_reduction: Any, gain: Any, groups: Any, draws: int = 2000, level: float = 0.95,
                seed: int = 0) -> Correlation:
    """Correlation of two changes over rows such as (data set, shots, seed), as a `Correlation`.

    overlap_reduction: [n], original minus corrected. gain: [n], accuracy corrected minus original; so the correlation is
    positive if less overlap brings accuracy. groups: [n], the data set of each row. Rows of one data set share its images,
    so they are no independent evidence: the bootstrap draws whole data sets, with replacement (percentile interval at
    `level`). Draws in which either is constant have no correlation and are left out.
    Raises ClipnotesError for lengths that differ, NaN, fewer than three data sets and changes that are constant.
    """
    Whole(1)(draws, "draws"), LEVEL(level, "level"), SEED(seed, "seed")
    x, y, groups = (np.asarray(values) for values in (overlap_reduction, gain, groups))
    if not x.shape == y.shape == groups.shape or x.ndim != 1:
        raise ClipnotesError(f"{x.shape} overlap reductions, {y.shape} gains and {groups.shape} groups do not fit; "
                             "give one of each for every row.")
    x, y = x.astype(float), y.astype(float)
    for values, name in ((x, "overlap_reduction"), (y, "gain")):
        if not np.isfinite(values).all():
            raise ClipnotesError(f"{int((~np.isfinite(values)).sum())} rows of {name} are NaN or infinite; leave them out.")
        if np.ptp(values) == 0:
            raise ClipnotesError(f"{name} is the same in all {len(values)} rows, so nothing can correlate with it; "
                                 "give runs that differ.")
    names, membership = np.unique(groups, return_inverse=True)
    if len(names) < 3:
        raise ClipnotesError(f"Rows of {len(names)} data sets; a bootstrap over data sets needs three or more.")
    rows_of = [np.flatnonzero(membership == i) for i in range(len(names))]
    rng, samples = np.random.default_rng(seed), []
    for chosen in rng.integers(len(names), size=(draws, len(names))):
        rows = np.concatenate([rows_of[i] for i in chosen])
        if np.ptp(x[rows]) and np.ptp(y[rows]):
            samples.append(both(x[rows], y[rows]))
    tails = [(1 - level) / 2, (1 + level) / 2]
    intervals = [tuple(map(float, interval)) for interval in np.quantile(samples, tails, axis=0).T]
    pearson, spearman = map(float, both(x, y))
    return Correlation(pearson, intervals[0], spearman, intervals[1], len(x), len(names))


def outlier(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[str, float]:
    """(group whose absence changes Pearson's r the most, r without all of its rows) of more than three groups."""
    names = np.unique(groups)
    without = np.array([np.corrcoef(x[groups != name], y[groups != name])[0, 1] for name in names])
    most = int(np.nanargmax(np.abs(without - np.corrcoef(x, y)[0, 1])))
    return str(names[most]), float(without[most])


def both(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(Pearson's r, Spearman's rho), without the p-values of scipy's functions, which take most of their time."""
    from scipy.stats import rankdata

    return np.corrcoef(x, y)[0, 1], np.corrcoef(rankdata(x), rankdata(y))[0, 1]

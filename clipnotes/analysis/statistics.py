"""Means with their uncertainty."""
from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from clipnotes.checks import Number

LEVEL = Number(0, 1, above=True, below=True)  # of confidence


def mean_ci(values: Any, level: float = 0.95) -> tuple[Any, Any]:
    """(mean, half width of the Student-t interval at `level`) of independent values; half width NaN for fewer than two.

    Rows of a 2-d input [n, k] are the repetitions: the result is two arrays [k]. Raises ClipnotesError for a level
    outside (0, 1).
    """
    from scipy.stats import t

    LEVEL(level, "level")
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return values.mean(0), np.full(values.shape[1:], np.nan)[()]
    return values.mean(0), t.ppf((1 + level) / 2, n - 1) * values.std(0, ddof=1) / np.sqrt(n)


def sides(differences: dict[str, pd.Series]) -> pd.DataFrame:
    """Differences by data set, each positive where a claim is right, as one row each: how many sets are on its side.

    Columns: difference (its name), mean, half (of the 95 % Student-t interval over data sets), positive, sets. With few data
    sets the interval has little power, so the sides are counted.
    """
    rows = []
    for name, values in differences.items():
        mean, half = mean_ci(values)
        rows.append({"difference": name, "mean": mean, "half": half, "positive": int((values > 0).sum()), "sets": len(values)})
    return pd.DataFrame(rows, columns=["difference", "mean", "half", "positive", "sets"])

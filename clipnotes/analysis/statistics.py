"""Means with their uncertainty."""
from __future__ import annotations

from typing import Any

import numpy as np

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


def verdict(low: float, high: float) -> str:
    """What the interval from low to high of a difference says of the claim that the difference is positive.

    "holds" where all of it lies above 0, "reversed" where it lies below, "unclear" where it holds 0 or is not known (NaN).
    """
    return "holds" if low > 0 else "reversed" if high < 0 else "unclear"

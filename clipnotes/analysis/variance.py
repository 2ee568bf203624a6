"""The shape of a cloud of features: its variance, its effective rank, and how far two clouds are apart (paper A).

The paper reports a higher feature variance and a proxy A-distance after the correction without defining either; these
are the field's standard forms.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clipnotes.errors import ClipnotesError
from clipnotes.methods.corrections import principal_axes
from clipnotes.methods.inputs import unit_features


@dataclass(frozen=True)
class FeatureVariance:
    """Variance of unit features x_i about their mean m.

    total: mean of |x_i - m|^2 over rows, the sum of the variances of all dimensions; for unit rows that is 1 - |m|^2,
    so 0 (all alike) to 1 (centred at the origin). per_dimension: float64 [d]. mean: their mean, total / d.
    """
    total: float
    per_dimension: np.ndarray

    @property
    def mean(self) -> float:
        return self.total / len(self.per_dimension)


def feature_variance(x: Any) -> FeatureVariance:
    """`FeatureVariance` of features [N, d] (or views [V, N, d]), made unit first; divided by N, not N - 1.

    Raises ClipnotesError for NaN, shapes that do not fit and fewer than two rows.
    """
    per_dimension = several_rows(x, "x").var(0)
    return FeatureVariance(float(per_dimension.sum()), per_dimension)


def effective_rank(x: Any) -> float:
    """exp(H) in 1 .. d, H the entropy of the covariance eigenvalues of unit features [N, d], scaled to sum 1.

    It counts the directions that the features spread over: k for equal variance in k directions and none in others.
    After Roy and Vetterli (2007), who take singular values where this takes their squares, the variances.
    Raises ClipnotesError as `feature_variance` does, and where all rows are alike.
    """
    x = several_rows(x, "x")
    variances = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    if variances.sum() < 1e-10 * len(x):
        raise ClipnotesError(f"All {len(x)} feature rows are alike, so they have no effective rank; give different images.")
    shares = variances / variances.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def wide_axes_signal(x: Any, y: Any, generic: Any, share: float = 0.05) -> float:
    """How much more the widest axes of generic features tell about the classes of others than the remaining axes do.

    The ratio of the variance between the class means to that within the classes, of unit features [N, d] with labels [N], on
    the widest `share` of the principal axes of unit generic features [M, d], divided by the same ratio on all other axes.
    Above 1 the wide axes hold what tells classes apart, so that whitening, which shrinks them, shrinks that; below 1 they
    hold what images of one class differ in. Raises ClipnotesError as `feature_variance` does.
    """
    x, generic = several_rows(x, "x"), several_rows(generic, "generic")
    axes = principal_axes(torch.from_numpy(generic - generic.mean(0)))[1].numpy()  # columns, widest first
    z, wide = (x - x.mean(0)) @ axes, max(1, round(share * x.shape[1]))
    classes = np.unique(np.asarray(y), return_inverse=True)[1]
    means = np.stack([z[classes == c].mean(0) for c in range(classes.max() + 1)])[classes]  # [N, d]
    between, within = (means ** 2).mean(0), ((z - means) ** 2).mean(0)
    return float((between[:wide].sum() / within[:wide].sum()) / (between[wide:].sum() / within[wide:].sum()))


def proxy_a_distance(x: Any, other: Any, folds: int = 5, seed: int = 0) -> float:
    """2 (1 - 2 err), err the error of a linear classifier that tells unit features [N, d] from others [M, d].

    0: not to be told apart, 2: never confused (Ben-David et al. 2007). The classifier is a logistic regression on
    standardised dimensions, its error that on held-out rows, averaged over `folds` folds. Of the larger set a random
    part as large as the smaller is used; an err above 0.5, which only chance brings, counts as 0.5. Between two samples
    of n rows of one and the same distribution chance alone reaches about 4 / sqrt(n).
    Raises ClipnotesError for NaN, shapes that do not fit, and fewer rows than folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, other = several_rows(x, "x"), several_rows(other, "other")
    n = min(len(x), len(other))
    if x.shape[1] != other.shape[1]:
        raise ClipnotesError(f"Features of different sizes d = {x.shape[1]} and {other.shape[1]}; "
                             "both sets must come from one model.")
    if not 2 <= folds <= n:
        raise ClipnotesError(f"folds = {folds} do not fit sets of {len(x)} and {len(other)} rows; give 2 to {n}.")
    rng = np.random.default_rng(seed)
    both = np.concatenate([part[rng.permutation(len(part))[:n]] for part in (x, other)])
    domain = np.repeat([0, 1], n)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    error = 1 - cross_val_score(classifier, both, domain, cv=splits).mean()
    return float(max(0.0, 2 * (1 - 2 * error)))


def several_rows(x: Any, name: str) -> np.ndarray:
    """Unit features as a float64 array [N, d], N at least 2."""
    x = unit_features(x, name).double().numpy()
    if len(x) < 2:
        raise ClipnotesError(f"{name} has one row of features; give two or more.")
    return x

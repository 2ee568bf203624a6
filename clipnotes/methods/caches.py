"""Cache models: zero-shot logits plus the votes of a few labelled images (Tip-Adapter, Tip-X; paper A, section 2).

    logits = logit_scale x W' + alpha exp(-beta (1 - S)) L + what Tip-X or APE add

x: unit features [N, d]; W: unit class texts [C, d]; S: cosines of rows with the M cache keys [N, M]; L: one-hot labels
[M, C], or soft ones, such as `NoisyMeans.labels_`. In the ++ forms of paper A corrected features (from adapters in the
encoder, or `corrections`) give S, and only S: the zero-shot term and the KL of Tip-X stay with the original ones.

Tables are kept class-major, [C, N], and affinities key-major, [M, N]: a product with L is then a sum of whole rows.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from clipnotes.checks import NUMBERED, Number, OneOf, Whole, as_tensor, class_labels
from clipnotes.errors import ClipnotesError
from clipnotes.methods.base import Classifier
from clipnotes.methods.caches_search import Grid, best_on_grid, best_over_alpha, climb, named_grid
from clipnotes.methods.inputs import unit_features, unit_texts


class TipAdapter(Classifier):
    """Training-free Tip-Adapter: logits = logit_scale x W' + alpha exp(-beta (1 - S)) L.

    chunk: bytes that affinities [M, n] may take at once; rows are handled in as many parts as that needs.
    After `search`: alpha_, beta_, val_accuracy_, and to plot curve_ (best setting and accuracy of every beta) and
    surface_ (accuracy over alpha and beta), both DataFrames; table_ [alphas, betas, gammas] over the axes of grid_.
    """
    has_gamma, gamma, default_gammas, needs_text = False, 0.0, (0.0,), False
    rules = {"alpha": Number(0), "beta": Number(0), "logit_scale": Number(0), "chunk": Whole(1)}

    def __init__(self, alpha: float = 1.0, beta: float = 5.5, logit_scale: float = 100.0, chunk: int = 2**28) -> None:
        self.alpha, self.beta, self.logit_scale, self.chunk = alpha, beta, logit_scale, chunk

    def fit(self, keys: Any, labels: Any, text: Any = None, affinity_keys: Any = None) -> Self:
        """Store the cache: keys [M, d] (or [V, M, d]: mean over raw views, then unit), their labels, class texts [C, d].

        labels [M], whole numbers, or soft labels [M, C], rows of sum 1: how far a key votes for each class. Classes may have
        any number of keys, none included. Without text (Tip-Adapter only) the zero-shot term is 0 and the cache votes alone.
        affinity_keys [M, d'] (or [V, M, d']): corrected features of the same images, for the ++ form.
        Raises ClipnotesError for shapes, labels and values that do not fit.
        """
        self.check_settings()
        text = None if text is None else unit_texts(text)
        self.keys_ = unit_features(keys, "keys", None if text is None else text.shape[1])
        self.text_ = self.no_text(labels) if text is None else text.to(self.keys_)
        self.labels_ = class_values(labels, len(self.keys_), len(self.text_))
        self.corrected_ = affinity_keys is not None
        self.affinity_keys_ = unit_features(affinity_keys, "affinity_keys").to(self.keys_) if self.corrected_ else self.keys_
        if len(self.affinity_keys_) != len(self.keys_):
            raise ClipnotesError(f"{len(self.affinity_keys_)} affinity_keys for {len(self.keys_)} keys; "
                                 "give both for the same images in the same order.")
        self.affinity_width_ = self.affinity_keys_.shape[1]  # APE then keeps only some of it
        self.alpha_, self.beta_, self.gamma_ = self.alpha, self.beta, self.gamma
        return self

    def no_text(self, labels: Any) -> torch.Tensor:
        """Stands for the text features: zeros [C, d], C that of soft labels or one more than the largest label."""
        if self.needs_text:
            raise ClipnotesError(f"{type(self).__name__} compares images with class texts, but has none; give text [C, d].")
        labels = as_tensor(labels, "labels", NUMBERED)
        C = labels.shape[1] if labels.ndim == 2 else 1 + int(class_labels(labels, "labels", len(self.keys_)).max())
        return self.keys_.new_zeros(C, self.keys_.shape[1])

    def logits(self, x: Any, affinity_x: Any = None) -> torch.Tensor:
        """[N, C] from features [N, d]; affinity_x: corrected features of the same rows, for a cache fitted with such."""
        x, affinity_x = self.inputs(x, affinity_x)
        constant, per_gamma = self.fixed_terms(x, affinity_x)
        logits = constant + self.gamma_ * per_gamma
        for rows, _, _, votes in self.votes(affinity_x, [self.beta_], [self.gamma_]):
            logits[:, rows] += self.alpha_ * votes
        return logits.T.contiguous()

    @property
    def table_(self) -> np.ndarray:
        """Validation accuracies [alphas, betas, gammas] over the axes of grid_."""
        return self.found_.table

    @property
    def surface_(self) -> pd.DataFrame:
        """Validation accuracy over alpha (rows) and beta (columns), at the best gamma of each pair: a DataFrame."""
        return self.found_.surface

    def search(self, val_x: Any, val_y: Any, affinity_x: Any = None, grid: Grid | str | None = None,
               betas: Iterable[float] | None = None, gammas: Iterable[float] | None = None) -> Self:
        """Choose alpha, beta (and gamma) by accuracy on validation data, in [0, 1].

        By default exact in alpha: for every beta (and gamma) of a log-spaced set, or of those given, the best alpha in
        [0, inf) is found by sweeping the points where a row's prediction changes, so that no grid with those betas
        (and gammas) does better. Ties go to the smaller beta, then gamma, then alpha.
        grid: a `Grid`, or "paper-a", "tip-adapter", "sus-x", "ape": these values and tie order instead, for parity.
        """
        x, affinity_x = self.inputs(val_x, affinity_x)
        y = class_labels(val_y, "val_y", len(x), len(self.text_))
        if grid is None:
            found = best_over_alpha(self, x, y, affinity_x, betas, gammas)
        else:
            found = best_on_grid(self, x, y, affinity_x, named_grid(grid, betas, gammas))
        self.alpha_, self.beta_, self.gamma_ = found.alpha, found.beta, found.gamma
        self.grid_, self.curve_, self.found_ = found.grid, found.curve, found
        self.refine(x, y, affinity_x, exact=grid is None)
        self.val_accuracy_ = self.score(x, y, affinity_x if self.corrected_ else None)
        return self

    def refine(self, x: torch.Tensor, y: torch.Tensor, affinity_x: torch.Tensor, exact: bool) -> None:
        """What a method does after the search has chosen: nothing here."""

    def inputs(self, x: Any, affinity_x: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit features for the zero-shot term and for the affinity."""
        self.fitted("labels_")
        if self.corrected_ != (affinity_x is not None):
            raise ClipnotesError("The cache was fitted with affinity_keys, but affinity_x is missing; give it." if
                                 self.corrected_ else "affinity_x was given to a cache without affinity_keys; drop it.")
        x = unit_features(x, "x", self.text_.shape[1]).to(self.text_)
        affinity_x = unit_features(affinity_x, "affinity_x", self.affinity_width_).to(x) if self.corrected_ else x
        if len(affinity_x) != len(x):
            raise ClipnotesError(f"{len(affinity_x)} rows of affinity_x for {len(x)} rows of x; give the same images.")
        return x, affinity_x

    def fixed_terms(self, x: torch.Tensor, affinity_x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What depends on neither alpha nor beta: (constant, per gamma), [C, N] each."""
        zero_shot = (self.logit_scale * x @ self.text_.T).T.contiguous()
        return zero_shot, torch.zeros_like(zero_shot)

    def votes(self, affinity_x: torch.Tensor, betas: Sequence[float], gammas: Sequence[float]) -> Iterator[tuple]:
        """Yield (rows, i, js, votes): with betas[i] and any of the gammas js, alpha * votes [C, n] joins these rows."""
        queries = self.queries(affinity_x)
        for rows in parts(len(queries), len(self.labels_), queries.element_size(), self.chunk):
            cosines = self.affinity_keys_ @ queries[rows].T  # [M, n]
            affinity = torch.empty_like(cosines)  # used anew for every beta: fresh memory costs as much as exp
            for i, beta in enumerate(betas):
                torch.sub(cosines, 1, out=affinity).mul_(beta).exp_()
                for js, weighted in self.weighted(affinity, gammas):
                    yield rows, i, js, class_sums(weighted, self.labels_, len(self.text_))

    def queries(self, affinity_x: torch.Tensor) -> torch.Tensor:
        """The features that meet the affinity keys."""
        return affinity_x

    def weighted(self, affinity: torch.Tensor, gammas: Sequence[float]) -> Iterator[tuple]:
        """Yield (js, affinity): how much each key [M, n] counts at the gammas js."""
        yield range(len(gammas)), affinity


class TipX(TipAdapter):
    """Tip-X adds to Tip-Adapter - gamma phi(M) L, closeness of class distributions (paper A, section 2.2).

    M_ij = KL(p_i || q_j) of p = softmax(x W' / temperature) and likewise q of the keys, original features always;
    phi maps the least and largest value of M onto those of S. So the logits of a row depend on all rows given together.
    compat="reference": as the published codes, rows past the last full hundred have M = 0; and after a search on
    SuS-X's grid phi maps onto the range of the validation affinities, as that code does.
    A constant M becomes the least cosine (compat="reference": NaN, the 0/0 of the published codes).
    """
    has_gamma, default_gammas, needs_text = True, (0.0, *np.geomspace(0.03, 100, 16).tolist()), True

    rules = TipAdapter.rules | {"gamma": Number(0), "temperature": Number(0, above=True), "compat": OneOf(None, "reference")}

    def __init__(self, alpha: float = 1.0, beta: float = 5.5, gamma: float = 1.0, logit_scale: float = 100.0,
                 temperature: float = 0.5, compat: str | None = None, chunk: int = 2**28) -> None:
        super().__init__(alpha, beta, logit_scale, chunk)
        self.gamma, self.temperature, self.compat = gamma, temperature, compat

    def fit(self, keys: Any, labels: Any, text: Any = None, affinity_keys: Any = None) -> Self:
        """As `TipAdapter.fit`."""
        super().fit(keys, labels, text, affinity_keys)
        self.log_q_, self.stale_range_ = self.log_distribution(self.keys_), None
        return self

    def search(self, val_x: Any, val_y: Any, affinity_x: Any = None, grid: Grid | str | None = None,
               betas: Iterable[float] | None = None, gammas: Iterable[float] | None = None) -> Self:
        """As `TipAdapter.search`; exact: gamma from a set and then, at the best beta, both swept exactly in turns."""
        if self.compat and len(val_y) < 100:
            raise ClipnotesError(f'{len(val_y)} validation rows with compat="reference", but the published codes fill '
                                 "only full hundreds of rows; give 100 or more, or compat=None.")
        self.stale_range_ = None
        return super().search(val_x, val_y, affinity_x, grid, betas, gammas)

    def refine(self, x: torch.Tensor, y: torch.Tensor, affinity_x: torch.Tensor, exact: bool) -> None:
        """Sweep gamma and alpha in turns; or keep the range of the validation cosines for SuS-X's compat."""
        if exact:
            self.alpha_, self.gamma_ = climb(self, x, y, affinity_x)
        elif self.compat and self.grid_.stale_range:
            self.stale_range_ = self.cosine_range(affinity_x)

    def fixed_terms(self, x: torch.Tensor, affinity_x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Zero-shot logits and -phi(M) L, [C, N] each.

        phi(M) = a (M - min M) + min S is affine, so class sums and extremes of M are enough: no [N, M] array is kept.
        """
        zero_shot, _ = super().fixed_terms(x, affinity_x)
        log_p, labels, n_classes = self.log_distribution(x), self.labels_, len(self.text_)
        filled, sums, extremes = len(x) // 100 * 100 if self.compat else len(x), [], []
        for rows in parts(len(x), len(labels), 8, self.chunk):
            kl = kl_affinity(log_p[rows], self.log_q_)  # [n, M]
            kl[max(filled - rows.start, 0):] = 0
            sums.append(class_sums(kl.T, labels, n_classes))
            extremes += kl.aminmax()
        low, high = min(extremes), max(extremes)
        target_low, target_high = self.stale_range_ or self.cosine_range(affinity_x)
        span = high - low if high > low or self.compat else 1
        a = (target_high - target_low) / span
        counts = class_counts(labels, n_classes)[:, None]  # the offset of phi comes once a key
        return zero_shot, -(a * (torch.cat(sums, 1) - low * counts) + target_low * counts).to(x.dtype)

    def log_distribution(self, x: torch.Tensor) -> torch.Tensor:
        """Log of the class distribution of each row, [N, C]."""
        return F.log_softmax(x @ self.text_.T / self.temperature, dim=1)

    def cosine_range(self, affinity_x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Least and largest cosine between rows and keys."""
        slices = parts(len(affinity_x), len(self.labels_), affinity_x.element_size(), self.chunk)
        extremes = [value.double() for s in slices for value in (affinity_x[s] @ self.affinity_keys_.T).aminmax()]
        return min(extremes), max(extremes)


def kl_affinity(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """M_ij = KL(p_i || q_j), float64 [N, M], from logs of distributions [N, C] and [M, C].

    sum_c p log p - p (log q)': one matrix product. The two parts nearly cancel, hence double precision.
    """
    log_p, log_q = log_p.double(), log_q.double()
    p = log_p.exp()
    return torch.addmm((p * log_p).sum(1), log_q, p.T, alpha=-1).T


def class_sums(values: torch.Tensor, labels: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Sums of the rows of one class: L' values [C, n] of values [M, n]; labels [M], or soft ones [M, C]."""
    if labels.ndim == 2:
        return labels.T.to(values) @ values
    return values.new_zeros(n_classes, values.shape[1]).index_add_(0, labels, values)


def class_counts(labels: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Members of every class [C]: whole numbers for labels [M], sums for soft ones [M, C]."""
    return labels.bincount(minlength=n_classes) if labels.ndim == 1 else labels.sum(0)


def class_values(labels: Any, n: int, n_classes: int) -> torch.Tensor:
    """The values of a cache: labels int64 [n], or soft labels float [n, C] whose rows are distributions.

    Raises ClipnotesError for labels out of range, another shape, and rows that are negative or do not sum to 1.
    """
    values = as_tensor(labels, "labels", NUMBERED)
    if values.ndim != 2:
        return class_labels(labels, "labels", n, n_classes)
    if values.shape != (n, n_classes):
        raise ClipnotesError(f"Soft labels have shape {list(values.shape)}, but {n} keys of {n_classes} classes need "
                             f"[{n}, {n_classes}].")
    values = values if values.dtype == torch.float64 else values.float()
    wrong = ~((values >= 0).all(1) & ((values.sum(1) - 1).abs() < 1e-3))
    if wrong.any():
        raise ClipnotesError(f"{wrong.sum()} rows of soft labels are no distribution over the classes; make them 0 or more and "
                             "their sum 1.")
    return values


def parts(n: int, m: int, itemsize: int, chunk: int) -> list[slice]:
    """Slices of n rows, such that three arrays of m values a row stay within `chunk` bytes."""
    step = max(1, int(chunk) // (3 * m * itemsize))
    return [slice(start, start + step) for start in range(0, n, step)]

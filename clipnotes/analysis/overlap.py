"""Intra-modal overlap (paper A, Fig. 1): how far same-class and different-class cosines share their range."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from clipnotes.analysis.statistics import LEVEL
from clipnotes.checks import SEED, Whole, class_labels, feature_matrix
from clipnotes.errors import ClipnotesError


@dataclass(frozen=True)
class Overlap:
    """Histograms of cosines over shared bins, and the area under both.

    area: sum over bins of min(paired, unpaired), 0 (told apart by a threshold) to 1 (alike).
    paired, unpaired: share of the same-class and of the different-class pairs in each bin, float64 [bins], sum 1.
    edges: [bins + 1] over [-1, 1]. interval: bootstrap interval of the area over images. n: images used.
    """
    area: float
    paired: np.ndarray
    unpaired: np.ndarray
    edges: np.ndarray
    interval: tuple
    n: int

    @property
    def centres(self) -> np.ndarray:
        return (self.edges[1:] + self.edges[:-1]) / 2


def overlap(x: Any, y: Any, bins: int = 200, max_images: int = 2500, draws: int = 1000, level: float = 0.95,
            seed: int = 0) -> Overlap:
    """Overlap of paired (same class) and unpaired (different class) cosines among features [N, d] with labels [N].

    Every pair of different rows counts once. Of more than `max_images` rows a random subset is used, so that the
    N^2/2 cosines stay few. The interval is area +- z times the standard deviation of the area over `draws` bootstrap
    resamples of the rows (see `resampled_areas`).
    Raises ClipnotesError for NaN, for shapes that do not fit and where one kind of pair does not occur.
    """
    check_settings(bins, max_images, draws, level, seed)
    x, y = checked(x, y, seed, max_images)
    paired, unpaired = image_histograms(x, y, x, y, bins, same_set=True)  # [N, bins] each
    return summarise(paired, unpaired, draws, level, seed, same_set=True)


def cross_overlap(x: Any, y: Any, other_x: Any, other_y: Any, bins: int = 200, max_images: int = 2500, draws: int = 1000,
                  level: float = 0.95, seed: int = 0) -> Overlap:
    """The same between two sets, such as images [N, d] and class texts [M, d]: every row with every row of the other.

    The interval resamples the rows of the first set.
    """
    check_settings(bins, max_images, draws, level, seed)
    x, y = checked(x, y, seed, max_images)
    other_x, other_y = checked(other_x, other_y, seed, max_images)
    if x.shape[1] != other_x.shape[1]:
        raise ClipnotesError(f"Features of different sizes d = {x.shape[1]} and {other_x.shape[1]}; "
                             "both sets must come from one model.")
    paired, unpaired = image_histograms(x, y, other_x, other_y, bins, same_set=False)
    return summarise(paired, unpaired, draws, level, seed, same_set=False)


def check_settings(bins: int, max_images: int, draws: int, level: float, seed: int) -> None:
    """ClipnotesError for a setting out of range; a standard deviation needs two draws."""
    Whole(1)(bins, "bins"), Whole(2)(max_images, "max_images"), Whole(2)(draws, "draws")
    LEVEL(level, "level"), SEED(seed, "seed")


def checked(x: Any, y: Any, seed: int, max_images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit features and labels, at most `max_images` random rows of them."""
    x = feature_matrix(x, "x", views=False).float()
    y = class_labels(y, "y", len(x))
    if len(x) > max_images:
        rows = torch.from_numpy(np.random.default_rng(seed).choice(len(x), max_images, replace=False))
        x, y = x[rows], y[rows]
    return F.normalize(x, dim=1), y


def image_histograms(x: torch.Tensor, y: torch.Tensor, other_x: torch.Tensor, other_y: torch.Tensor, bins: int, same_set: bool,
                     rows_at_once: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """How many cosines of every row fall into every bin: paired and unpaired counts, float64 [N, bins] each."""
    paired, unpaired = np.zeros((len(x), bins)), np.zeros((len(x), bins))
    for start in range(0, len(x), rows_at_once):
        rows = torch.arange(start, min(start + rows_at_once, len(x)))
        cosine = x[rows] @ other_x.T  # [r, M]
        index = ((cosine + 1) * (bins / 2)).long().clamp(0, bins - 1)
        index += torch.arange(len(rows))[:, None] * bins
        same = y[rows][:, None] == other_y[None]
        different = ~same
        if same_set:
            same[torch.arange(len(rows)), rows] = False  # a row is no pair with itself
        for counts, which in ((paired, same), (unpaired, different)):
            counts[start:start + len(rows)] = torch.bincount(index[which], minlength=len(rows) * bins).reshape(-1, bins)
    return paired, unpaired


def summarise(paired: np.ndarray, unpaired: np.ndarray, draws: int, level: float, seed: int, same_set: bool) -> Overlap:
    """An `Overlap` from the counts of every row."""
    from scipy.stats import norm

    total = [counts.sum(0) for counts in (paired, unpaired)]
    for counts, what in zip(total, ("same", "a different"), strict=True):
        if not counts.sum():
            raise ClipnotesError(f"No two rows of {what} class among the {len(paired)} given; the overlap needs both "
                                 "kinds of pairs.")
    p, q = (counts / counts.sum() for counts in total)
    area = float(np.minimum(p, q).sum())
    areas = resampled_areas(paired, unpaired, draws, seed, same_set)
    half = float(norm.ppf((1 + level) / 2) * areas.std(ddof=1)) if len(areas) > 1 else 1.0  # nothing is known of it
    interval = (max(0.0, area - half), min(1.0, area + half))
    return Overlap(area, p, q, np.linspace(-1, 1, len(p) + 1), interval, len(paired))


def resampled_areas(paired: np.ndarray, unpaired: np.ndarray, draws: int, seed: int, same_set: bool) -> np.ndarray:
    """Areas under `draws` bootstrap resamples of rows, float64 [draws], fewer where some have no pairs of one kind.

    With h_i the histogram of row i, drawing the rows w_i times gives sum_i w_i h_i between two sets. Within one set both
    ends of a pair are drawn, sum_ij w_i w_j h_ij, whose first-order part is sum_i (2 w_i - 1) h_i: one matrix product
    instead of N^2 pairs a draw, and what is neglected is of order 1/N.
    """
    n = len(paired)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(float)  # [draws, N]
    parts = []
    for counts in (paired, unpaired):
        resampled = np.clip((2 * weights - 1 if same_set else weights) @ counts, 0, None)
        with np.errstate(invalid="ignore"):
            parts.append(resampled / resampled.sum(1, keepdims=True))
    areas = np.minimum(*parts).sum(1)
    return areas[np.isfinite(areas)]

"""Overlap corrections outside the encoder: maps of image features, learnt on generic images, for any features.

All share one interface: fit on generic features (some need their labels), then transform any features of that model to
unit features of smaller overlap. Features are unit on the way in too; views [V, N, d] become unit means. In the ++
forms of the cache models both the keys and the rows go through.
"""
from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from sklearn.base import TransformerMixin
from torch import nn

from clipnotes.checks import SEED, Number, Whole, class_labels
from clipnotes.errors import ClipnotesError
from clipnotes.methods.base import Method
from clipnotes.methods.inputs import unit_features
from clipnotes.methods.sgd import RATE, check_finite
from clipnotes.seeding import generator


class Centring(TransformerMixin, Method):
    """Subtract the mean generic feature, unit norm: the part that all images share lifts every cosine."""

    def fit(self, generic_x: Any, generic_y: Any = None) -> Self:
        """Learn from generic features [N, d]; labels [N] are needed where the class says so, else ignored.

        Raises ClipnotesError for shapes and values that do not fit.
        """
        self.check_settings()
        x = unit_features(generic_x, "generic_x")
        y = None if generic_y is None else class_labels(generic_y, "generic_y", len(x))
        self.mean_ = x.mean(0)
        self.learn(x - self.mean_, y)
        return self

    def transform(self, x: Any) -> torch.Tensor:
        """Unit features [N, d'] of features [N, d]."""
        mean = self.fitted("mean_")
        return F.normalize(self.mapped(unit_features(x, "x", len(mean)).to(mean) - mean), dim=1)

    def learn(self, centred: torch.Tensor, y: torch.Tensor | None) -> None:
        """What a correction learns beyond the mean, from centred features [N, d]."""

    def mapped(self, centred: torch.Tensor) -> torch.Tensor:
        """What it does to centred features [N, d]."""
        return centred


class PCAProjection(Centring):
    """Centre, keep the first n_components principal axes of the generic features, unit norm.

    Herzog and Wang (arXiv 2603.16100) argue that such a projection helps as much as special training.
    """

    rules = {"n_components": Whole(1)}

    def __init__(self, n_components: int = 256) -> None:
        self.n_components = n_components

    def learn(self, centred: torch.Tensor, y: torch.Tensor | None) -> None:
        if self.n_components > centred.shape[1]:
            raise ClipnotesError(f"n_components = {self.n_components} is out of range; features have "
                                 f"{centred.shape[1]} dimensions.")
        _, axes = principal_axes(centred)
        self.matrix_ = axes[:, :self.n_components].to(centred.dtype)  # [d, n_components]

    def mapped(self, centred: torch.Tensor) -> torch.Tensor:
        return centred @ self.matrix_


class Whitening(Centring):
    """Centre, rotate to the principal axes, divide by (standard deviation + ridge)^power, unit norm.

    power 0 is centring, 1 makes all directions equally wide; one half is a good compromise. The ridge, in units of
    features of length 1, keeps directions in which generic images hardly differ from being blown up. No labels.
    """

    rules = {"power": Number(0), "ridge": Number(0)}

    def __init__(self, power: float = 0.5, ridge: float = 0.01) -> None:
        self.power, self.ridge = power, ridge

    def learn(self, centred: torch.Tensor, y: torch.Tensor | None) -> None:
        deviation, axes = principal_axes(self.spread(centred, y))
        if self.ridge == 0 and self.power and deviation[-1] < 1e-6:
            raise ClipnotesError(f"{len(centred)} generic rows do not vary in all {len(axes)} dimensions; "
                                 "give more of them, or a ridge above 0.")
        self.matrix_ = (axes / (deviation + self.ridge) ** self.power).to(centred.dtype)  # [d, d]

    def spread(self, centred: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        """The rows [N, d] whose spread is evened out: all of them, around the mean."""
        return centred

    def mapped(self, centred: torch.Tensor) -> torch.Tensor:
        return centred @ self.matrix_


class WithinClassWhitening(Whitening):
    """Whitening by the spread around the class means: evens out how images of ONE class differ. Uses generic labels.

    With power 1 cosines become those of linear discriminant analysis. Every class needs at least two rows to count.
    """

    def spread(self, centred: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        if y is None:
            raise ClipnotesError("WithinClassWhitening needs the labels of the generic features; give generic_y.")
        _, classes, counts = y.unique(return_inverse=True, return_counts=True)
        means = centred.new_zeros(len(counts), centred.shape[1]).index_add_(0, classes, centred) / counts[:, None]
        several = counts > 1
        if not several.any():
            raise ClipnotesError(f"None of the {len(counts)} generic classes has two rows; give more images a class.")
        # With K rows around their own mean the spread is short by (K - 1) / K.
        scale = (counts / (counts - 1).clamp(min=1)).sqrt()
        return ((centred - means[classes]) * scale[classes][:, None])[several[classes]]


def principal_axes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard deviations [d], descending, and principal axes, columns of [d, d], of rows around 0; in float64."""
    x = x.double()
    variance, axes = torch.linalg.eigh(x.T @ x / len(x))
    return variance.flip(0).clamp(min=0).sqrt(), axes.flip(1)


class FeatureAdapter(Centring):
    """A residual bottleneck on the final features, x + Up ReLU(Down x), trained on generic features and their labels.

    The counterpart outside the encoder of paper A's supervised adapter: Up starts at zero, so that training starts
    from the centred features; class proxies, thrown away afterwards, are told apart by the softmax of scale * cosine.
    losses_: mean loss of each epoch.
    """

    rules = {"width": Whole(1), "epochs": Whole(0), "lr": RATE, "batch_size": Whole(1), "scale": Number(0), "seed": SEED}

    def __init__(self, width: int = 64, epochs: int = 5, lr: float = 3e-3, batch_size: int = 512, scale: float = 10.0,
                 seed: int = 1) -> None:
        self.width, self.epochs, self.lr, self.batch_size = width, epochs, lr, batch_size
        self.scale, self.seed = scale, seed

    def learn(self, centred: torch.Tensor, y: torch.Tensor | None) -> None:
        if y is None:
            raise ClipnotesError("FeatureAdapter needs the labels of the generic features; give generic_y.")
        classes, y = y.unique(return_inverse=True)
        d, random = centred.shape[1], generator(self.seed)
        down = nn.Parameter(torch.randn(d, self.width, generator=random).to(centred) / d**0.5)
        up = nn.Parameter(centred.new_zeros(self.width, d))
        means = centred.new_zeros(len(classes), d).index_add_(0, y, centred)
        proxies = nn.Parameter(F.normalize(means, dim=1))  # [classes, d]
        self.down_, self.up_, self.losses_ = down, up, []
        optimizer = torch.optim.AdamW([down, up, proxies], lr=self.lr)
        for epoch in range(1, self.epochs + 1):
            total = 0.0
            for rows in torch.randperm(len(y), generator=random).split(self.batch_size):
                cosine = F.normalize(self.mapped(centred[rows]), dim=1) @ F.normalize(proxies, dim=1).T
                loss = F.cross_entropy(self.scale * cosine, y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(rows)
            self.losses_.append(total / len(y))
            check_finite(self.losses_[-1], [down, up], epoch, self.lr)
        self.down_, self.up_ = down.detach(), up.detach()

    def mapped(self, centred: torch.Tensor) -> torch.Tensor:
        return centred + F.relu(centred @ self.down_) @ self.up_

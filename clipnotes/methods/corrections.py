"""Overlap corrections outside the encoder: maps of image features, learnt on generic images, for any features.

All share one interface: fit on generic features (some need their labels), then transform any features of that model to
unit features of smaller overlap. Features are unit on the way in too; views [V, N, d] become unit means. In the ++
forms of the cache models both the keys and the rows go through.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from clipnotes.checks import class_labels
from clipnotes.errors import ClipnotesError
from clipnotes.methods.inputs import not_negative, unit_features


class Centring:
    """Subtract the mean generic feature, unit norm: the part that all images share lifts every cosine."""

    def fit(self, generic_x, generic_y=None):
        """Learn from generic features [N, d]; labels [N] are needed where the class says so, else ignored.

        Raises ClipnotesError for shapes and values that do not fit.
        """
        x = unit_features(generic_x, "generic_x")
        y = None if generic_y is None else class_labels(generic_y, "generic_y", len(x))
        self.mean_ = x.mean(0)
        self.learn(x - self.mean_, y)
        return self

    def transform(self, x):
        """Unit features [N, d'] of features [N, d]."""
        if not hasattr(self, "mean_"):
            raise ClipnotesError(f"this {type(self).__name__} has learnt nothing yet; call fit(generic_x) first")
        return F.normalize(self.mapped(unit_features(x, "x", len(self.mean_)) - self.mean_), dim=1)

    def learn(self, centred, y):
        """What a correction learns beyond the mean, from centred features [N, d]."""

    def mapped(self, centred):
        """What it does to centred features [N, d]."""
        return centred


class PCAProjection(Centring):
    """Centre, keep the first n_components principal axes of the generic features, unit norm.

    Herzog and Wang (arXiv 2603.16100) argue that such a projection helps as much as special training.
    """

    def __init__(self, n_components=256):
        self.n_components = n_components

    def learn(self, centred, y):
        if not 1 <= self.n_components <= centred.shape[1]:
            raise ClipnotesError(f"n_components = {self.n_components} is out of range; features have "
                                 f"{centred.shape[1]} dimensions")
        _, axes = principal_axes(centred)
        self.matrix_ = axes[:, :self.n_components].to(centred.dtype)  # [d, n_components]

    def mapped(self, centred):
        return centred @ self.matrix_


class Whitening(Centring):
    """Centre, rotate to the principal axes, divide by (standard deviation + ridge)^power, unit norm.

    power 0 is centring, 1 makes all directions equally wide; one half is a good compromise. The ridge, in units of
    features of length 1, keeps directions in which generic images hardly differ from being blown up. No labels.
    """

    def __init__(self, power=0.5, ridge=0.01):
        not_negative(power=power, ridge=ridge)
        self.power, self.ridge = power, ridge

    def learn(self, centred, y):
        deviation, axes = principal_axes(self.spread(centred, y))
        if self.ridge == 0 and self.power and deviation[-1] < 1e-6:
            raise ClipnotesError(f"{len(centred)} generic rows do not vary in all {len(axes)} dimensions; "
                                 "give more of them, or a ridge above 0")
        self.matrix_ = (axes / (deviation + self.ridge) ** self.power).to(centred.dtype)  # [d, d]

    def spread(self, centred, y):
        """The rows [N, d] whose spread is evened out: all of them, around the mean."""
        return centred

    def mapped(self, centred):
        return centred @ self.matrix_


class WithinClassWhitening(Whitening):
    """Whitening by the spread around the class means: evens out how images of ONE class differ. Uses generic labels.

    With power 1 cosines become those of linear discriminant analysis. Every class needs at least two rows to count.
    """

    def spread(self, centred, y):
        if y is None:
            raise ClipnotesError("WithinClassWhitening needs the labels of the generic features; give generic_y")
        _, classes, counts = y.unique(return_inverse=True, return_counts=True)
        means = centred.new_zeros(len(counts), centred.shape[1]).index_add_(0, classes, centred) / counts[:, None]
        several = counts > 1
        if not several.any():
            raise ClipnotesError(f"none of the {len(counts)} generic classes has two rows; give more images a class")
        # With K rows around their own mean the spread is short by (K - 1) / K.
        scale = (counts / (counts - 1).clamp(min=1)).sqrt()
        return ((centred - means[classes]) * scale[classes][:, None])[several[classes]]


def principal_axes(x):
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

    def __init__(self, width=64, epochs=5, lr=3e-3, batch_size=512, scale=10.0, seed=1):
        not_negative(epochs=epochs, lr=lr, scale=scale)
        self.width, self.epochs, self.lr, self.batch_size = width, epochs, lr, batch_size
        self.scale, self.seed = scale, seed

    def learn(self, centred, y):
        if y is None:
            raise ClipnotesError("FeatureAdapter needs the labels of the generic features; give generic_y")
        classes, y = y.unique(return_inverse=True)
        d, generator = centred.shape[1], torch.Generator().manual_seed(self.seed)
        down = nn.Parameter(torch.randn(d, self.width, generator=generator).to(centred) / d**0.5)
        up = nn.Parameter(centred.new_zeros(self.width, d))
        means = centred.new_zeros(len(classes), d).index_add_(0, y, centred)
        proxies = nn.Parameter(F.normalize(means, dim=1))  # [classes, d]
        self.down_, self.up_, self.losses_ = down, up, []
        optimiser = torch.optim.AdamW([down, up, proxies], lr=self.lr)
        for _ in range(self.epochs):
            total = 0.0
            for rows in torch.randperm(len(y), generator=generator).split(self.batch_size):
                cosine = F.normalize(self.mapped(centred[rows]), dim=1) @ F.normalize(proxies, dim=1).T
                loss = F.cross_entropy(self.scale * cosine, y[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += loss.item() * len(rows)
            self.losses_.append(total / len(y))
        self.down_, self.up_ = down.detach(), up.detach()

    def mapped(self, centred):
        return centred + F.relu(centred @ self.down_) @ self.up_

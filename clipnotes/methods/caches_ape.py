"""APE: a cache on selected channels, with weighted keys."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F

from clipnotes.checks import Number, OneOf, Several, Whole
from clipnotes.errors import ClipnotesError
from clipnotes.methods.caches import TipAdapter, class_counts, class_sums


class APE(TipAdapter):
    """APE, training-free: Tip-Adapter on the channels that tell classes apart, keys weighted by the text's view of them.

        logits = logit_scale x W' + alpha exp(-beta (1 - S')) diag(r) L,   r_j = exp(gamma KL_j)

    S', and P = softmax of cosines of keys with texts, on n_channels selected channels, unit again (see
    `channel_criterion`); KL_j = log2((1 + 1e-6) / (P_j,y + 1e-6)): keys that their class text misses count more.
    The publication tunes n_channels (None: 65 % of d) and weights by data set; the defaults are its means.
    affinity_channels: those of corrected features are chosen from the corrected keys alone ("own": class means stand
    in for texts), or are the same as of the original ones ("same": sensible where channels keep their meaning).
    """
    has_gamma, default_gammas, needs_text = True, tuple(np.linspace(0, 1.5, 11).tolist()), True

    rules = TipAdapter.rules | {"gamma": Number(0), "n_channels": Whole(1, optional=True), "weights": Several(Number(), 2),
                                "affinity_channels": OneOf("own", "same")}

    def __init__(self, alpha: float = 1.0, beta: float = 5.5, gamma: float = 0.1, n_channels: int | None = None,
                 weights: tuple[float, float] = (0.5, 0.5), affinity_channels: str = "own", logit_scale: float = 100.0,
                 chunk: int = 2**28) -> None:
        super().__init__(alpha, beta, logit_scale, chunk)
        self.gamma, self.n_channels, self.weights, self.affinity_channels = gamma, n_channels, weights, affinity_channels

    def fit(self, keys: Any, labels: Any, text: Any = None, affinity_keys: Any = None) -> Self:
        """As `TipAdapter.fit`."""
        super().fit(keys, labels, text, affinity_keys)
        text, keys, labels = self.text_, self.keys_, self.labels_
        own = torch.arange(len(text)) if labels.ndim == 1 else torch.eye(len(text)).to(labels)
        classes = torch.cat([own, labels])  # texts are members of their classes, too
        self.criterion_ = channel_criterion(torch.cat([text, keys]), classes, text, self.weights)
        self.channels_ = self.affinity_channels_ = top_channels(self.criterion_, self.n_channels)
        probability = F.softmax(reduced(keys, self.channels_) @ reduced(text, self.channels_).T, dim=1)  # [M, C]
        divergence = torch.log2((1 + 1e-6) / (probability + 1e-6))  # [M, C], of a key from each class text
        self.divergence_ = divergence.gather(1, labels[:, None])[:, 0] if labels.ndim == 1 else (labels * divergence).sum(1)
        if self.corrected_ and self.affinity_channels == "own":
            counts = class_counts(labels, len(text))
            present = counts > 0
            classes = labels[:, present] if labels.ndim == 2 else (present.cumsum(0) - 1)[labels]
            means = class_sums(self.affinity_keys_, classes, int(present.sum())) / counts[present][:, None]
            criterion = channel_criterion(self.affinity_keys_, classes, means, self.weights)
            self.affinity_channels_ = top_channels(criterion, self.n_channels)
        elif self.affinity_width_ != text.shape[1]:
            raise ClipnotesError(f'affinity_keys of size d = {self.affinity_width_} with affinity_channels="same", but '
                                 f'keys have d = {text.shape[1]}; use affinity_channels="own".')
        self.affinity_keys_ = reduced(self.affinity_keys_, self.affinity_channels_)
        return self

    def queries(self, affinity_x: torch.Tensor) -> torch.Tensor:
        """The selected channels, unit again."""
        return reduced(affinity_x, self.affinity_channels_)

    def weighted(self, affinity: torch.Tensor, gammas: Sequence[float]) -> Iterator[tuple]:
        """Every gamma weighs the keys in its own way."""
        weighted = torch.empty_like(affinity)
        for j, gamma in enumerate(gammas):
            yield [j], torch.mul(affinity, torch.exp(gamma * self.divergence_)[:, None], out=weighted)


def channel_criterion(members: torch.Tensor, classes: torch.Tensor, text: torch.Tensor,
                      weights: tuple[float, float]) -> torch.Tensor:
    """J [d] = -w0 s + w1 variance over classes of `text` [C, d]; channels with a large J tell classes apart.

    s: mean over all pairs of members [n, d] of different classes of the product of their values; with class sums t_c
    of n_c members, ((sum t_c)^2 - sum t_c^2) / (n^2 - sum n_c^2). Soft classes [n, C] count in parts.
    """
    if len(text) < 2:
        raise ClipnotesError(f"{len(text)} class, but APE compares channels between classes; give two or more.")
    sums, counts = class_sums(members, classes, len(text)), class_counts(classes, len(text))
    mean_product = (sums.sum(0) ** 2 - (sums**2).sum(0)) / (len(members) ** 2 - (counts**2).sum())
    return -weights[0] * mean_product + weights[1] * text.var(0)


def reduced(x: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """These channels of unit features, unit again."""
    return F.normalize(x[:, channels], dim=1)


def top_channels(criterion: torch.Tensor, n_channels: int | None = None) -> torch.Tensor:
    """Indices of the channels with the largest criterion, in descending order."""
    n_channels = n_channels or round(0.65 * len(criterion))
    if n_channels > len(criterion):
        raise ClipnotesError(f"n_channels = {n_channels} is out of range; features have {len(criterion)} channels.")
    return criterion.topk(n_channels).indices

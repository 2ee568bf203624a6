"""Pseudo-labels: training images chosen without any label, from zero-shot predictions (UPL; paper B, Table 5)."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clipnotes.checks import SEED, OneOf, Whole, as_tensor, class_labels
from clipnotes.errors import ClipnotesError

KINDS = ("confident", "random")


@dataclass
class PseudoLabels:
    """Rows chosen, int64 [M], their pseudo-labels, int64 [M], and confidences, float [M]; class by class.

    counts: chosen rows of every class [C]; k: rows a class that were asked for, None without a limit.
    """
    indices: torch.Tensor
    labels: torch.Tensor
    confidence: torch.Tensor
    counts: torch.Tensor
    k: int | None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def never_predicted(self) -> list[int]:
        """Classes that are the prediction of no row, so that nothing could be chosen for them."""
        return torch.nonzero(self.counts == 0)[:, 0].tolist()

    @property
    def short(self) -> dict[int, int]:
        """{class: rows chosen} of the classes that were predicted, but for fewer than k rows."""
        return {c: n for c, n in enumerate(self.counts.tolist()) if self.k and 0 < n < self.k}

    def accuracy(self, true_y: Any) -> float:
        """Share of right pseudo-labels, in [0, 1]; true_y [N]: the labels of ALL rows, those not chosen included."""
        true_y = class_labels(true_y, "true_y")
        if len(true_y) <= self.indices.max():
            raise ClipnotesError(f"{len(true_y)} true labels, but row {self.indices.max()} was chosen; "
                                 "give the labels of all images that were scored.")
        return (true_y[self.indices] == self.labels).double().mean().item()


def select_pseudo_labels(scores: Any, k: int | None = 16, kind: str = "confident", seed: int = 1) -> PseudoLabels:
    """Choose up to k rows for every class among those that are predicted as it; returns `PseudoLabels`.

    scores [N, C]: zero-shot probabilities, or logits, of which the softmax is taken (with logit_scale: the temperature
    changes which rows are the most confident). A row's label is its most likely class and its confidence that
    probability; no row counts for another class, so each is used once.
    kind: "confident" takes the k most confident rows (UPL), in descending order; "random" draws k without replacement
    from `seed` (Robust UPL), in the order drawn. Fewer where a class has fewer, see `short` and `never_predicted`.
    k=None takes all. Raises ClipnotesError for scores that are not finite [N, C], k below 1 and an unknown kind.
    """
    OneOf(*KINDS)(kind, "kind"), Whole(1, optional=True)(k, "k"), SEED(seed, "seed")
    scores = probabilities(scores)
    confidence, labels = scores.max(1)
    rng, chosen = np.random.default_rng(seed), []
    by_confidence = confidence.argsort(descending=True, stable=True)
    for c in range(scores.shape[1]):
        rows = by_confidence[labels[by_confidence] == c]
        chosen.append((rows if kind == "confident" else rows[rng.permutation(len(rows))])[:k])
    indices = torch.cat(chosen)
    return PseudoLabels(indices, labels[indices], confidence[indices], torch.tensor([len(rows) for rows in chosen]), k)


def probabilities(scores: Any) -> torch.Tensor:
    """[N, C] probabilities: the scores themselves where every row is one, else their softmax."""
    scores = as_tensor(scores, "scores")
    scores = scores if scores.dtype == torch.float64 else scores.float()
    if scores.ndim != 2 or not scores.numel():
        raise ClipnotesError(f"Scores have shape {list(scores.shape)}; give zero-shot logits or probabilities [N, C].")
    if not torch.isfinite(scores).all():
        rows = (~torch.isfinite(scores)).any(1).sum().item()
        raise ClipnotesError(f"{rows} rows of scores hold NaN or infinite values; compute them again.")
    if (scores >= 0).all() and torch.allclose(scores.sum(1), scores.new_ones(len(scores)), atol=1e-3):
        return scores  # a second softmax would change the order of confidences
    return scores.softmax(1)


def ensemble_logits(members: Iterable[Any]) -> torch.Tensor:
    """Logits [N, C] of an ensemble: the mean over its members' (UPL); one model a seed, say."""
    members = [as_tensor(logits, "logits") for logits in members]
    shapes = {tuple(logits.shape) for logits in members}
    if len(shapes) != 1:
        raise ClipnotesError(f"Members of shapes {sorted(shapes)}; an ensemble needs logits of one shape, [N, C], from "
                             "one model or more.")
    return torch.stack(members).mean(0)

"""Which labels to believe: agreement with zero-shot CLIP, small losses (co-teaching), optimal transport (NLPrompt)."""
from __future__ import annotations

import math

import torch

from clipnotes.checks import Number, OneOf, Whole, class_labels
from clipnotes.errors import ClipnotesError


def agrees(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Rows whose given label is the class that the logits [N, C], zero-shot ones, like best: bool [N]."""
    return logits.argmax(1) == class_labels(y, "y", len(logits), logits.shape[1])


def small_losses(losses: torch.Tensor, keep: float) -> torch.Tensor:
    """The share `keep` of each row of losses [..., n] that is smallest, at least one of n: bool [..., n]."""
    Number(0, 1)(keep, "keep")
    n = max(1, math.floor(keep * losses.shape[-1] + 1e-9))
    return torch.zeros_like(losses, dtype=torch.bool).scatter_(-1, losses.topk(n, largest=False).indices, True)


def kept_share(epoch: int, rho: float, ramp: int = 10) -> float:
    """R(e) = 1 - rho min(e / ramp, 1): co-teaching drops more and more, up to the noise rate (Han et al. 2018, Alg. 1)."""
    return 1 - rho * min(epoch / ramp, 1)


def transport(cost: torch.Tensor, epsilon: float = 0.01, rounds: int = 300, tolerance: float = 1e-6) -> torch.Tensor:
    """Sinkhorn's coupling Q [N, C] of N images with C classes: least <Q, cost> - epsilon entropy, every image of weight 1/N and
    every class of weight 1/C.

    In logarithms, float64: rows and columns are scaled in turns until the sums over images are right to `tolerance`.
    Raises ClipnotesError for a cost that is not finite and an epsilon that is not positive.
    """
    Number(0, above=True)(epsilon, "epsilon"), Whole(1)(rounds, "rounds")
    kernel = -torch.as_tensor(cost).double() / epsilon
    if kernel.ndim != 2 or not torch.isfinite(kernel).all():
        raise ClipnotesError(f"Cost of shape {list(kernel.shape)} must be finite numbers [N, C]; compute it again.")
    N, C = kernel.shape
    of_class = kernel.new_zeros(C)
    for _ in range(rounds):
        of_image = -math.log(N) - torch.logsumexp(kernel + of_class, 1)
        of_class = -math.log(C) - torch.logsumexp(kernel + of_image[:, None], 0)
        coupling = (kernel + of_image[:, None] + of_class).exp()
        if (coupling.sum(1) - 1 / N).abs().sum() < tolerance:
            break
    return coupling


def clean_by_transport(logits: torch.Tensor, y: torch.Tensor, epsilon: float = 0.1, compat: str | None = None) -> torch.Tensor:
    """NLPrompt's split (Pan et al., CVPR 2025): rows whose label is where most of their mass is transported, bool [N].

    logits [N, C]: those of the class texts, times logit_scale. The cost is -log p, so that no class can take more than its
    share of images: a balanced zero-shot prediction, held against the label. NLPrompt then trains the clean part with CE and
    the rest with MAE. compat="reference": the released code takes the softmax of p once more, then its logarithm, which leaves
    costs within 1 of each other, and epsilon = 0.01.
    """
    OneOf(None, "reference")(compat, "compat")
    log_p = logits.double().log_softmax(1)
    cost = -log_p.exp().log_softmax(1) if compat else -log_p
    return agrees(transport(cost, 0.01 if compat else epsilon), y)

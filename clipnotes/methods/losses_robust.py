"""Losses of the field against wrong labels beside GCE: symmetric, smoothed and forward-corrected cross entropy.

All take log probabilities [..., C] and labels int64 [...] and return losses [...], not their mean.
"""
from __future__ import annotations

import math

import torch

from clipnotes.checks import Number, OneOf, as_tensor
from clipnotes.errors import ClipnotesError


def symmetric_ce(log_p: torch.Tensor, labels: torch.Tensor, alpha: float = 0.1, beta: float = 1.0,
                 compat: str | None = None) -> torch.Tensor:
    """alpha CE + beta RCE, the reverse cross entropy -sum_k p_k log [k = y] with log 0 set to A (Wang et al. 2019, eq. 7).

    RCE = -A (1 - p_y): the mean absolute error times -A, A = -4 in the paper. The publication takes alpha = 0.1, beta = 1
    for CIFAR-10. compat="reference": the released code clips the labels at 1e-4, so that A = log 1e-4 = -9.2.
    """
    Number(0)(alpha, "alpha"), Number(0)(beta, "beta"), OneOf(None, "reference")(compat, "compat")
    least = math.log(1e-4) if compat else -4.0
    log_py = of_labels(log_p, labels)
    return -alpha * log_py + beta * least * torch.expm1(log_py)


def smoothed_ce(log_p: torch.Tensor, labels: torch.Tensor, epsilon: float = 0.1) -> torch.Tensor:
    """Cross entropy with targets 1 - epsilon + epsilon / C on the label and epsilon / C elsewhere (Szegedy et al. 2016)."""
    Number(0, 1)(epsilon, "epsilon")
    return -(1 - epsilon) * of_labels(log_p, labels) - epsilon * log_p.mean(-1)


def forward_ce(log_p: torch.Tensor, labels: torch.Tensor, transition: torch.Tensor) -> torch.Tensor:
    """-log sum_j T_j,y p_j, cross entropy of what the noise makes of p (Patrini et al. 2017, forward correction).

    transition T [C, C]: T_j,y is the probability that true class j is given label y; rows of sum 1.
    ClipnotesError for another shape, negative values, or rows that do not sum to 1.
    """
    C = log_p.shape[-1]
    T = as_tensor(transition, "transition").to(log_p)
    if T.shape != (C, C) or (T < 0).any() or ((T.sum(1) - 1).abs() > 1e-4).any():
        raise ClipnotesError(f"Transition of shape {list(T.shape)} does not fit; it must be [{C}, {C}], its rows distributions "
                             "of the given label over true classes.")
    return -torch.logsumexp(log_p + T.log().T[labels], -1)  # [..., C]: log T_j,y + log p_j


def uniform_transition(rho: float, n_classes: int) -> torch.Tensor:
    """T [C, C] of uniform noise: 1 - rho on the diagonal, rho / (C - 1) elsewhere."""
    return torch.full((n_classes, n_classes), rho / (n_classes - 1)).fill_diagonal_(1 - rho)


def of_labels(log_p: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log probability of every row's label, [...]."""
    return log_p.gather(-1, labels[..., None])[..., 0]

"""Losses on logits: cross entropy, generalised cross entropy, mean absolute error (paper B, eq. 2 and 3)."""
from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F

from clipnotes.checks import Number, OneOf

LOSSES = ("ce", "gce", "mae")
RULES = {"loss": OneOf(*LOSSES), "q": Number(0, 1)}  # of every method that is trained on one of them


def gce_loss(logits: torch.Tensor, labels: torch.Tensor, q: float = 0.7) -> torch.Tensor:
    """Generalised cross entropy, the mean over the batch of (1 - p_y^q) / q (Zhang & Sabuncu 2018; paper B, eq. 3).

    logits [..., C], labels int64 [...]; p_y: softmax probability of the label. q = 0 is cross entropy, q = 1 the mean
    absolute error 1 - p_y. Its gradient is that of cross entropy times p_y^q, so labels that the model finds unlikely
    count less. Computed as -expm1(q log p_y) / q, without loss of digits for small q and small p_y.
    Raises ClipnotesError for q outside [0, 1].
    """
    RULES["q"](q, "q")
    log_p = F.log_softmax(logits, dim=-1).gather(-1, labels[..., None])  # [..., 1]
    return -(log_p if q == 0 else torch.expm1(q * log_p) / q).mean()


def gce_losses(logits: torch.Tensor, labels: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """`gce_loss` of B batches at once, each with its own q: [B] from logits [B, n, C], labels [B, n] and q [B]."""
    log_p = F.log_softmax(logits, dim=-1).gather(-1, labels[..., None])[..., 0]  # [B, n]
    return gce_of(log_p, q[:, None]).mean(1)


def gce_of(log_p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """GCE of every label's log probability, of any shape, with a tensor q that broadcasts; where q is 0, cross entropy."""
    return torch.where(q == 0, -log_p, -torch.expm1(q * log_p) / q.where(q > 0, 1))


def loss_function(loss: str, q: float = 0.7) -> Callable:
    """A loss by name, "ce", "gce" or "mae", as a function (logits [..., C], labels [...]) -> mean loss.

    q: that of "gce", in [0, 1]; the other two do not use it. Raises ClipnotesError for an unknown name or a bad q.
    """
    return functools.partial(gce_loss, q=gce_exponent(loss, q))


def gce_exponent(loss: str, q: float = 0.7) -> float:
    """The q that makes `gce_loss` the loss of this name: 0 for "ce", q itself for "gce", 1 for "mae"."""
    RULES["loss"](loss, "loss")
    return {"ce": 0, "gce": RULES["q"](q, "q"), "mae": 1}[loss]

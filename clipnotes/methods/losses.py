"""Losses on logits: cross entropy, generalised cross entropy, mean absolute error (paper B, eq. 2 and 3)."""
from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from clipnotes.errors import ClipnotesError

LOSSES = ("ce", "gce", "mae")


def gce_loss(logits, labels, q=0.7):
    """Generalised cross entropy, the mean over the batch of (1 - p_y^q) / q (Zhang & Sabuncu 2018; paper B, eq. 3).

    logits [..., C], labels int64 [...]; p_y: softmax probability of the label. q = 0 is cross entropy, q = 1 the mean
    absolute error 1 - p_y. Its gradient is that of cross entropy times p_y^q, so labels that the model finds unlikely
    count less. Computed as -expm1(q log p_y) / q, without loss of digits for small q and small p_y.
    Raises ClipnotesError for q outside [0, 1].
    """
    check_q(q)
    log_p = F.log_softmax(logits, dim=-1).gather(-1, labels[..., None])  # [..., 1]
    return -(log_p if q == 0 else torch.expm1(q * log_p) / q).mean()


def gce_losses(logits, labels, q):
    """`gce_loss` of B batches at once, each with its own q: [B] from logits [B, n, C], labels [B, n] and q [B]."""
    log_p = F.log_softmax(logits, dim=-1).gather(-1, labels[..., None])[..., 0]  # [B, n]
    return gce_of(log_p, q[:, None]).mean(1)


def gce_of(log_p, q):
    """GCE of every label's log probability, of any shape, with a tensor q that broadcasts; where q is 0, cross entropy."""
    return torch.where(q == 0, -log_p, -torch.expm1(q * log_p) / q.where(q > 0, 1))


def loss_function(loss, q=0.7):
    """A loss by name, "ce", "gce" or "mae", as a function (logits [..., C], labels [...]) -> mean loss.

    q: that of "gce", in [0, 1]; the other two do not use it. Raises ClipnotesError for an unknown name or a bad q.
    """
    if loss not in LOSSES:
        raise ClipnotesError(f"loss = {loss!r} is unknown; choose {', '.join(LOSSES)}")
    check_q(q)
    return functools.partial(gce_loss, q={"ce": 0, "gce": q, "mae": 1}[loss])


def check_q(q):
    """ClipnotesError where q lies outside [0, 1]."""
    if not 0 <= q <= 1:
        raise ClipnotesError(f"q = {q} is out of range; it must lie in [0, 1], where 0 is cross entropy and 1 the mean "
                             "absolute error")

"""The field's answers to wrong labels, on the linear probe of paper B: other losses, and labels left out or doubted.

All train logits = scale x W' (no bias) as `LinearProbe` does; only what the loss makes of a row differs. They work
on class texts' logits as well as on any features; prompts and encoders are left alone.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from clipnotes.checks import Number, OneOf, Whole, class_labels
from clipnotes.errors import ClipnotesError
from clipnotes.methods.base import LinearClassifier
from clipnotes.methods.inputs import unit_features, unit_texts
from clipnotes.methods.losses import gce_of
from clipnotes.methods.losses_robust import forward_ce, of_labels, smoothed_ce, symmetric_ce, uniform_transition
from clipnotes.methods.noisy_means import estimate_noise
from clipnotes.methods.probes import LinearProbe
from clipnotes.methods.selection import agrees, clean_by_transport, kept_share, small_losses
from clipnotes.methods.sgd import PAPER, TRAINING, SGDConfig, batch_rows, check_finite, learning_rate

ANSWERS = ("ce", "gce", "mae", "sce", "smoothing", "forward", "small-loss", "agreement", "transport")
NEED_TEXT = ("agreement", "transport")


class RobustProbe(LinearClassifier):
    """A linear probe with one answer to wrong labels, W [C, d] trained as in `LinearProbe`.

    answer: "ce" (the plain probe), "gce", "mae"; "sce" symmetric CE; "smoothing" of labels by 0.1; "forward" correction with
    `transition` [C, C], by default that of uniform noise at rho; "small-loss": co-teaching, two probes of which each learns
    from the rows that the other finds easiest, the first is kept; "agreement": only rows whose label zero-shot CLIP shares;
    "transport": CE on NLPrompt's clean rows and MAE on the others. The last two need text.
    rho: share of wrong labels for "forward" and "small-loss"; None estimates it (`noisy_means.estimate_noise`).
    init: "random", "text" or "zero", as in `LinearProbe`; compat: "reference" as in `symmetric_ce` and `clean_by_transport`.
    After `fit`: weight_ [C, d], rho_ (None where it plays no part), used_ (share of the rows believed; 1 for losses).
    """
    rules = TRAINING | {"answer": OneOf(*ANSWERS), "rho": Number(0, 1, optional=True), "init": OneOf("random", "text", "zero"),
                        "scale": Number(0), "compat": OneOf(None, "reference")}

    def __init__(self, answer: str = "sce", rho: float | None = None, transition: Any = None, init: str = "random",
                 scale: float = 100.0, sgd: SGDConfig = PAPER, seed: int = 1, compat: str | None = None) -> None:
        self.answer, self.rho, self.transition, self.init, self.scale = answer, rho, transition, init, scale
        self.sgd, self.seed, self.compat = sgd, seed, compat

    def fit(self, x: torch.Tensor, y: torch.Tensor, n_classes: int | None = None, text: torch.Tensor | None = None,
            text_x: torch.Tensor | None = None) -> RobustProbe:
        """Train on features [N, d] with given labels [N]; see `fit_robust`."""
        return fit_robust([self], x, [y], n_classes, text, text_x)[0]

    def row_loss(self, x: torch.Tensor, y: torch.Tensor, C: int, zero_shot: torch.Tensor | None) -> Callable:
        """A function (log_p [b, C], rows [b]) -> losses [b], for these data; rows that are not believed cost nothing."""
        if self.answer in NEED_TEXT and zero_shot is None:
            raise ClipnotesError(f'answer="{self.answer}" holds labels against zero-shot CLIP, but has no text; give [C, d].')
        self.rho_, self.used_ = None, 1.0
        if self.answer == "small-loss" or (self.answer == "forward" and self.transition is None):
            self.rho_ = estimate_noise(x, y, C).rho if self.rho is None else self.rho
        if self.answer in NEED_TEXT:
            believed = agrees(zero_shot, y) if self.answer == "agreement" else \
                clean_by_transport(zero_shot, y, compat=self.compat)
            self.used_ = believed.double().mean().item()
        if self.answer == "agreement":
            return lambda log_p, rows: -of_labels(log_p, y[rows]) * believed[rows]
        if self.answer == "transport":
            return lambda log_p, rows: gce_of(of_labels(log_p, y[rows]), (~believed[rows]).to(log_p))
        if self.answer == "forward":
            T = uniform_transition(self.rho_, C) if self.transition is None else self.transition
            loss = partial(forward_ce, transition=T)
        else:
            exponents = {"ce": 0.0, "small-loss": 0.0, "gce": 0.7, "mae": 1.0}
            loss = {"sce": partial(symmetric_ce, compat=self.compat), "smoothing": smoothed_ce}.get(self.answer) or (
                lambda log_p, labels: gce_of(of_labels(log_p, labels), log_p.new_tensor(exponents[self.answer])))
        return lambda log_p, rows: loss(log_p, y[rows])


def fit_robust(probes: Sequence[RobustProbe], x: torch.Tensor, ys: Sequence, n_classes: int | None = None,
               text: torch.Tensor | None = None, text_x: torch.Tensor | None = None) -> list[RobustProbe]:
    """Fit `RobustProbe`s of one `sgd` and scale on the same images under different labels, as batched products.

    x: features [N, d]; ys: given labels [N], one set a probe; text [C, d]: class texts, for init="text" and the answers that
    need them; text_x: the features [N, d] of the same images that texts go with, where x is corrected (else x itself).
    Each probe learns what it would alone. Raises ClipnotesError for settings, shapes and labels that do not fit.
    """
    check_together(probes)
    x = unit_features(x, "x")
    text = None if text is None else unit_texts(text, None if text_x is not None else x.shape[1])
    Whole(1, optional=True)(n_classes, "n_classes")
    n_classes = n_classes or (1 + max(int(class_labels(y).max()) for y in ys) if text is None else len(text))
    if n_classes < 2:
        raise ClipnotesError("1 class, but a wrong label needs another one; give labels of two classes or more.")
    if text is None and any(probe.init == "text" for probe in probes) or text is not None and len(text) != n_classes:
        raise ClipnotesError(f"{0 if text is None else len(text)} class texts for {n_classes} classes; give text [C, d], one "
                             "row a class.")
    zero_shot = None
    if text is not None:
        seen = unit_features(x if text_x is None else text_x, "text_x", text.shape[1])
        zero_shot = 100 * seen @ text.to(seen).T
    losses = [probe.row_loss(x, class_labels(y, "y", len(x), n_classes), n_classes, zero_shot)
              for probe, y in zip(probes, ys, strict=True)]
    learners = [(i, second) for i, probe in enumerate(probes) for second in range(1 + (probe.answer == "small-loss"))]
    starts = [LinearProbe(probes[i].init, seed=probes[i].seed + 10**6 * second).start(n_classes, text, x)[0]
              for i, second in learners]
    weights = train_together(probes, learners, losses, x, torch.stack(starts))
    for (i, second), weight in zip(learners, weights, strict=True):
        if not second:
            probes[i].weight_ = weight.clone()
    return list(probes)


def check_together(probes: Sequence[RobustProbe]) -> None:
    for probe in probes:
        probe.check_settings()
        if (probe.sgd, probe.scale) != (probes[0].sgd, probes[0].scale):
            raise ClipnotesError("Probes with different sgd settings or scales cannot be fitted together; let only seeds and "
                                 "answers differ.")


def train_together(probes: Sequence[RobustProbe], learners: Sequence[tuple[int, int]], losses: Sequence[Callable],
                   x: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Weights [P, C, d] of P learners (which probe, whether it is the second of co-teaching's pair) trained from `start`."""
    sgd, scale, weight = probes[0].sgd, probes[0].scale, start.requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
    orders = zip(*(batch_rows(len(x), sgd.batch_size, sgd.epochs, probes[i].seed) for i, _ in learners), strict=True)
    for epoch, batches in enumerate(orders, 1):
        optimizer.param_groups[0]["lr"] = learning_rate(epoch, sgd.epochs, sgd.lr, sgd.warmup_lr)
        for rows in zip(*batches, strict=True):
            rows = torch.stack(rows)  # [P, b]
            log_p = (scale * x[rows] @ weight.mT).log_softmax(-1)  # [P, b, C]
            loss = torch.stack([losses[i](log_p[j], rows[j]) for j, (i, _) in enumerate(learners)])  # [P, b]
            loss = loss * taught_by_peers(loss, probes, learners, epoch)
            optimizer.zero_grad()
            loss.mean(1).sum().backward()
            optimizer.step()
        check_finite(0.0, [weight], epoch, sgd.lr)
    return weight.detach()


def taught_by_peers(loss: torch.Tensor, probes: Sequence[RobustProbe], learners: Sequence[tuple[int, int]],
                    epoch: int) -> torch.Tensor:
    """How much each row's loss counts, [P, b]: 1; in co-teaching's pairs 0 where it is not small for the PEER, of mean 1."""
    counts = torch.ones_like(loss)
    for j, (i, second) in enumerate(learners):
        if second:
            share = kept_share(epoch, probes[i].rho_)
            for one, peer in ((j - 1, j), (j, j - 1)):
                kept = small_losses(loss[peer].detach(), share)
                counts[one] = kept * len(kept) / kept.sum()
    return counts

"""Tip-Adapter-F: a cache whose keys are fine-tuned."""
from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F

from clipnotes.checks import SEED, Whole
from clipnotes.errors import ClipnotesError
from clipnotes.methods.caches import TipAdapter, class_sums
from clipnotes.methods.inputs import unit_views
from clipnotes.methods.sgd import RATE, check_finite
from clipnotes.seeding import generator


class TipAdapterF(TipAdapter):
    """Tip-Adapter with trained keys: cross-entropy of the same logits at the alpha and beta given, keys free to move.

    Recipe as commonly used for it: AdamW (eps 1e-4, weight decay 0.01), learning rate 1e-3 falling to 0 along a cosine,
    20 epochs, batches of 256. The published code keeps the epoch that does best on TEST images; here it is the last
    one, and `search` then chooses alpha and beta on validation images. losses_: mean loss of each epoch.
    """

    rules = TipAdapter.rules | {"epochs": Whole(0), "lr": RATE, "batch_size": Whole(1), "seed": SEED}

    def __init__(self, alpha: float = 1.0, beta: float = 5.5, logit_scale: float = 100.0, epochs: int = 20, lr: float = 1e-3,
                 batch_size: int = 256, seed: int = 1, chunk: int = 2**28) -> None:
        super().__init__(alpha, beta, logit_scale, chunk)
        self.epochs, self.lr, self.batch_size, self.seed = epochs, lr, batch_size, seed

    def fit(self, keys: Any, labels: Any, text: Any = None, affinity_keys: Any = None) -> Self:
        """As `TipAdapter.fit`, then train the keys (in the ++ form the corrected ones).

        Trained on every view of [V, M, d] keys, else on the keys themselves; give views that differ where there are any,
        since a key that meets itself has little to learn.
        """
        super().fit(keys, labels, text, affinity_keys)
        x = views(keys, "keys")
        affinity_x = views(affinity_keys, "affinity_keys") if self.corrected_ else x
        if len(x) != len(affinity_x):
            raise ClipnotesError(f"{len(affinity_x)} images and views of affinity_keys for {len(x)} of keys; "
                                 "give both for the same views.")
        y = torch.cat([self.labels_] * (len(x) // len(self.labels_)))  # soft labels are targets like any other
        zero_shot = self.logit_scale * x @ self.text_.T
        tuned = self.affinity_keys_.clone().requires_grad_()  # as published not kept at unit length
        optimizer = torch.optim.AdamW([tuned], lr=self.lr, eps=1e-4)
        batches = -(-len(x) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.epochs * batches))
        order, self.losses_ = generator(self.seed), []
        for epoch in range(1, self.epochs + 1):
            total = 0.0
            for rows in torch.randperm(len(x), generator=order).split(self.batch_size):
                affinity = torch.exp(self.beta * (tuned @ affinity_x[rows].T - 1))  # [M, b]
                logits = zero_shot[rows] + self.alpha * class_sums(affinity, self.labels_, len(self.text_)).T
                loss = F.cross_entropy(logits, y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(rows)
            self.losses_.append(total / len(x))
            check_finite(self.losses_[-1], [tuned], epoch, self.lr)
        self.affinity_keys_ = tuned.detach()
        return self


def views(keys: Any, name: str) -> torch.Tensor:
    """Every view of keys [M, d] or [V, M, d] as a unit row of its own, [V M, d], view by view."""
    return unit_views(keys, name).flatten(0, 1)

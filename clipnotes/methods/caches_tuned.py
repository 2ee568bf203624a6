"""Tip-Adapter-F: a cache whose keys are fine-tuned."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from clipnotes.errors import ClipnotesError
from clipnotes.methods.caches import TipAdapter, class_sums
from clipnotes.methods.inputs import not_negative, unit_features


class TipAdapterF(TipAdapter):
    """Tip-Adapter with trained keys: cross-entropy of the same logits at the alpha and beta given, keys free to move.

    Recipe as commonly used for it: AdamW (eps 1e-4, weight decay 0.01), learning rate 1e-3 falling to 0 along a cosine,
    20 epochs, batches of 256. The published code keeps the epoch that does best on TEST images; here it is the last
    one, and `search` then chooses alpha and beta on validation images. losses_: mean loss of each epoch.
    """

    def __init__(self, alpha=1.0, beta=5.5, logit_scale=100.0, epochs=20, lr=1e-3, batch_size=256, seed=1, chunk=2**28):
        super().__init__(alpha, beta, logit_scale, chunk)
        not_negative(epochs=epochs, lr=lr)
        if batch_size < 1:
            raise ClipnotesError(f"batch_size = {batch_size} is out of range; it must be 1 or more")
        self.epochs, self.lr, self.batch_size, self.seed = epochs, lr, batch_size, seed

    def fit(self, keys, labels, text, affinity_keys=None):
        """As `TipAdapter.fit`, then train the keys (in the ++ form the corrected ones).

        Trained on every view of [V, M, d] keys, else on the keys themselves; give views that differ where there are any,
        since a key that meets itself has little to learn.
        """
        super().fit(keys, labels, text, affinity_keys)
        x = views(keys, "keys")
        affinity_x = views(affinity_keys, "affinity_keys") if self.corrected_ else x
        if len(x) != len(affinity_x):
            raise ClipnotesError(f"{len(affinity_x)} images and views of affinity_keys for {len(x)} of keys; "
                                 "give both for the same views")
        y = self.labels_.repeat(len(x) // len(self.labels_))
        zero_shot = self.logit_scale * x @ self.text_.T
        tuned = self.affinity_keys_.clone().requires_grad_()  # as published not kept at unit length
        optimiser = torch.optim.AdamW([tuned], lr=self.lr, eps=1e-4)
        batches = -(-len(x) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, self.epochs * batches))
        order, self.losses_ = torch.Generator().manual_seed(self.seed), []
        for _ in range(self.epochs):
            total = 0.0
            for rows in torch.randperm(len(x), generator=order).split(self.batch_size):
                affinity = torch.exp(self.beta * (tuned @ affinity_x[rows].T - 1))  # [M, b]
                logits = zero_shot[rows] + self.alpha * class_sums(affinity, self.labels_, len(self.text_)).T
                loss = F.cross_entropy(logits, y[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += loss.item() * len(rows)
            self.losses_.append(total / len(x))
        self.affinity_keys_ = tuned.detach()
        return self


def views(keys, name):
    """Every view of keys [M, d] or [V, M, d] as a unit row of its own, [V M, d], view by view."""
    keys = torch.as_tensor(keys)
    return unit_features(keys.reshape(-1, keys.shape[-1]), name)

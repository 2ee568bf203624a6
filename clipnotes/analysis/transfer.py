"""How well a CLIP transfers: zero-shot and with a few labelled images, data set by data set."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch.nn.functional as F

from clipnotes.backbone.clip import Clip
from clipnotes.data import FeatureBank, encode_task, load_task
from clipnotes.methods import TipAdapter, ZeroShot


def linear_probe_accuracy(bank: FeatureBank, shots: int, seed: int) -> float:
    """Test accuracy in [0, 1] of a logistic regression on `shots` unit features a class, C chosen on validation data."""
    from sklearn.linear_model import LogisticRegression

    few = bank.few_shot(shots, seed)
    x, val_x, test_x = few.train.unit(), few.val.unit(), few.test.unit()
    models = [LogisticRegression(C=c, max_iter=300).fit(x, few.train.y) for c in (1.0, 10.0, 100.0)]
    return max(models, key=lambda model: model.score(val_x, few.val.y)).score(test_x, few.test.y)


def tip_adapter_accuracy(bank: FeatureBank, shots: int, seed: int, logit_scale: float) -> float:
    """Test accuracy in [0, 1] of Tip-Adapter on `shots` features a class, alpha and beta chosen on validation data."""
    few = bank.few_shot(shots, seed)
    tip = TipAdapter(logit_scale=logit_scale).fit(few.train.x, few.train.y, few.text).search(few.val.x, few.val.y)
    return tip.score(few.test.x, few.test.y)


def nearest_mean_accuracy(bank: FeatureBank) -> float:
    """Test accuracy in [0, 1] of the nearest class mean of the bank's training features: no text, nothing to choose."""
    x = bank.train.unit()
    sums = x.new_zeros(bank.n_classes, bank.dim).index_add_(0, bank.train.y, x)
    means = F.normalize(sums, dim=1)  # the length of a sum does not change its direction
    return ((bank.test.unit() @ means.T).argmax(1) == bank.test.y).double().mean().item()


def transfer_table(clip: Clip, datasets: Sequence[str], shots: int = 16, seeds: Sequence[int] = (1, 2, 3),
                   data_root: str | Path = "data") -> pd.DataFrame:
    """A DataFrame with one row a data set: test accuracy (%) by chance, zero-shot, and with `shots` images a class.

    The two few-shot methods, a linear probe and Tip-Adapter, are followed by their standard deviation over the draws.
    """
    rows = []
    for name in datasets:
        bank = encode_task(clip, load_task(name, data_root=data_root))
        row = {"data set": name, "classes": bank.n_classes, "chance": 100 / bank.n_classes,
               "zero-shot": 100 * ZeroShot(bank.text, clip.logit_scale).score(bank.test.x, bank.test.y)}
        few_shot = {"linear probe": [linear_probe_accuracy(bank, shots, seed) for seed in seeds],
                    "Tip-Adapter": [tip_adapter_accuracy(bank, shots, seed, clip.logit_scale) for seed in seeds]}
        for method, values in few_shot.items():
            row |= {method: 100 * np.mean(values), f"{method} std": 100 * np.std(values, ddof=1) if len(values) > 1 else np.nan}
        rows.append(row)
    return pd.DataFrame(rows).set_index("data set").round(1)

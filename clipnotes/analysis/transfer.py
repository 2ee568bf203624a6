"""How well a CLIP transfers: zero-shot and with a few labelled images, data set by data set."""
from __future__ import annotations

import numpy as np

from clipnotes.data import encode_task, load_task
from clipnotes.methods import ZeroShot


def linear_probe_accuracy(bank, shots, seed):
    """Test accuracy in [0, 1] of a logistic regression on `shots` unit features a class, C chosen on validation data."""
    from sklearn.linear_model import LogisticRegression

    few = bank.few_shot(shots, seed)
    (x, y), (val_x, val_y), (test_x, test_y) = few.split("train"), few.split("val"), few.split("test")
    models = [LogisticRegression(C=c, max_iter=300).fit(x, y) for c in (1.0, 10.0, 100.0)]
    return max(models, key=lambda model: model.score(val_x, val_y)).score(test_x, test_y)


def transfer_table(clip, datasets, shots=16, seeds=(1, 2, 3), data_root="data"):
    """A DataFrame with one row a data set: classes, chance, zero-shot and `shots`-shot linear-probe test accuracy (%).

    The probe's columns are mean and standard deviation over draws of the shots.
    """
    import pandas as pd

    rows = []
    for name in datasets:
        bank = encode_task(clip, load_task(name, data_root=data_root))
        probe = 100 * np.array([linear_probe_accuracy(bank, shots, seed) for seed in seeds])
        rows.append({"data set": name, "classes": bank.n_classes, "chance": 100 / bank.n_classes,
                     "zero-shot": 100 * ZeroShot(bank.text, clip.logit_scale).score(bank.test_x, bank.test_y),
                     f"probe, {shots} shots": probe.mean(), "std": probe.std(ddof=1) if len(probe) > 1 else np.nan})
    return pd.DataFrame(rows).set_index("data set").round(1)

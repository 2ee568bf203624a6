"""How far noise-aware class means trust the labels given, and how well that tells right ones from wrong ones."""
from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from clipnotes.analysis.robustness import noisy_shots
from clipnotes.data import FeatureBank
from clipnotes.data.noise import NoisyLabels
from clipnotes.methods import NoisyMeans


def fit(bank: FeatureBank, given: NoisyLabels, rho: float | None = None) -> NoisyMeans:
    """`NoisyMeans` of a draw; rho None is estimated."""
    return NoisyMeans(rho).fit(bank.train.unit()[given.indices], given.labels, bank.n_classes)


def trust(bank: FeatureBank, given: NoisyLabels, rho: float | None = None) -> pd.DataFrame:
    """The posterior of every given label of a draw, and whether it is right: columns row (of the bank), trust, right."""
    return trust_of(fit(bank, given, rho), given)


def trust_of(model: NoisyMeans, given: NoisyLabels) -> pd.DataFrame:
    """`trust` of a model that is fitted already."""
    return pd.DataFrame({"row": given.indices.numpy(), "trust": model.trust_.numpy(), "right": ~given.is_noisy.numpy()})


def auroc(table: pd.DataFrame) -> float:
    """How often a right label of `trust` is trusted more than a wrong one, in [0, 1]: the area under the ROC curve.

    NaN where all labels are right, or all wrong.
    """
    return roc_auc_score(table["right"], table["trust"]) if table["right"].nunique() == 2 else np.nan


def trust_table(banks: dict, rates: Iterable[float] = (0.0, 0.125, 0.25, 0.5), seeds: Iterable[int] = (1, 2, 3),
                kind: str = "uniform", shots: int = 16, annotators: dict | None = None) -> pd.DataFrame:
    """AUROC of trust and the estimated noise rate for every data set, features, rate and draw.

    banks: {data set: {features: bank}}; annotators: see `noisy_shots`, by data set. Columns: dataset, features, noise_kind,
    noise_rate, true_rate, seed, auroc (NaN without wrong labels), rho and rho_error (as `estimate_noise` has them).
    """
    rows = []
    for (name, kinds), rate, seed in product(banks.items(), rates, seeds):
        given = noisy_shots(kinds["original"], shots, rate, kind, seed, (annotators or {}).get(name))
        for features, bank in kinds.items():
            model = fit(bank, given)
            rows.append({"dataset": name, "features": features, "noise_kind": kind, "noise_rate": rate, "true_rate": given.rate,
                         "seed": seed, "auroc": auroc(trust_of(model, given)), "rho": model.estimate_.rho,
                         "rho_error": model.estimate_.error})
    return pd.DataFrame(rows)


def trust_histograms(banks: dict, rate: float = 0.5, seeds: Iterable[int] = (1, 2, 3), kind: str = "uniform", shots: int = 16,
                     bins: int = 20) -> pd.DataFrame:
    """How many right and wrong labels have a trust in each bin over [0, 1], over all draws.

    Columns: dataset, features, bin, right, wrong.
    """
    rows, edges, seeds = [], np.linspace(0, 1, bins + 1), list(seeds)
    for name, kinds in banks.items():
        drawn = [noisy_shots(kinds["original"], shots, rate, kind, seed) for seed in seeds]
        for features, bank in kinds.items():
            table = pd.concat([trust(bank, given) for given in drawn])
            counts = {key: np.histogram(table.loc[table["right"] == right, "trust"].clip(0, 1), edges)[0]
                      for key, right in (("right", True), ("wrong", False))}
            rows += [{"dataset": name, "features": features, "bin": b, "right": int(counts["right"][b]),
                      "wrong": int(counts["wrong"][b])} for b in range(bins)]
    return pd.DataFrame(rows)

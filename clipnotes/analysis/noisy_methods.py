"""Where the papers meet: caches, class means and probes under wrong labels, on original and on corrected features.

All methods get the same images and labels at one seed. Corrected features (`analysis.corrected`) take the place of the original
ones in means and probes; caches with text keep the original ones beside them, as in paper A's ++ forms.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipnotes.analysis.robustness import noisy_shots
from clipnotes.data import FeatureBank
from clipnotes.data.noise import NoisyLabels
from clipnotes.errors import ClipnotesError
from clipnotes.methods import (
    APE,
    EarlyStoppedProbe,
    LinearProbe,
    LPPlusPlus,
    NoisyMeans,
    RobustProbe,
    TipAdapter,
    TipX,
    ZeroShot,
)
from clipnotes.methods.base import Classifier
from clipnotes.methods.probes import fit_probes
from clipnotes.methods.robust_probes import fit_robust
from clipnotes.methods.sgd import PAPER, SGDConfig
from clipnotes.progress import progress_bar

BETAS = (1.0, 2.0, 4.0, 8.0, 16.0)  # tried by the searches of caches; alpha and gamma follow exactly
GAMMAS = {"Tip-X": (0.1, 1.0, 10.0), "APE": (0.0, 0.2, 0.8)}


@dataclass(frozen=True)
class Case:
    """What a method learns from: unit features x [N, d] with given labels, the bank's splits, and text where it has any.

    rate: the true share of wrong labels. plain: the original bank, bank: the same images original or corrected.
    """
    plain: FeatureBank
    bank: FeatureBank
    given: NoisyLabels
    rate: float
    logit_scale: float
    sgd: SGDConfig = PAPER

    @property
    def x(self) -> torch.Tensor:
        return self.bank.train.unit()[self.given.indices]

    @property
    def n_classes(self) -> int:
        return self.plain.n_classes

    def score(self, model: Classifier) -> float:
        return model.score(self.bank.test.unit(), self.bank.test.y)


def means(**settings: Any) -> Callable:
    """NoisyMeans; rho="true" stands for the true rate of a case."""
    def fit(case: Case) -> tuple[float, NoisyMeans]:
        known = {"rho": case.rate} if settings.get("rho") == "true" else {}
        model = NoisyMeans(**settings | known).fit(case.x, case.given.labels, case.n_classes)
        return case.score(model), model

    return fit


def cache(kind: type, soft: bool, text: bool = True) -> Callable:
    """A cache model searched on validation images, with the labels given or the soft ones of `NoisyMeans`."""
    def fit(case: Case) -> tuple[float, None]:
        labels = case.given.labels
        if soft:
            labels = NoisyMeans().fit(case.x, labels, case.n_classes).labels_
        else:
            labels = torch.nn.functional.one_hot(labels, case.n_classes)
        corrected = text and case.bank is not case.plain
        source = case.plain if text else case.bank
        model = kind(logit_scale=case.logit_scale).fit(source.train.unit()[case.given.indices], labels,
                                                       source.text if text else None, case.x if corrected else None)
        (val, test), beside = (source.val, source.test), [getattr(case.bank, part).unit() for part in ("val", "test")]
        beside = beside if corrected else [None, None]
        gammas = GAMMAS.get({TipX: "Tip-X", APE: "APE"}.get(kind))
        model.search(val.unit(), val.y, beside[0], betas=BETAS, gammas=gammas)
        return model.score(test.unit(), test.y, beside[1]), None

    return fit


def zero_shot(case: Case) -> tuple[float, None]:
    return ZeroShot(case.plain.text, case.logit_scale).score(case.plain.test.unit(), case.plain.test.y), None


def lp_plus_plus(case: Case) -> tuple[float, None]:
    return case.score(LPPlusPlus().fit(case.x, case.given.labels, case.plain.text)), None


def early_stopped(case: Case) -> tuple[float, None]:
    model = EarlyStoppedProbe(case.logit_scale, case.sgd)
    return case.score(model.fit(case.x, case.given.labels, case.plain.text, (case.bank.val.unit(), case.bank.val.y))), None


# name: (how it is fitted, needs text?, needs right validation labels?)
ALONE = {
    "class means": (means(rho=0.0, trust_rounds=0), False, False),
    "soft means": (means(rho="true"), False, False),
    "soft means, rho estimated": (means(), False, False),
    "soft means, all estimated": (means(temperature=None), False, False),
    "cache without text": (cache(TipAdapter, False, text=False), False, True),
    "cache without text, soft labels": (cache(TipAdapter, True, text=False), False, True),
    "zero-shot CLIP": (zero_shot, True, False),
    "Tip-Adapter": (cache(TipAdapter, False), True, True),
    "Tip-Adapter, soft labels": (cache(TipAdapter, True), True, True),
    "Tip-X": (cache(TipX, False), True, True),
    "Tip-X, soft labels": (cache(TipX, True), True, True),
    "APE": (cache(APE, False), True, True),
    "APE, soft labels": (cache(APE, True), True, True),
    "LP++": (lp_plus_plus, True, False),
    "text-initialised probe, early stopping": (early_stopped, True, True),
}
# name: (answer, init) of `RobustProbe`; those of one draw of images are trained together. At scale 100 a random start, that of
# paper B, is sure of wrong classes already, which robust losses hardly mend: the others start from zero, or from texts.
PROBES = {
    "linear probe": ("ce", "random"), "linear probe, GCE": ("gce", "random"), "linear probe, MAE": ("mae", "zero"),
    "linear probe, SCE": ("sce", "zero"), "label smoothing": ("smoothing", "zero"), "forward correction": ("forward", "zero"),
    "small losses": ("small-loss", "random"), "agreement with zero-shot": ("agreement", "text"),
    "optimal transport": ("transport", "text"),
}
METHODS = (*ALONE, *PROBES)
ORIGINAL_ONLY = {"zero-shot CLIP", "LP++", "text-initialised probe, early stopping", "agreement with zero-shot",
                 "optimal transport"}
COLUMNS = ["dataset", "features", "method", "noise_kind", "noise_rate", "true_rate", "seed", "accuracy", "rho", "rho_error",
           "seconds"]


def needs_text(method: str) -> bool:
    return method in {"agreement with zero-shot", "optimal transport"} or method in ALONE and ALONE[method][1]


def learns(method: str) -> bool:
    """Is a method trained, step by step?"""
    return method not in ALONE or method in {"LP++", "text-initialised probe, early stopping"}


def needs_val(method: str) -> bool:
    return method in ALONE and ALONE[method][2]


def noisy_methods(banks: dict, methods: Iterable[str] = METHODS, rates: Iterable[float] = (0.0, 0.125, 0.25, 0.5),
                  seeds: Iterable[int] = (1, 2, 3), kind: str = "uniform", shots: int = 16, logit_scale: float = 100.0,
                  annotators: dict | None = None, sgd: SGDConfig = PAPER, progress: bool = True) -> pd.DataFrame:
    """Test accuracy of every method on every data set, features, noise rate and draw: a tidy DataFrame of `COLUMNS`.

    banks: {data set: {"original": FeatureBank, correction: bank of the same images, ...}} as `corrected_banks` makes them.
    Methods that need text or validation images are left out where a data set has none, and those that hold images against
    texts where features are corrected. annotators: see `noisy_shots`, by data set. sgd: of the probes.
    rho, rho_error: as estimated by NoisyMeans, where it does. seconds: of fitting and testing; for probes their share.
    Raises ClipnotesError for an unknown method, and as `noisy_shots` and the methods do.
    """
    methods, keys = list(methods), list(product(rates, seeds))
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ClipnotesError(f"Method {unknown[0]!r} is unknown; choose from {', '.join(METHODS)}.")
    rows, probe = [], {"scale": logit_scale, "sgd": sgd}
    cells = [(name, features) for name, kinds in banks.items() for features in kinds]
    for name, features in progress_bar(cells, desc="methods under noise", leave=False, disable=not progress):
        plain, bank = banks[name]["original"], banks[name][features]
        drawn = [noisy_shots(plain, shots, rate, kind, seed, (annotators or {}).get(name)) for rate, seed in keys]
        cases = [Case(plain, bank, given, given.rate, logit_scale, sgd) for given in drawn]
        for method in methods:
            if method in ORIGINAL_ONLY and features != "original" or needs_text(method) and plain.text is None or \
                    needs_val(method) and "val" not in plain.splits:
                continue
            for (rate, seed), case, found in zip(keys, cases, fitted(method, keys, cases, probe), strict=True):
                rows.append({"dataset": name, "features": features, "method": method, "noise_kind": kind, "noise_rate": rate,
                             "true_rate": case.rate, "seed": seed} | found)
    return pd.DataFrame(rows, columns=COLUMNS)


def fitted(method: str, keys: list, cases: list[Case], probe: dict) -> list[dict]:
    """{accuracy, rho, rho_error, seconds} of a method in every case."""
    began = time.perf_counter()
    if method in ALONE:
        rows = []
        for case in cases:
            accuracy, model = ALONE[method][0](case)
            now = time.perf_counter()
            estimate = model.estimate_ if model is not None else None
            rows.append({"accuracy": accuracy, "rho": estimate.rho if estimate else np.nan,
                         "rho_error": estimate.error if estimate else np.nan, "seconds": now - began})
            began = now
        return rows
    answer, init = PROBES[method]
    if answer in ("ce", "gce", "mae"):  # the plain probes: all draws at once, with gradients in closed form
        models = [LinearProbe(init, answer, seed=seed, **probe) for _, seed in keys]
        fit_probes(models, [(case.x, case.given.labels, case.n_classes) for case in cases], progress=False)
    else:
        models = [RobustProbe(answer, min(case.rate, 0.99), init=init, seed=seed, **probe)  # no method learns from no label
                  for (_, seed), case in zip(keys, cases, strict=True)]
        text = cases[0].plain.text if needs_text(method) else None
        for seed in dict.fromkeys(seed for _, seed in keys):  # of one seed all cases have the same images
            members = [i for i, key in enumerate(keys) if key[1] == seed]
            labels = [cases[i].given.labels for i in members]
            fit_robust([models[i] for i in members], cases[members[0]].x, labels, cases[0].n_classes, text)
    accuracies = [case.score(model) for case, model in zip(cases, models, strict=True)]
    seconds = (time.perf_counter() - began) / len(cases)
    return [{"accuracy": accuracy, "rho": np.nan, "rho_error": np.nan, "seconds": seconds} for accuracy in accuracies]

"""How methods bear wrong labels: test accuracies over data sets, methods, losses, noise rates and seeds (paper B)."""
from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import product

import pandas as pd

from clipnotes.data.noise import corrupt_labels
from clipnotes.methods.inputs import unit_features
from clipnotes.methods.probes import LinearProbe, fit_probes
from clipnotes.methods.prompts import PromptTuning
from clipnotes.methods.prompts_training import fit_many
from clipnotes.methods.recipes import build
from clipnotes.methods.zero_shot import ZeroShot


def noisy_shots(bank, shots, rate, kind="uniform", seed=1):
    """(features, `NoisyLabels`) of `shots` training images a class of a bank, drawn with `seed`, some labels wrong.

    kind, rate: see `corrupt_labels`; "confusion" needs the bank's text features, "ptnl" its whole training split.
    """
    if kind == "ptnl":
        noisy = corrupt_labels(bank.train_y, rate, kind, bank.n_classes, seed, shots=shots)
        return bank.train_x[..., noisy.indices, :], noisy
    few = bank.few_shot(shots, seed)
    favourites = ZeroShot(few.text).logits(unit_features(few.train_x, "x")) if kind == "confusion" else None
    return few.train_x, corrupt_labels(few.train_y, rate, kind, bank.n_classes, seed, favourites)


def noisy_accuracies(clip, banks, methods, losses=("ce",), rates=(0.0, 0.125, 0.25, 0.5), seeds=(1, 2, 3, 4), kind="uniform",
                     shots=16, recipe="paper", split="test", progress=True, **options):
    """Accuracy in [0, 1] of every method, loss, noise rate and seed on every bank: a tidy DataFrame.

    banks: {data set: FeatureBank with text and the whole training split}. methods: names that `methods.recipes` knows.
    A seed drives the draw of the images, of their noise and of the training, and at one seed all methods learn from the
    same labels. options: of the models, such as q or epochs. Prompts and probes of a bank are trained together.
    Columns: dataset, method, loss, noise_kind, noise_rate, true_rate (of the labels given), seed, accuracy (on `split`,
    whose labels are right).
    """
    rows = []
    for name, bank in banks.items():
        given = {(rate, seed): noisy_shots(bank, shots, rate, kind, seed) for rate, seed in product(rates, seeds)}
        jobs = [{"dataset": name, "method": method, "loss": loss, "noise_kind": kind, "noise_rate": rate,
                 "true_rate": given[rate, seed][1].rate, "seed": seed}
                for method, loss, rate, seed in product(methods, losses, rates, seeds)]
        models = [build(job["method"], clip, bank.classnames, recipe, loss=job["loss"], seed=job["seed"], **options)
                  for job in jobs]
        data = [(x, noisy.labels) for x, noisy in (given[job["noise_rate"], job["seed"]] for job in jobs)]
        fit_all(models, data, bank.text, progress)
        x, y = bank.split(split)
        rows += [job | {"accuracy": model.score(x, y)} for job, model in zip(jobs, models, strict=True)]
    return pd.DataFrame(rows)


def fit_all(models, data, text=None, progress=True):
    """Fit models of `methods.recipes.build`, each on its (x, y): prompts together, probes of one recipe together."""
    prompts, probes = [], defaultdict(list)
    for model, pair in zip(models, data, strict=True):
        if isinstance(model, PromptTuning):
            prompts.append((model, pair))
        elif isinstance(model, LinearProbe):
            probes[replace(model.recipe, seed=0)].append((model, *pair))
        else:
            model.fit(*pair)
    if prompts:
        fit_many(*zip(*prompts, strict=True), progress)
    for alike in probes.values():
        fit_probes(*map(list, zip(*alike, strict=True)), text=text, progress=progress)

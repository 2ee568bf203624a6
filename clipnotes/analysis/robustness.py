"""How methods bear wrong labels: test accuracies over data sets, methods, losses, noise rates and seeds (paper B)."""
from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import product

import pandas as pd
import torch
from tqdm.auto import tqdm

from clipnotes.data.noise import corrupt_labels
from clipnotes.data.tasks import few_shot
from clipnotes.methods.encoder_tuning import ImageEncoderFineTuning
from clipnotes.methods.inputs import unit_features
from clipnotes.methods.probes import LinearProbe, fit_probes
from clipnotes.methods.prompts import PromptTuning
from clipnotes.methods.prompts_training import fit_many
from clipnotes.methods.recipes import build, settings
from clipnotes.methods.zero_shot import ZeroShot

COLUMNS = ["dataset", "method", "loss", "noise_kind", "noise_rate", "true_rate", "seed", "accuracy", "memorised"]


def noisy_shots(bank, shots, rate, kind="uniform", seed=1):
    """`NoisyLabels` of `shots` training images a class of a bank, drawn with `seed`; indices: rows of its training split.

    kind, rate: see `corrupt_labels`; "confusion" needs the bank's text features, "ptnl" its whole training split.
    """
    if kind == "ptnl":
        return corrupt_labels(bank.train.y, rate, kind, bank.n_classes, seed, shots=shots)
    rows = torch.from_numpy(few_shot(bank.train.y, shots, seed, bank.classnames or range(bank.n_classes)))
    favourites = ZeroShot(bank.text).logits(unit_features(bank.train.x[..., rows, :], "x")) if kind == "confusion" else None
    return replace(corrupt_labels(bank.train.y[rows], rate, kind, bank.n_classes, seed, favourites), indices=rows)


def noisy_accuracies(clip, banks, methods, losses=("ce",), rates=(0.0, 0.125, 0.25, 0.5), seeds=(1, 2, 3, 4), kind="uniform",
                     shots=16, recipe="paper", split="test", progress=True, **options):
    """Accuracy in [0, 1] of every method, loss, noise rate and seed on every bank: a tidy DataFrame.

    banks: {data set: FeatureBank with text and the whole training split}. methods: names that `methods.recipes` knows.
    A seed drives the draw of the images, of their noise and of the training, and at one seed all methods learn from the
    same labels. options: of the models, such as epochs or q. Prompts and probes of a bank are trained together.
    Columns: dataset, method, loss, noise_kind, noise_rate, true_rate (of the labels given), seed, accuracy (on `split`,
    whose labels are right), memorised (share of the wrong labels that the trained model predicts for their own images).
    """
    def fit(bank, jobs, given):
        models = [build(job["method"], clip, bank.classnames, recipe, loss=job["loss"], seed=job["seed"], **options)
                  for job in jobs]
        return fit_all(models, bank, given, progress)

    return accuracies(banks, methods, losses, rates, seeds, kind, shots, fit, look_at_features, split)


def probe_accuracies(banks, losses=("ce",), rates=(0.0, 0.125, 0.25, 0.5), seeds=(1, 2, 3, 4), kind="uniform", shots=16,
                     scale=100.0, progress=True, **options):
    """`noisy_accuracies` of linear probes alone, which need no CLIP: banks of stored features, with the paper's recipe."""
    def fit(bank, jobs, given):
        models = [LinearProbe(loss=job["loss"], seed=job["seed"], scale=scale, **options) for job in jobs]
        return fit_all(models, bank, given, progress)

    return accuracies(banks, ["Linear Probe"], losses, rates, seeds, kind, shots, fit, look_at_features)


def fine_tuning_accuracies(network, preprocess, banks, tasks, rates=(0.0, 0.125, 0.25, 0.5), seeds=(1, 2, 3, 4), kind="uniform",
                           shots=16, recipe="paper", split="test", progress=True, **options):
    """`noisy_accuracies` of "Image Finetuning": a network without text (see `methods.encoder_tuning`), all of it trained.

    tasks: {data set: Task with the images of the bank of that name}, whose training images are drawn and given labels as
    for every other method.
    """
    options = settings("Image Finetuning", recipe) | options

    def fit(bank, jobs, given):
        task = tasks[bank.name]
        bar = tqdm(jobs, desc=f"fine-tuning on {bank.name}", leave=False, disable=not progress)
        for job, noisy in zip(bar, given, strict=True):
            images = task.train.take(noisy.indices).images
            model = ImageEncoderFineTuning(network, preprocess, seed=job["seed"], progress=False, **options)
            yield model.fit(images, noisy.labels, bank.n_classes)

    def look_at_images(bank, split, rows=None):
        part = getattr(tasks[bank.name], split)
        return (part if rows is None else part.take(rows)).images

    return accuracies(banks, ["Image Finetuning"], ["ce"], rates, seeds, kind, shots, fit, look_at_images, split)


def look_at_features(bank, split, rows=None):
    """Features of a split, or of some of its rows."""
    x = getattr(bank, split).x
    return x if rows is None else x[..., rows, :]


def accuracies(banks, methods, losses, rates, seeds, kind, shots, fit, look, split="test"):
    """The rows of `noisy_accuracies`. fit(bank, jobs, given) gives a fitted model for every job and its `NoisyLabels`,
    look(bank, split, rows) what it sees of a split."""
    rows = []
    for name, bank in banks.items():
        drawn = {(rate, seed): noisy_shots(bank, shots, rate, kind, seed) for rate, seed in product(rates, seeds)}
        jobs = [{"dataset": name, "method": method, "loss": loss, "noise_kind": kind, "noise_rate": rate,
                 "true_rate": drawn[rate, seed].rate, "seed": seed}
                for method, loss, rate, seed in product(methods, losses, rates, seeds)]
        given = [drawn[job["noise_rate"], job["seed"]] for job in jobs]
        x, y = look(bank, split), getattr(bank, split).y
        for job, noisy, model in zip(jobs, given, fit(bank, jobs, given), strict=True):
            wrong = noisy.is_noisy
            memorised = model.score(look(bank, "train", noisy.indices[wrong]), noisy.labels[wrong]) if wrong.any() else None
            rows.append(job | {"accuracy": model.score(x, y), "memorised": memorised})
    return pd.DataFrame(rows, columns=COLUMNS).astype({"memorised": float})


def fit_all(models, bank, given, progress=True):
    """Fit models, each on its `NoisyLabels` of a bank: prompts together, probes of one recipe together. Returns them."""
    features = {id(noisy): bank.train.x[..., noisy.indices, :] for noisy in given}  # shared by all models of a draw
    prompts, probes = [], defaultdict(list)
    for model, noisy in zip(models, given, strict=True):
        x, y = features[id(noisy)], noisy.labels
        if isinstance(model, PromptTuning):
            prompts.append((model, (x, y)))
        elif isinstance(model, LinearProbe):
            probes[replace(model.recipe, seed=0)].append((model, x, y))
        else:
            model.fit(x, y)
    if prompts:
        fit_many(*zip(*prompts, strict=True), progress)
    for alike in probes.values():
        fit_probes(*map(list, zip(*alike, strict=True)), bank.n_classes, bank.text, progress=progress)
    return models

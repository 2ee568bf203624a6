"""How methods bear wrong labels: test accuracies over data sets, methods, losses, noise rates and seeds (paper B)."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from clipnotes.backbone.clip import Clip
from clipnotes.checks import class_labels
from clipnotes.data.features import FeatureBank
from clipnotes.data.manifests import load_manifest
from clipnotes.data.noise import NoisyLabels, corrupt_labels
from clipnotes.data.tasks import Task, few_shot
from clipnotes.errors import ClipnotesError
from clipnotes.methods.base import Classifier
from clipnotes.methods.encoder_tuning import ImageEncoderFineTuning
from clipnotes.methods.probes import LinearProbe, LogisticProbe, fit_probes
from clipnotes.methods.prompts import PromptTuning
from clipnotes.methods.prompts_training import fit_many
from clipnotes.methods.recipes import build, settings
from clipnotes.methods.zero_shot import ZeroShot
from clipnotes.progress import progress_bar

COLUMNS = ["dataset", "method", "loss", "noise_kind", "noise_rate", "true_rate", "seed", "accuracy", "memorised"]


def noisy_shots(bank: FeatureBank, shots: int, rate: float, kind: str = "uniform", seed: int = 1,
                annotator: torch.Tensor | None = None) -> NoisyLabels:
    """`NoisyLabels` of `shots` training images a class of a bank, drawn with `seed`; indices: rows of its training split.

    kind, rate: see `corrupt_labels`; "confusion" needs the bank's text features, "ptnl" its whole training split,
    "annotator" the logits [N, C] of another model for all training images (by default this one's, which needs text),
    "human" as `annotator` the labels by people of all training images (`labels_by_people`), whose own rate takes the place of
    `rate`.
    """
    if kind == "ptnl":
        return corrupt_labels(bank.train.y, rate, kind, bank.n_classes, seed, shots=shots)
    rows = torch.from_numpy(few_shot(bank.train.y, shots, seed, bank.classnames or range(bank.n_classes)))
    if kind == "human":
        if annotator is None:
            raise ClipnotesError('Noise kind "human" needs the labels that people gave; give them, see labels_by_people.')
        labels = class_labels(annotator, "annotator", len(bank.train.y), bank.n_classes, of="training images")[rows]
        return NoisyLabels(labels, labels != bank.train.y[rows], rows)
    logits = None
    if kind == "annotator" and annotator is not None:
        logits = annotator[rows]
    elif kind in ("confusion", "annotator"):
        if bank.text is None:
            raise ClipnotesError(f'Noise kind "{kind}" needs class texts, but the features of {bank.name} have none.')
        logits = ZeroShot(bank.text).logits(bank.train.unit()[rows])
    return replace(corrupt_labels(bank.train.y[rows], rate, kind, bank.n_classes, seed, logits), indices=rows)


def labels_by_people(task: Task, entry: str, data_root: str | Path = "data") -> torch.Tensor:
    """Labels int64 [N] that people gave to the training images of a task, from the file that its manifest names.

    entry: such as "worse_label" of CIFAR-10N. Raises ClipnotesError for a data set without such a file, and as
    `corrupt_labels(kind="human")` does.
    """
    source = load_manifest(task.name).noisy_labels
    if not source:
        raise ClipnotesError(f"Data set {task.name!r} has no labels by people; cifar10 and cifar100 have.")
    path = Path(data_root) / source["file"]
    return corrupt_labels(task.train.labels, kind="human", n_classes=len(task.classnames), path=path, key=entry,
                          rows=task.train.rows).labels


def noisy_accuracies(clip: Clip, banks: dict[str, FeatureBank], methods: Sequence[str], losses: Sequence[str] = ("ce",),
                     rates: Sequence[float] = (0.0, 0.125, 0.25, 0.5),
                     seeds: Sequence[int] = (1, 2, 3, 4), kind: str = "uniform", shots: int = 16,
                     recipe: str = "paper", split: str = "test", also: Callable[[Classifier], dict] | None = None,
                     progress: bool = True, **options: Any) -> pd.DataFrame:
    """Accuracy in [0, 1] of every method, loss, noise rate and seed on every bank: a tidy DataFrame.

    banks: {data set: FeatureBank with text and the whole training split}. methods: names that `methods.recipes` knows, but for
    "Image Finetuning", which learns from images (`fine_tuning_accuracies`).
    A seed drives the draw of the images, of their noise and of the training, and at one seed all methods learn from the
    same labels. also(model): what else to measure of a fitted model, {column: number}. options: of the models, such as
    epochs or q. Prompts and probes of a bank are trained together.
    Columns: dataset, method, loss, noise_kind, noise_rate, true_rate (of the labels given), seed, accuracy (on `split`,
    whose labels are right), memorised (share of the wrong labels that the trained model predicts for their own images).
    """
    def fit(bank: FeatureBank, jobs: list[dict], given: list[NoisyLabels]) -> Iterable[Classifier]:
        models = [build(job["method"], clip, bank.classnames, recipe, loss=job["loss"], seed=job["seed"], **options)
                  for job in jobs]
        return fit_all(models, bank, given, progress)

    return accuracies(banks, methods, losses, rates, seeds, kind, shots, fit, look_at_features, split, also)


def probe_accuracies(banks: dict[str, FeatureBank], losses: Sequence[str] = ("ce",),
                     rates: Sequence[float] = (0.0, 0.125, 0.25, 0.5),
                     seeds: Sequence[int] = (1, 2, 3, 4), kind: str = "uniform", shots: int = 16,
                     scale: float = 100.0, progress: bool = True, **options: Any) -> pd.DataFrame:
    """`noisy_accuracies` of linear probes alone, which need no CLIP: banks of stored features, with the paper's recipe."""
    options = settings("Linear Probe", "paper", **options)

    def fit(bank: FeatureBank, jobs: list[dict], given: list[NoisyLabels]) -> Iterable[Classifier]:
        models = [LinearProbe(loss=job["loss"], seed=job["seed"], scale=scale, **options) for job in jobs]
        return fit_all(models, bank, given, progress)

    return accuracies(banks, ["Linear Probe"], losses, rates, seeds, kind, shots, fit, look_at_features)


def logistic_accuracies(banks: dict[str, FeatureBank], rates: Sequence[float] = (0.0, 0.125, 0.25, 0.5),
                        seeds: Sequence[int] = (1, 2, 3, 4), kind: str = "uniform", shots: int = 16,
                        split: str = "test", **options: Any) -> pd.DataFrame:
    """`noisy_accuracies` of scikit-learn's logistic regression on the features (`LogisticProbe`, whose options they are)."""
    def fit(bank: FeatureBank, jobs: list[dict], given: list[NoisyLabels]) -> Iterable[Classifier]:
        return [LogisticProbe(**options).fit(look_at_features(bank, "train", noisy.indices), noisy.labels, bank.n_classes)
                for noisy in given]

    return accuracies(banks, ["Logistic Probe"], ["ce"], rates, seeds, kind, shots, fit, look_at_features, split)


def fine_tuning_accuracies(network: torch.nn.Module, preprocess: Callable, banks: dict[str, FeatureBank],
                           tasks: dict[str, Task], rates: Sequence[float] = (0.0, 0.125, 0.25, 0.5),
                           seeds: Sequence[int] = (1, 2, 3, 4), kind: str = "uniform", shots: int = 16,
                           recipe: str = "paper", split: str = "test", progress: bool = True, **options: Any) -> pd.DataFrame:
    """`noisy_accuracies` of "Image Finetuning": a network without text (see `methods.encoder_tuning`), all of it trained.

    tasks: {data set: Task with the images of the bank of that name}, whose training images are drawn and given labels as
    for every other method.
    """
    options = settings("Image Finetuning", recipe, **options)
    task_of = {id(bank): tasks[name] for name, bank in banks.items()}  # a bank's own name may be shared, or another

    def fit(bank: FeatureBank, jobs: list[dict], given: list[NoisyLabels]) -> Iterable[Classifier]:
        task = task_of[id(bank)]
        bar = progress_bar(jobs, desc=f"fine-tuning on {bank.name}", leave=False, disable=not progress)
        for job, noisy in zip(bar, given, strict=True):
            images = task.train.take(noisy.indices).images
            model = ImageEncoderFineTuning(network, preprocess, seed=job["seed"], **options)
            yield model.fit(images, noisy.labels, bank.n_classes, progress=False)

    def look_at_images(bank: FeatureBank, split: str, rows: torch.Tensor | None = None) -> Any:
        part = getattr(task_of[id(bank)], split)
        return (part if rows is None else part.take(rows)).images

    loss = options.get("loss", "ce")
    return accuracies(banks, ["Image Finetuning"], [loss], rates, seeds, kind, shots, fit, look_at_images, split)


def look_at_features(bank: FeatureBank, split: str, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Features of a split, or of some of its rows."""
    x = getattr(bank, split).x
    return x if rows is None else x[..., rows, :]


def accuracies(banks: dict[str, FeatureBank], methods: Sequence[str], losses: Sequence[str], rates: Sequence[float],
               seeds: Sequence[int], kind: str, shots: int, fit: Callable, look: Callable, split: str = "test",
               also: Callable[[Classifier], dict] | None = None) -> pd.DataFrame:
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
            rows.append(job | {"accuracy": model.score(x, y), "memorised": memorised} | (also(model) if also else {}))
    return pd.DataFrame(rows, columns=None if rows else COLUMNS).astype({"memorised": float})


def fit_all(models: Iterable[Classifier], bank: FeatureBank, given: Sequence[NoisyLabels],
            progress: bool = True) -> list[Classifier]:
    """Fit models, each on its `NoisyLabels` of a bank: prompts together, probes together. Returns them."""
    features = {id(noisy): look_at_features(bank, "train", noisy.indices) for noisy in given}  # shared by models of a draw
    models, of_kind = list(models), defaultdict(list)
    for model, noisy in zip(models, given, strict=True):
        beside = (bank.n_classes, bank.text) if isinstance(model, LinearProbe) else ()
        of_kind[type(model)].append((model, (features[id(noisy)], noisy.labels, *beside)))
    together = {PromptTuning: fit_many, LinearProbe: fit_probes}
    for kind, pairs in of_kind.items():
        if kind in together:
            together[kind](*zip(*pairs, strict=True), progress=progress)
        else:
            for model, data in pairs:
                model.fit(*data, progress=False)
    return models

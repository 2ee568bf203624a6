"""Tasks: the train, validation and test images of a data set, whole or K shots a class."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipnotes.backbone.text import warn_of_equal_names
from clipnotes.checks import SEED, Whole
from clipnotes.data.images import Split
from clipnotes.data.manifests import load_manifest
from clipnotes.data.sources import SOURCES
from clipnotes.data.split_rules import which_split
from clipnotes.errors import ClipnotesError

AMOUNT = Whole(0)


@dataclass
class Task:
    """A classification task: three splits, class names in label order, templates with a {} for the name."""
    name: str           # as figures and tables show it
    train: Split
    val: Split
    test: Split
    classnames: list[str]
    templates: list[str]
    shots: int = 0      # images a class in train; 0: all there are
    seed: int = 0       # of the draw of the shots
    title: str = ""
    licence: str = field(default="", repr=False)
    split_source: str = ""  # which split this is, in words


def load_task(name: str | Path, shots: int = 0, seed: int = 1, data_root: str | Path = "data") -> Task:
    """Load a data set by name, by the path of a manifest of your own, or by `folder:PATH` of your own images.

    shots: images a class drawn for training with `seed`; 0 takes the whole training split. data_root: folder with one
    folder a data set; the built-in sets need none.
    Raises ClipnotesError for an unknown name, missing data, counts that differ from the manifest's, labels out of range,
    classes with fewer than `shots` images and shots of a data set that is for testing only.
    """
    AMOUNT(shots, "shots"), SEED(seed, "seed")
    manifest = load_manifest(name)
    splits, names = SOURCES[manifest.kind](manifest, data_root)
    expected = manifest.expected_counts(data_root)
    for split, part in splits.items():
        if expected[split] not in ("any", len(part)):
            raise ClipnotesError(f"{manifest.name} has {len(part)} {split} images, but its manifest says "
                                 f"{expected[split]}; the copy is incomplete or another version, get it again.")
    task = Task(manifest.name, **splits, classnames=names or manifest.classnames(), templates=list(manifest.templates),
                title=manifest.title, licence=manifest.licence, split_source=which_split(manifest, data_root))
    warn_of_equal_names(task.classnames, f"data set {task.name}")
    return drawn(task, shots, seed) if shots else task


def drawn(task: Task, shots: int, seed: int) -> Task:
    """The task with `shots` training images a class, drawn by seed."""
    if not len(task.train):
        raise ClipnotesError(f"{task.name} is for testing only and has no training images, but shots={shots} was asked "
                             "for; use shots=0, and train on another data set.")
    chosen = few_shot(task.train.labels, shots, seed, task.classnames)
    return replace(task, train=task.train.take(chosen), shots=shots, seed=seed)


def few_shot(labels: Any, shots: int, seed: int, classnames: Sequence[str] | None = None) -> np.ndarray:
    """Row numbers of `shots` images of every class, drawn without replacement; int64 array, class by class.

    The draw depends on (labels, seed), and fewer shots are a subset of more. Raises ClipnotesError naming the class
    that has too few images and how many it has.
    """
    labels, shots = np.asarray(labels), Whole(1)(shots, "shots")
    rng = np.random.default_rng(SEED(seed, "seed"))
    chosen = []
    for label in range(int(labels.max()) + 1 if classnames is None else len(classnames)):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) < shots:
            name = f" ({classnames[label]})" if classnames else ""
            raise ClipnotesError(f"Class {label}{name} has {len(rows)} training images, fewer than shots={shots}; "
                                 f"ask for at most {len(rows)} shots.")
        chosen.append(rows[:shots])
    return np.concatenate(chosen)

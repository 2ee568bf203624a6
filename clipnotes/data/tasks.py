"""Tasks: the train, validation and test images of a data set, whole or K shots a class."""
from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from clipnotes.data.manifests import SPLITS, load_manifest, read_split_file
from clipnotes.errors import ClipnotesError


class Split:
    """Images with labels. `images` are loaded or drawn when first asked for; `source` identifies their content."""

    def __init__(self, labels, load_images, source):
        self.labels = torch.as_tensor(labels, dtype=torch.int64)  # [N]
        self.load_images, self.source = load_images, source

    def __len__(self):
        return len(self.labels)

    @functools.cached_property
    def images(self):
        """Paths, or a uint8 array [N, H, W, 3]: what `Clip.encode_images` takes."""
        return self.load_images()

    @property
    def fingerprint(self):
        """Hash over source and labels: equal exactly when the images and their order are."""
        return hashlib.sha256(self.source.encode() + self.labels.numpy().tobytes()).hexdigest()[:16]

    def take(self, index):
        """The rows `index` (1-d int array) as a Split of its own."""
        index = np.asarray(index)

        def load_images():
            return self.images[index] if isinstance(self.images, np.ndarray) else [self.images[i] for i in index]

        chosen = hashlib.sha256(index.astype(np.int64).tobytes()).hexdigest()
        return Split(self.labels[torch.from_numpy(index)], load_images, f"{self.source} rows {chosen}")


@dataclass
class Task:
    """A classification task: three splits, class names in label order, templates with a {} for the name."""
    name: str
    train: Split
    val: Split
    test: Split
    classnames: list
    templates: list
    shots: int = 0      # images a class in train; 0: all there are
    seed: int = 0       # of the draw of the shots
    title: str = ""
    licence: str = field(default="", repr=False)


def load_task(name, shots=0, seed=1, data_root="data"):
    """Load a data set by name (or by the path of a manifest of your own).

    shots: images a class drawn for training with `seed`; 0 takes the whole training split. data_root: folder with one
    folder a data set; the built-in sets need none.
    Raises ClipnotesError for an unknown name, missing data, counts that differ from the manifest's, labels out of range
    and classes with fewer than `shots` images.
    """
    manifest = load_manifest(name)
    splits = {split: load_split(manifest, split, data_root) for split in SPLITS}
    for split, part in splits.items():
        if len(part) != manifest.counts[split]:
            raise ClipnotesError(f"{manifest.name} has {len(part)} {split} images, but its manifest says "
                                 f"{manifest.counts[split]}; the copy is incomplete or another version, get it again")
    task = Task(manifest.name, **splits, classnames=list(manifest.classes), templates=list(manifest.templates),
                title=manifest.title, licence=manifest.licence)
    if not shots:
        return task
    chosen = few_shot(task.train.labels, shots, seed, task.classnames)
    return replace(task, train=task.train.take(chosen), shots=shots, seed=seed)


def load_split(manifest, split, data_root):
    """One split of a data set, its images not yet read."""
    kind = manifest.source["kind"]
    if kind == "split-file":
        rows = read_split_file(manifest, data_root)[split]
        folder = Path(data_root) / manifest.source["images"]
        return Split([label for _, label, _ in rows], lambda: [folder / path for path, _, _ in rows],
                     f"{manifest.fingerprint} {folder.resolve()} {split} " + "\n".join(path for path, _, _ in rows))
    from clipnotes.pocket import datasets  # the world is drawn only for the sets that are made of it

    if kind == "sklearn-digits":
        images, labels = datasets.real_digits(split)
        return Split(labels, lambda: images, f"{manifest.name} {split} {datasets.fingerprint()}")
    if manifest.name not in datasets.RECIPES:
        raise ClipnotesError(f"manifest {manifest.path.name}: the pocket world has no data set {manifest.name!r}; "
                             f"it has {', '.join(datasets.RECIPES)}")
    labels = datasets.labels(manifest.name, split)
    return Split(labels, lambda: datasets.draw(manifest.name, split), f"{manifest.name} {split} {datasets.fingerprint()}")


def few_shot(labels, shots, seed, classnames=None):
    """Row numbers of `shots` images of every class, drawn without replacement; int64 array, class by class.

    The draw depends on (labels, seed), and fewer shots are a subset of more. Raises ClipnotesError naming the class
    that has too few images and how many it has.
    """
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    chosen = []
    for label in range(int(labels.max()) + 1 if classnames is None else len(classnames)):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) < shots:
            name = f" ({classnames[label]})" if classnames else ""
            raise ClipnotesError(f"class {label}{name} has {len(rows)} training images, fewer than shots={shots}; "
                                 f"ask for at most {len(rows)} shots")
        chosen.append(rows[:shots])
    return np.concatenate(chosen)

"""Tasks: the train, validation and test images of a data set, whole or K shots a class."""
from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from clipnotes.data.cache import FORMAT, cached
from clipnotes.data.cifar import read_cifar
from clipnotes.data.manifests import SPLITS, load_manifest
from clipnotes.data.splits import class_names, split_rows, which_split
from clipnotes.errors import ClipnotesError


class Split:
    """Images with labels. `images` are loaded or drawn when first asked for; `source` identifies their content.

    files: whether the images are paths of files, which somebody may replace: their sizes and times of change count, too.
    rows: int64 [N], the place of each image in the whole split or, for CIFAR, in the published list, as label files have them.
    """

    def __init__(self, labels, load_images, source, files=False, rows=None):
        self.labels = torch.as_tensor(labels, dtype=torch.int64)  # [N]
        self.load_images, self.source, self.files = load_images, source, files
        self.rows = np.arange(len(self.labels)) if rows is None else rows

    def __len__(self):
        return len(self.labels)

    @functools.cached_property
    def images(self):
        """Paths, or a uint8 array [N, H, W, 3]: what `Clip.encode_images` takes."""
        return self.load_images()

    @property
    def fingerprint(self):
        """Hash over source, labels and the state of files: equal exactly when the images and their order are."""
        digest = hashlib.sha256(os.fsencode(self.source) + self.labels.numpy().tobytes())
        for path in self.images if self.files else []:
            digest.update(file_state(path))
        return digest.hexdigest()[:16]

    def take(self, index):
        """The rows `index` (1-d int array) as a Split of its own."""
        index = np.asarray(index)

        def load_images():
            return self.images[index] if isinstance(self.images, np.ndarray) else [self.images[i] for i in index]

        chosen = hashlib.sha256(index.astype(np.int64).tobytes()).hexdigest()
        return Split(self.labels[torch.from_numpy(index)], load_images, f"{self.source} rows {chosen}", self.files,
                     self.rows[index])


def file_state(path):
    """Size and time of the last change, as bytes; of a missing file nothing, since reading it says so."""
    try:
        state = os.stat(path)
    except OSError:
        return b""
    return f"{state.st_size} {state.st_mtime_ns} ".encode()


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
    split_source: str = ""  # which split this is, in words


def load_task(name, shots=0, seed=1, data_root="data"):
    """Load a data set by name, by the path of a manifest of your own, or by `folder:PATH` of your own images.

    shots: images a class drawn for training with `seed`; 0 takes the whole training split. data_root: folder with one
    folder a data set; the built-in sets need none.
    Raises ClipnotesError for an unknown name, missing data, counts that differ from the manifest's, labels out of range,
    classes with fewer than `shots` images and shots of a data set that is for testing only.
    """
    manifest = load_manifest(name)
    splits, classnames, counts = load_splits(manifest, data_root)
    for split, part in splits.items():
        if counts[split] not in ("any", len(part)):
            raise ClipnotesError(f"{manifest.name} has {len(part)} {split} images, but its manifest says "
                                 f"{counts[split]}; the copy is incomplete or another version, get it again")
    task = Task(manifest.name, **splits, classnames=classnames, templates=list(manifest.templates),
                title=manifest.title, licence=manifest.licence, split_source=which_split(manifest, data_root))
    if not shots:
        return task
    if not len(task.train):
        raise ClipnotesError(f"{manifest.name} is for testing only and has no training images, but shots={shots} was asked "
                             "for; use shots=0, and train on another data set")
    chosen = few_shot(task.train.labels, shots, seed, task.classnames)
    return replace(task, train=task.train.take(chosen), shots=shots, seed=seed)


def load_splits(manifest, data_root):
    """({split: Split}, class names, images that each must have); images are not yet read."""
    if manifest.source["kind"] == "cifar":
        parts, names = read_cifar(manifest, data_root)
        splits = {split: pixels_in_memory(manifest, split, *part) for split, part in parts.items()}
        return splits, class_names(manifest, names), manifest.counts
    if manifest.built_in:
        return {split: load_built_in(manifest, split) for split in SPLITS}, list(manifest.classes), manifest.counts
    folder, rows, names, counts = split_rows(manifest, data_root)
    return {split: image_files(manifest, split, folder, rows[split]) for split in SPLITS}, names, counts


def image_files(manifest, split, folder, rows):
    """The Split of image files, rows (path relative to `folder`, label)."""
    return Split([label for _, label in rows], lambda: [folder / path for path, _ in rows],
                 f"{manifest.fingerprint} {folder.resolve()} {split} " + "\n".join(path for path, _ in rows), files=True)


def pixels_in_memory(manifest, split, pixels, labels, rows):
    """The Split of uint8 pixels [N, H, W, 3]."""
    content = hashlib.sha256(pixels).hexdigest()
    return Split(labels, lambda: pixels, f"{manifest.fingerprint} {split} {content}", rows=rows)


def load_built_in(manifest, split):
    """One split of a data set that needs no download, its images not yet drawn."""
    from clipnotes.pocket import datasets  # the world is drawn only for the sets that are made of it

    if manifest.source["kind"] == "sklearn-digits":
        images, labels = datasets.real_digits(split)
        return Split(labels, lambda: images, f"{manifest.name} {split} {datasets.fingerprint()}")
    if manifest.name not in datasets.SETS:
        raise ClipnotesError(f"manifest {manifest.path.name}: the pocket world has no data set {manifest.name!r}; "
                             f"it has {', '.join(datasets.SETS)}")
    source = f"{manifest.name} {split} {datasets.fingerprint()}"

    def drawn():
        """Pixels uint8 [N, H, W, 3]. Several notebooks want the same ones, and reading is far quicker than drawing."""
        pixels = cached({"format": FORMAT, "pixels": source}, lambda: torch.from_numpy(datasets.draw(manifest.name, split)))
        return pixels.numpy()

    return Split(datasets.labels(manifest.name, split), drawn, source)


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

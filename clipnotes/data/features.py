"""Feature banks: the features of a task's splits with their labels, in memory and in files, encoded or from the disk cache."""
from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from clipnotes.backbone.clip import ImageReader, RandomViews
from clipnotes.data.cache import FORMAT, cached, resumed
from clipnotes.data.manifests import SPLITS
from clipnotes.data.tasks import few_shot
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write


@dataclass
class FeatureBank:
    """Features float32 [N, d] (or [V, N, d] with V views) and labels int64 [N] of up to three splits.

    classnames in label order and `text` (class text features [C, d], unit) may be missing, as may any split (None).
    """
    name: str
    train_x: torch.Tensor | None = None
    train_y: torch.Tensor | None = None
    val_x: torch.Tensor | None = None
    val_y: torch.Tensor | None = None
    test_x: torch.Tensor | None = None
    test_y: torch.Tensor | None = None
    classnames: list | None = None
    text: torch.Tensor | None = None
    train_path: list | None = None
    val_path: list | None = None
    test_path: list | None = None

    def __post_init__(self):
        for split in SPLITS:
            x, y = getattr(self, f"{split}_x"), getattr(self, f"{split}_y")
            if (x is None) != (y is None):
                raise ClipnotesError(f"bank {self.name}: {split}_x and {split}_y must come together, one is missing")
            if x is not None:
                setattr(self, f"{split}_x", self.checked(f"{split}_x", x))
                setattr(self, f"{split}_y", self.checked_labels(split, y, self.splits()[split].shape[-2]))
        if not self.splits():
            raise ClipnotesError(f"bank {self.name} has no split; give at least one of train_x, val_x, test_x")
        if self.text is not None:
            self.text = self.checked("text", self.text)
            if len(self.text) != self.n_classes:
                raise ClipnotesError(f"bank {self.name}: {len(self.text)} text features for {self.n_classes} classes")

    def splits(self):
        """{"train": features, ...} of the splits that are there."""
        return {s: getattr(self, f"{s}_x") for s in SPLITS if getattr(self, f"{s}_x") is not None}

    def checked(self, key, x):
        x = torch.as_tensor(x).float()
        if x.ndim not in (2, 3):
            raise ClipnotesError(f"bank {self.name}: {key} has shape {list(x.shape)}, but must be [N, d] or [V, N, d]")
        if not torch.isfinite(x).all():
            rows = (~torch.isfinite(x)).any(-1).sum().item()
            raise ClipnotesError(f"bank {self.name}: {rows} rows of {key} hold NaN or infinite values; encode them again")
        widths = {other.shape[-1] for other in [*self.splits().values(), x]}
        if len(widths) > 1:
            raise ClipnotesError(f"bank {self.name}: features of sizes {sorted(widths)}; one bank holds one model")
        return x

    def checked_labels(self, split, y, n):
        y = torch.as_tensor(y).long()
        if y.shape != (n,):
            raise ClipnotesError(f"bank {self.name}: {split}_y has shape {list(y.shape)}, but {split}_x has {n} rows")
        if n and (y.min() < 0 or (self.classnames and y.max() >= len(self.classnames))):
            bad = y.min() if y.min() < 0 else y.max()
            allowed = f"0 to {len(self.classnames) - 1}" if self.classnames else "0 or more"
            raise ClipnotesError(f"bank {self.name}: label {int(bad)} in {split}_y is out of range; labels must be {allowed}")
        return y

    @property
    def n_classes(self):
        labels = [getattr(self, f"{split}_y") for split in self.splits()]
        return len(self.classnames) if self.classnames else 1 + max(int(y.max()) for y in labels if len(y))

    @property
    def dim(self):
        return next(iter(self.splits().values())).shape[-1]

    def split(self, name):
        """(unit features, labels) of "train", "val" or "test"; ClipnotesError where the bank has none."""
        x, y = getattr(self, f"{name}_x", None), getattr(self, f"{name}_y", None)
        if x is None:
            raise ClipnotesError(f"bank {self.name} has no {name} split; it has {', '.join(self.splits())}")
        return F.normalize(x, dim=-1), y

    def few_shot(self, shots, seed):
        """The same bank with `shots` training rows of every class, drawn as `load_task` draws them."""
        self.split("train")  # an error where there is none
        names = self.classnames or [str(c) for c in range(self.n_classes)]
        rows = torch.from_numpy(few_shot(self.train_y, shots, seed, names))
        paths = [self.train_path[i] for i in rows] if self.train_path else None
        return replace(self, train_x=self.train_x[..., rows, :], train_y=self.train_y[rows], train_path=paths)

    def arrays(self):
        """All that is there as {key: numpy array}, class names and paths as fixed-width strings."""
        values = {key: getattr(self, key) for key in self.__dataclass_fields__ if key != "name"}
        return {key: np.asarray(value) for key, value in values.items() if value is not None}

    def save(self, path):
        """Write a `.npz` or `.safetensors` file, whole or not at all."""
        path, arrays = check_file_name(path), self.arrays()
        if path.suffix == ".npz":
            with atomic_write(path, "wb") as file:
                np.savez_compressed(file, **arrays)
        else:
            from safetensors.numpy import save

            lists = {key: json.dumps(a.tolist()) for key, a in arrays.items() if a.dtype.kind == "U"}
            with atomic_write(path, "wb") as file:
                file.write(save({key: a for key, a in arrays.items() if a.dtype.kind != "U"}, metadata=lists))

    @classmethod
    def load(cls, path):
        """Read a bank from a `.npz` or `.safetensors` file with the keys of the class's fields; others are ignored.

        Raises ClipnotesError for a missing, foreign or damaged file; pickled content is never loaded.
        """
        path = Path(path)
        if not path.is_file():
            raise ClipnotesError(f"feature file {path} does not exist; check the path, or make it with `clipnotes features`")
        try:
            content = read_npz(path) if path.suffix == ".npz" else read_safetensors(path)
        except Exception as error:  # each library raises its own for damaged files
            raise ClipnotesError(f"feature file {path} cannot be read ({error}); it must be a .npz without pickled "
                                 "objects or a .safetensors file") from error
        return cls(path.stem, **{key: content[key] for key in cls.__dataclass_fields__ if key in content})


def check_file_name(path):
    """The Path of a bank to be written; ClipnotesError for an ending that no bank has."""
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise ClipnotesError(f"cannot save a bank as {path.name}; the name must end in .npz or .safetensors")
    return path


def read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key].tolist() if file[key].dtype.kind == "U" else torch.from_numpy(file[key].astype(
            np.float32 if file[key].dtype.kind == "f" else np.int64)) for key in file.files}


def read_safetensors(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        lists = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        return {key: file.get_tensor(key) for key in file.keys()} | lists  # noqa: SIM118


def encode_task(clip, task, batch_size=64, progress=True, workers=None, views=1, crop=(0.08, 1.0), view_seed=1, splits=SPLITS):
    """The FeatureBank of a task under a CLIP, the splits named from the disk cache where it holds them, else encoded and kept.

    Features are raw, as `Clip.encode_images` returns them; `text` is the zero-shot classifier of the task's templates.
    views: with V > 1 the training images are encoded as V random views each, train_x [V, N, d]; crop, view_seed: see
    `Clip.encode_views`. Validation and test images always show their plain view. A killed encoding goes on where it was.
    """
    parts, options = {}, {"batch_size": batch_size, "progress": progress, "workers": workers}
    for split in splits:
        part = getattr(task, split)
        parts[f"{split}_x"] = encode_split(clip, part, views if split == "train" else 1, crop, view_seed, **options)
        parts[f"{split}_y"] = part.labels
    return FeatureBank(task.name, **parts, classnames=task.classnames, text=clip.classifier(task.classnames, task.templates))


def encode_split(clip, split, views=1, crop=(0.08, 1.0), view_seed=1, batch_size=64, **options):
    """Raw features [N, d] of one split, [V, N, d] with V > 1 views, from the disk cache or encoded and kept.

    views, crop, view_seed: see `encode_task`. options: progress and workers of `Clip.encode_images`.
    """
    key = {"format": FORMAT, "model": clip.fingerprint, "images": split.fingerprint, "views": "plain"}
    if views > 1:
        key["views"] = {"n": views, "crop": list(crop), "seed": view_seed}
    n = len(split)

    def batches(start):
        """Batches of all views, one view after the other, from row `start` of these V N rows on."""
        for view in range(start // max(n, 1), views):
            data = (ImageReader(split.images, clip.preprocess) if views == 1 else
                    RandomViews(split.images, clip, crop, [view_seed, view]))
            yield from clip.encode_batches(data, max(0, start - view * n), batch_size, **options)

    def compute():
        rows = resumed(key, batches, batch_size=batch_size)
        return rows if views == 1 else rows.reshape(views, n, -1)

    return cached(key, compute)

"""Feature banks: the features of a task's splits with their labels, in memory, in a file, in the disk cache."""
from __future__ import annotations

import functools
import hashlib
import json
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from clipnotes.data.manifests import SPLITS
from clipnotes.data.tasks import few_shot
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write, lock

FORMAT = 1  # of the disk cache; a change makes all older files foreign


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
        path, arrays = Path(path), self.arrays()
        if path.suffix == ".npz":
            with atomic_write(path, "wb") as file:
                np.savez_compressed(file, **arrays)
        elif path.suffix == ".safetensors":
            from safetensors.numpy import save

            lists = {key: json.dumps(a.tolist()) for key, a in arrays.items() if a.dtype.kind == "U"}
            with atomic_write(path, "wb") as file:
                file.write(save({key: a for key, a in arrays.items() if a.dtype.kind != "U"}, metadata=lists))
        else:
            raise ClipnotesError(f"cannot save a bank as {path.name}; the name must end in .npz or .safetensors")

    @classmethod
    def load(cls, path):
        """Read a bank from a `.npz` or `.safetensors` file with the keys of the class's fields; others are ignored.

        Raises ClipnotesError for a missing, foreign or damaged file; pickled content is never loaded.
        """
        path = Path(path)
        if not path.is_file():
            raise ClipnotesError(f"feature file {path} does not exist; check the path, or make it with encode_task")
        try:
            content = read_npz(path) if path.suffix == ".npz" else read_safetensors(path)
        except Exception as error:  # each library raises its own for damaged files
            raise ClipnotesError(f"feature file {path} cannot be read ({error}); it must be a .npz without pickled "
                                 "objects or a .safetensors file") from error
        return cls(path.stem, **{key: content[key] for key in cls.__dataclass_fields__ if key in content})


def read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key].tolist() if file[key].dtype.kind == "U" else torch.from_numpy(file[key].astype(
            np.float32 if file[key].dtype.kind == "f" else np.int64)) for key in file.files}


def read_safetensors(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        lists = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        return {key: file.get_tensor(key) for key in file.keys()} | lists  # noqa: SIM118


def cache_dir():
    """Folder of the feature cache: $CLIPNOTES_CACHE, else clipnotes in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipnotes"
    return Path(os.environ.get("CLIPNOTES_CACHE") or default)


def encode_task(clip, task, batch_size=64, progress=True, workers=0, views=1, crop=(0.08, 1.0), view_seed=1):
    """The FeatureBank of a task under a CLIP, every split from the disk cache where it holds it, else encoded and kept.

    Features are raw, as `Clip.encode_images` returns them; `text` is the zero-shot classifier of the task's templates.
    views: with V > 1 the training images are encoded as V random views each, train_x [V, N, d]; crop, view_seed: see
    `Clip.encode_views`. Validation and test images always show their plain view.
    """
    parts, options = {}, {"batch_size": batch_size, "progress": progress, "workers": workers}
    for split in SPLITS:
        part = getattr(task, split)
        parts[f"{split}_x"] = encode_split(clip, part, views if split == "train" else 1, crop, view_seed, **options)
        parts[f"{split}_y"] = part.labels
    return FeatureBank(task.name, **parts, classnames=task.classnames, text=clip.classifier(task.classnames, task.templates))


def encode_split(clip, split, views=1, crop=(0.08, 1.0), view_seed=1, **options):
    """Raw features [N, d] of one split, [V, N, d] with V > 1 views, from the disk cache or encoded and kept.

    views, crop, view_seed: see `encode_task`. options: those of `Clip.encode_images`.
    """
    key = {"format": FORMAT, "model": clip.fingerprint, "images": split.fingerprint, "views": "plain"}
    encode = clip.encode_images
    if views > 1:
        key["views"] = {"n": views, "crop": list(crop), "seed": view_seed}
        encode = functools.partial(clip.encode_views, n_views=views, crop=crop, seed=view_seed)
    return cached(key, lambda: encode(split.images, **options))


def cached(key, compute):
    """A float32 tensor from the cache file of `key` (a JSON-able dict of all that shapes it), else computed and stored.

    The file repeats the key and a checksum; one that is damaged or was made for another key is never used but replaced.
    Of several processes that need the same one, one computes and the others wait for it.
    """
    from safetensors.torch import save

    text = json.dumps(key, sort_keys=True)
    path = cache_dir() / "features" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
    with lock(path):
        x = read_cached(path, text)
        if x is not None:
            return x
        x = compute()
        try:
            with atomic_write(path, "wb") as file:
                file.write(save({"x": x}, metadata={"key": text, "checksum": checksum(x)}))
        except OSError as error:  # a full disk or a read-only folder costs time at the next run, not this one's result
            warnings.warn(f"features could not be kept in {path.parent} ({error}); set CLIPNOTES_CACHE to another folder",
                          stacklevel=2)
        return x


def read_cached(path, key):
    """The tensor of a cache file, None where it is missing, damaged or another key's."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata, x = file.metadata() or {}, file.get_tensor("x")
    except (SafetensorError, OSError):
        return None
    return x if metadata.get("key") == key and metadata.get("checksum") == checksum(x) else None


def checksum(x):
    return hashlib.sha256(f"{x.dtype} {list(x.shape)} ".encode() + x.contiguous().numpy().tobytes()).hexdigest()

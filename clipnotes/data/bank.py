"""Feature banks: the features of a task's splits with their labels, in memory; see `feature_files.py` for files of them."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from clipnotes.backbone.text import warn_of_equal_names
from clipnotes.checks import class_labels, class_names, feature_matrix
from clipnotes.data import feature_files
from clipnotes.data.images import SPLITS
from clipnotes.data.tasks import few_shot
from clipnotes.errors import ClipnotesError


@dataclass
class FeatureSplit:
    """Features of one split, raw as the encoder gives them, and their labels.

    x: float32 [N, d], or [V, N, d] with V views of every image. y: int64 [N]. path: the N image files, where they are known.
    """
    x: torch.Tensor
    y: torch.Tensor
    path: list[str] | None = None

    def __len__(self) -> int:
        return len(self.y)

    def unit(self) -> torch.Tensor:
        """Unit rows [N, d], which cosines are products of; of V views the mean comes first."""
        return F.normalize(self.x.mean(0) if self.x.ndim == 3 else self.x, dim=-1)

    def take(self, rows: torch.Tensor) -> FeatureSplit:
        """The rows of that numbers, int64 [M], as a split of their own."""
        return FeatureSplit(self.x[..., rows, :], self.y[rows], self.path and [self.path[row] for row in rows])


@dataclass
class FeatureBank:
    """The splits of a data set as one model sees them: {"train": FeatureSplit, ...}, any of train, val and test.

    classnames in label order and `text` (class text features [C, d], unit) may be missing. Raises ClipnotesError for
    features that are no finite [N, d] or [V, N, d] of one width d, and for labels or names that do not fit them.
    """
    name: str
    splits: dict[str, FeatureSplit] = field(default_factory=dict)
    classnames: list[str] | None = None
    text: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.splits, dict) or not self.splits or not set(self.splits) <= set(SPLITS):
            raise ClipnotesError(f"Bank {self.name} has no split; give at least one of train, val and test.")
        if self.classnames is not None:
            self.classnames = class_names(self.classnames, f"classnames of bank {self.name}")
            warn_of_equal_names(self.classnames, f"bank {self.name}")
        self.splits = {split: self.checked(split, part) for split, part in self.splits.items()}
        if self.text is not None:
            self.text = feature_matrix(self.text, f"text of bank {self.name}").float()
            if self.text.ndim != 2 or len(self.text) != self.n_classes:
                raise ClipnotesError(f"Text of bank {self.name} has shape {list(self.text.shape)}, but must be "
                                     f"[{self.n_classes}, d], one row a class.")
        widths = {x.shape[-1] for x in [*(part.x for part in self.splits.values()), self.text] if x is not None}
        if len(widths) > 1:
            raise ClipnotesError(f"Bank {self.name}: features of sizes {sorted(widths)}; one bank holds one model.")

    def checked(self, split: str, part: FeatureSplit) -> FeatureSplit:
        of_bank = f"of bank {self.name}"
        x = feature_matrix(part.x, f"{split}_x {of_bank}").float()
        x = x[0] if x.ndim == 3 and len(x) == 1 else x  # one view is the image
        n_classes = len(self.classnames) if self.classnames else None
        y = class_labels(part.y, f"{split}_y {of_bank}", x.shape[-2], n_classes)
        path = None if part.path is None else [str(each) for each in part.path]
        if path is not None and len(path) != len(y):
            raise ClipnotesError(f"{split}_path {of_bank} has {len(path)} entries, but there are {len(y)} images.")
        return FeatureSplit(x, y, path)

    def _split(self, name):
        if name not in self.splits:
            raise ClipnotesError(f"Bank {self.name} has no {name} split; it has {', '.join(self.splits)}.")
        return self.splits[name]

    @property
    def train(self) -> FeatureSplit:
        """ClipnotesError where the bank has none; so for `val` and `test`."""
        return self._split("train")

    @property
    def val(self) -> FeatureSplit:
        return self._split("val")

    @property
    def test(self) -> FeatureSplit:
        return self._split("test")

    def text_features(self) -> torch.Tensor:
        """`text` [C, d]; ClipnotesError where the bank has none."""
        if self.text is None:
            raise ClipnotesError(f"Bank {self.name} has no text features, which zero-shot and every cache model need; add "
                                 "`text` [C, d] to its file, or take another data set.")
        return self.text

    @property
    def n_classes(self) -> int:
        return len(self.classnames) if self.classnames else 1 + max(int(part.y.max()) for part in self.splits.values())

    @property
    def dim(self) -> int:
        return next(iter(self.splits.values())).x.shape[-1]

    def few_shot(self, shots: int, seed: int) -> FeatureBank:
        """The same bank with `shots` training rows of every class, drawn as `load_task` draws them."""
        names = self.classnames or [str(c) for c in range(self.n_classes)]
        rows = torch.from_numpy(few_shot(self.train.y, shots, seed, names))
        return replace(self, splits=self.splits | {"train": self.train.take(rows)})

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, object]) -> FeatureBank:
        """A bank of what a feature file holds: train_x, train_y, train_path, val_x, ..., classnames, text, and more."""
        splits = {}
        for split in SPLITS:
            x, y, path = (arrays.get(f"{split}_{key}") for key in ("x", "y", "path"))
            if (x is None) != (y is None):
                raise ClipnotesError(f"Bank {name}: {split}_x and {split}_y must come together, one is missing.")
            if x is not None and 0 not in np.shape(x):  # a set for testing only has no training images
                splits[split] = FeatureSplit(x, y, path)
        return cls(name, splits, arrays.get("classnames"), arrays.get("text"))

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is there under the keys of a feature file, class names and paths as fixed-width strings."""
        values = {f"{split}_{key}": getattr(part, key) for split, part in self.splits.items() for key in ("x", "y", "path")}
        values |= {"classnames": self.classnames, "text": self.text}
        return {key: np.asarray(value) for key, value in values.items() if value is not None}

    def save(self, path: str | Path) -> None:
        """Write a `.npz` or `.safetensors` file, whole or not at all."""
        feature_files.write(path, self.arrays())

    @classmethod
    def load(cls, path: str | Path) -> FeatureBank:
        """Read a bank from a `.npz` or `.safetensors` file, see `from_arrays`.

        Raises ClipnotesError for a missing, foreign or damaged file; pickled content is never loaded.
        """
        return cls.from_arrays(Path(path).stem, feature_files.read(path))

"""Splits of images: labels at once, images when they are asked for, and a fingerprint of both."""
from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipnotes.data.same_files import check_same_files

SPLITS = ("train", "val", "test")


class Split:
    """Images with labels. `images` are loaded or drawn when first asked for; `source` identifies their content.

    files: whether the images are paths of files, which somebody may replace: their sizes and times of change count, too.
    rows: int64 [N], the place of each image in the whole split or, for CIFAR, in the published list, as label files have them.
    """

    def __init__(self, labels: Any, load_images: Callable[[], Any], source: str, files: bool = False,
                 rows: np.ndarray | None = None) -> None:
        self.labels = torch.as_tensor(labels, dtype=torch.int64)  # [N]
        self.load_images, self.source, self.files = load_images, source, files
        self.rows = np.arange(len(self.labels)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def images(self) -> list[Path] | np.ndarray:
        """Paths, or a uint8 array [N, H, W, 3]: what `Clip.encode_images` takes."""
        return self.load_images()

    @property
    def fingerprint(self) -> str:
        """Hash over source, labels and the state of files: equal exactly when the images and their order are."""
        digest = hashlib.sha256(os.fsencode(self.source) + self.labels.numpy().tobytes())
        for path in self.images if self.files else []:
            digest.update(file_state(path))
        return digest.hexdigest()[:16]

    def take(self, index: Sequence[int] | np.ndarray) -> Split:
        """The rows `index` (1-d, whole numbers) as a Split of its own."""
        index = np.asarray(index)

        def load_images():
            return self.images[index] if isinstance(self.images, np.ndarray) else [self.images[i] for i in index]

        chosen = hashlib.sha256(index.astype(np.int64).tobytes()).hexdigest()
        return Split(self.labels[torch.from_numpy(index)], load_images, f"{self.source} rows {chosen}", self.files,
                     self.rows[index])


def file_state(path: str | Path) -> bytes:
    """Size and time of the last change, as bytes; of a missing file nothing, since reading it says so."""
    try:
        state = os.stat(path)
    except OSError:
        return b""
    return f"{state.st_size} {state.st_mtime_ns} ".encode()


def splits_of_files(manifest: Any, folder: Path, rows: dict[str, list[tuple[str, int]]]) -> dict[str, Split]:
    """{split: Split} of image files, rows (path relative to `folder`, label); see `check_same_files` for links among them."""
    check_same_files(folder, rows, own=manifest.kind == "folder")

    def split_of(split, part):
        source = f"{manifest.fingerprint} {folder.resolve()} {split} " + "\n".join(path for path, _ in part)
        return Split([label for _, label in part], lambda: [folder / path for path, _ in part], source, files=True)

    return {split: split_of(split, part) for split, part in rows.items()}

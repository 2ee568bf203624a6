"""CIFAR-10 and CIFAR-100 in their binary version; the usual Python version is pickled, and no pickle is ever loaded."""
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from clipnotes.data.images import Split
from clipnotes.data.lists import read_lines
from clipnotes.data.manifests import Manifest
from clipnotes.errors import ClipnotesError

PIXELS = 3 * 32 * 32


def cifar(manifest: Manifest, data_root: str | Path) -> tuple[dict[str, Split], list[str]]:
    """({split: Split of uint8 [N, 32, 32, 3]}, class names).

    The last `val` of the training images validate; `rows` are the places of the images in the published order, in which
    label files such as CIFAR-10N's are. Raises ClipnotesError where a file is missing or of another format.
    """
    source, folder = manifest.source, manifest.image_folder(data_root)
    if folder is None:
        raise ClipnotesError(f"Folder {Path(data_root) / source['images']} of data set {manifest.name} is missing; "
                             f"{manifest.remedy}.")
    try:
        names = read_lines(folder / source["names"])
        (train, train_y), (test, test_y) = [read_records([folder / file for file in files], source["label_bytes"])
                                            for files in (source["files"]["train"], source["files"]["test"])]
    except (OSError, ValueError) as error:
        raise ClipnotesError(f"{folder} does not hold the binary version of {manifest.name} ({error}); "
                             f"{manifest.remedy}.") from error
    rows, last = np.arange(len(train)), len(train) - source["val"]
    parts = {"train": (train[:last], train_y[:last], rows[:last]), "val": (train[last:], train_y[last:], rows[last:]),
             "test": (test, test_y, np.arange(len(test)))}
    return {split: split_of_pixels(manifest, split, *part) for split, part in parts.items()}, manifest.repaired(names)


def split_of_pixels(manifest: Manifest, split: str, pixels: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Split:
    content = hashlib.sha256(pixels).hexdigest()
    return Split(labels, lambda: pixels, f"{manifest.fingerprint} {split} {content}", rows=rows)


def read_records(files: list[Path], label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [N, 32, 32, 3], int64 [N]) of files of records: label bytes, of which the last counts, then 3 x 32 x 32 pixels."""
    content = [np.fromfile(file, np.uint8) for file in files]
    for file, values in zip(files, content, strict=True):
        if len(values) % (label_bytes + PIXELS):
            raise ValueError(f"{file.name} has {len(values)} bytes, not whole records of {label_bytes + PIXELS}")
    records = np.concatenate(content).reshape(-1, label_bytes + PIXELS)
    pixels = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), records[:, label_bytes - 1].astype(np.int64)

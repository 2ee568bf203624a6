"""The data sets that need no download: pictures of the pocket world and scikit-learn's handwritten digits."""
from __future__ import annotations

from pathlib import Path

import torch

from clipnotes.data.cache import FORMAT, cached
from clipnotes.data.images import SPLITS, Split
from clipnotes.data.manifests import Manifest
from clipnotes.errors import ClipnotesError
from clipnotes.pocket import datasets


def pocket(manifest: Manifest, data_root: str | Path) -> tuple[dict[str, Split], None]:
    """Pictures that `clipnotes.pocket.datasets` draws, uint8 [N, H, W, 3]."""
    if manifest.name not in datasets.SETS:
        raise ClipnotesError(f"Manifest {manifest.path.name}: the pocket world has no data set {manifest.name!r}; "
                             f"it has {', '.join(datasets.SETS)}.")
    return {split: drawn(manifest.name, split) for split in SPLITS}, None


def drawn(name: str, split: str) -> Split:
    """A split of the pocket world. Several notebooks want the same pictures, and reading is far quicker than drawing."""
    source = f"{name} {split} {datasets.fingerprint()}"

    def pixels():
        return cached({"format": FORMAT, "pixels": source}, lambda: torch.from_numpy(datasets.draw(name, split))).numpy()

    return Split(datasets.labels(name, split), pixels, source)


def digits(manifest: Manifest, data_root: str | Path) -> tuple[dict[str, Split], None]:
    """scikit-learn's scans, uint8 [N, H, W, 3]."""
    splits = {}
    for split in SPLITS:
        pixels, labels = datasets.real_digits(split)
        splits[split] = Split(labels, lambda pixels=pixels: pixels, f"{manifest.name} {split} {datasets.fingerprint()}")
    return splits, None

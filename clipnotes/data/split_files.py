"""Published split files in CoOp's format, held against the manifest."""
from __future__ import annotations

import json
from pathlib import Path

from clipnotes.data.images import SPLITS
from clipnotes.data.manifests import Manifest
from clipnotes.errors import ClipnotesError


def read_split_file(manifest: Manifest, data_root: str | Path) -> tuple[dict, list[str]]:
    """({split: [(relative path, label), ...]}, class names) of a CoOp split file; ClipnotesError where it is missing or bad."""
    path = Path(data_root) / manifest.source["file"]
    if not path.is_file():
        raise ClipnotesError(f"split file {path} of data set {manifest.name} is missing; "
                             f"{manifest.obtain or 'put it there, or set data_root to where the data lie'}")
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
        splits = {split: [(str(p), int(label), str(c)) for p, label, c in splits[split]] for split in SPLITS}
    except (ValueError, KeyError, TypeError) as error:
        raise ClipnotesError(f"split file {path} is not a CoOp split ({error!r}); it must hold lists "
                             "train, val and test of [path, label, class name]") from error
    named = {label: name for rows in splits.values() for _, label, name in rows}
    n_classes = 1 + max(named, default=-1) if manifest.n_classes == "any" else manifest.n_classes
    for split, rows in splits.items():
        for name, label, _ in rows:
            if not 0 <= label < n_classes:
                raise ClipnotesError(f"label {label} of {name} ({split}) in {path} is out of range; {manifest.name} "
                                     f"has {n_classes} classes, labels 0 to {n_classes - 1}")
    rows = {split: [(path, label) for path, label, _ in rows] for split, rows in splits.items()}
    return rows, manifest.classnames() or manifest.repaired([named.get(label, f"class {label}") for label in range(n_classes)])

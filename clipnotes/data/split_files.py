"""Published split files in CoOp's format, {"train": [[image path, label, class name], ...], "val": ..., "test": ...}."""
from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from clipnotes.data.images import SPLITS
from clipnotes.data.manifests import Manifest
from clipnotes.errors import ClipnotesError, shown
from clipnotes.text_files import read_json

Rows = dict[str, list[tuple[str, int, str]]]  # {split: [(image path, label, class name), ...]}


def read_split_file(manifest: Manifest, data_root: str | Path) -> tuple[dict[str, list[tuple[str, int]]], list[str]]:
    """({split: [(image path, label), ...]}, class names) of the split file of a manifest.

    The file's own names count: where they are not the manifest's, label by label, a warning says so, and images of train
    that are in test, too. Raises ClipnotesError where the file is missing or of another form, and for its first `mistakes`.
    """
    path, rows = load_rows(manifest, data_root)
    for mistake in mistakes(rows, manifest, path):
        raise ClipnotesError(mistake)
    for doubt in doubts(rows, manifest, path):
        warnings.warn(doubt, stacklevel=1)  # one place, so that it is shown once
    return {split: [(image, label) for image, label, _ in part] for split, part in rows.items()}, names_of(rows, manifest)


def split_file_problems(manifest: Manifest, data_root: str | Path) -> list[str]:
    """All that is wrong or doubtful in the split file of a manifest, one sentence each."""
    try:
        path, rows = load_rows(manifest, data_root)
    except ClipnotesError as error:
        return [str(error)]
    return [*mistakes(rows, manifest, path), *doubts(rows, manifest, path)]


def load_rows(manifest: Manifest, data_root: str | Path) -> tuple[Path, Rows]:
    """(path of the file, its rows with / in the image paths); ClipnotesError where it is missing or of another form."""
    path = Path(data_root) / manifest.source["file"]
    if not path.is_file():
        raise ClipnotesError(f"Split file {path} of data set {manifest.name} is missing; "
                             f"{manifest.remedy}.")
    content = read_json(path, f"Split file {path.name}")
    form = "it must hold lists train, val and test of [image path, label, class name], labels as whole numbers from 0"
    if not isinstance(content, dict) or not all(isinstance(content.get(split), list) for split in SPLITS):
        raise ClipnotesError(f"Split file {path} is not a CoOp split; {form}.")
    for split in SPLITS:
        for row in content[split]:
            if not is_row(row):
                raise ClipnotesError(f"Split file {path} has the row {shown(row)} in {split}; {form}.")
    return path, {split: [(image.replace("\\", "/"), label, name) for image, label, name in content[split]] for split in SPLITS}


def is_row(row: Any) -> bool:
    return (isinstance(row, list) and len(row) == 3 and isinstance(row[0], str) and isinstance(row[2], str)
            and isinstance(row[1], int) and not isinstance(row[1], bool))


def mistakes(rows: Rows, manifest: Manifest, path: Path) -> list[str]:
    """What makes a split file unusable, one sentence each."""
    return [*labels_out_of_range(rows, manifest, path), *mixed_names(rows, path), *misplaced_images(rows, path)]


def labels_out_of_range(rows: Rows, manifest: Manifest, path: Path) -> Iterator[str]:
    named = names_by_label(rows)
    if manifest.n_classes == "any":
        first = next((label for label in range(len(named)) if label not in named), None)
        if first is not None:
            start = " (do they count from 1?)" if first == 0 else ""
            yield (f"Split file {path} has labels up to {max(named)}, but none {first}{start}; labels must be 0, 1, 2 ... "
                   "without gaps.")
    n_classes = 1 + max(named, default=0) if manifest.n_classes == "any" else manifest.n_classes
    for split, part in rows.items():
        for image, label, _ in part:
            if not 0 <= label < n_classes:
                yield (f"Label {label} of {image} ({split}) in {path} is out of range; {manifest.name} has {n_classes} "
                       f"classes, labels 0 to {n_classes - 1}.")
                return


def mixed_names(rows: Rows, path: Path) -> Iterator[str]:
    named = names_by_label(rows)
    for label, names in named.items():
        if len(names) > 1:
            some = " and ".join(map(repr, sorted(names)[:3]))
            yield f"Split file {path} gives label {label} the names {some}; one of them is wrong."
    owners = defaultdict(list)
    for label, names in named.items():
        owners[bare(min(names))].append(label)
    for labels in owners.values():
        if len(labels) > 1:
            some = " and ".join(map(str, labels[:3]))
            yield (f"Split file {path} gives labels {some} the same name {min(named[labels[0]])!r}; classes must have "
                   "different names.")


def misplaced_images(rows: Rows, path: Path) -> Iterator[str]:
    label_of = {}
    for split, part in rows.items():
        for image, label, _ in part:
            if image.startswith("/") or re.match("[A-Za-z]:", image) or ".." in PurePosixPath(image).parts:
                yield (f"Split file {path} has the image path {image!r} in {split}, which leads out of the image folder; "
                       "give paths relative to it.")
                return
            if label_of.setdefault(image, label) != label:
                yield f"Split file {path} gives image {image} the labels {label_of[image]} and {label}; one of them is wrong."
                return


def doubts(rows: Rows, manifest: Manifest, path: Path) -> list[str]:
    """What a user should know of a split file that can be used, one sentence each."""
    found, ours = [], manifest.classnames()
    theirs = {label: min(names) for label, names in names_by_label(rows).items()}
    if ours and (others := [label for label, name in theirs.items() if label < len(ours) and bare(name) != bare(ours[label])]):
        label = others[0]
        found.append(f"Split file {path} names {len(others)} of {len(theirs)} classes otherwise than the manifest of "
                     f"{manifest.name}, such as label {label}: {theirs[label]!r} in place of {ours[label]!r}; the file's names "
                     "are taken.")
    images = {split: [image for image, *_ in part] for split, part in rows.items()}
    if both := set(images["test"]) & {*images["train"], *images["val"]}:
        found.append(f"Split file {path} has {len(both)} of {len(images['test'])} test images in train or val, too, such as "
                     f"{min(both)}; accuracies on test are too high.")
    if twice := sum(len(part) - len(set(part)) for part in images.values()):
        found.append(f"Split file {path} lists {twice} images twice within a split.")
    return found


def names_of(rows: Rows, manifest: Manifest) -> list[str]:
    """Class names in label order: the manifest's spelling where it has the name, the file's own otherwise."""
    theirs = {label: min(names) for label, names in names_by_label(rows).items()}
    ours = manifest.classnames()
    n_classes = 1 + max(theirs, default=-1) if manifest.n_classes == "any" else manifest.n_classes
    if not ours:
        return manifest.repaired([theirs.get(label, f"class {label}") for label in range(n_classes)])
    if all(bare(name) == bare(ours[label]) for label, name in theirs.items()):
        return ours
    spelling = {bare(name): name for name in ours}
    left = iter([name for name in ours if bare(name) not in set(map(bare, theirs.values()))])  # for labels without an image
    return [spelling.get(bare(theirs[label]), theirs[label].replace("_", " ")) if label in theirs else
            next(left, f"class {label}") for label in range(n_classes)]


def names_by_label(rows: Rows) -> dict[int, set[str]]:
    """{label: set of names}, by label."""
    named = defaultdict(set)
    for part in rows.values():
        for _, label, name in part:
            named[label].add(name)
    return dict(sorted(named.items()))


def bare(name: str) -> str:
    """A name without case, spaces and punctuation: to compare it across spellings."""
    return re.sub(r"[\W_]+", "", name.casefold())

"""Splits: CoOp's published split file where it lies beside the data, else an equivalent one by the same rule and a fixed seed.

The published files were shuffled with a seed that nobody recorded (CoOp, DATASETS.md), so they can be downloaded, not made
again. The rule that stands in for them is `split` of a manifest's source:
  {train: 0.5, val: 0.2}   every class is shuffled and cut: these shares, rounded, train and validate, the rest tests
  {val: 0.2}               this share of every class of the official training list validates; a whole number: so many images
  none                     the lists are taken as they are published
"""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from clipnotes.data.manifests import SPLITS
from clipnotes.data.sources import SOURCES, folders_of, image_folder
from clipnotes.errors import ClipnotesError

SEED = 1  # of the equivalent splits


def split_rows(manifest, data_root):
    """What image files make up the splits of a data set: (folder, {split: [(path, label), ...]}, class names, counts).

    Paths are relative to the folder; counts: how many images each split must have. `which_split` says where they come from.
    Raises ClipnotesError where images or lists are missing and for labels out of range.
    """
    source, folder, published = manifest.source, image_folder(manifest, data_root), takes_split_file(manifest, data_root)
    if published:
        rows, names = read_split_file(manifest, data_root)
        counts = manifest.counts
    if folder is None:
        raise ClipnotesError(f"images of data set {manifest.name} are missing: there is no folder "
                             f"{' or '.join(map(str, folders_of(manifest, 'images', data_root)))} with its content; "
                             f"{manifest.obtain or 'put them there, or set data_root to where the data lie'}")
    if not published:
        listing = read_listing(manifest, folder, data_root)
        rows, names = divide(listing.parts, source.get("split")), listing.classnames
        counts = source.get("counts", manifest.counts)
    return folder, rows, class_names(manifest, names), counts


def takes_split_file(manifest, data_root):
    """Whether a published split file makes the splits: where it lies beside the data, or where nothing else could."""
    file = manifest.source.get("file")
    return manifest.source["kind"] == "split-file" or file is not None and (Path(data_root) / file).is_file()


def which_split(manifest, data_root):
    """Which split `load_task` takes, in words."""
    source = manifest.source
    if manifest.built_in:
        return "built in"
    if takes_split_file(manifest, data_root):
        return f"the published split file {Path(source['file']).name}"
    return source.get("words") or describe(source.get("split"))


def read_listing(manifest, folder, data_root):
    """The `Listing` of a data set; ClipnotesError where its lists or some of its classes are not there."""
    try:
        listing = SOURCES[manifest.source["kind"]].read(manifest, folder, data_root)
    except ClipnotesError:
        raise
    except (OSError, RuntimeError, ValueError, LookupError) as error:  # of torchvision, scipy and our own readers
        either = f"put its split file {Path(manifest.source['file']).name} there, or " if "file" in manifest.source else ""
        raise ClipnotesError(f"the lists of data set {manifest.name} that belong to {folder} are missing or damaged "
                             f"({error}); {either}get it again: {manifest.obtain}") from error
    found = listing.classnames
    if found is not None and len(found) != manifest.n_classes:
        raise ClipnotesError(f"{folder} has {len(found)} classes, but the manifest of {manifest.name} says "
                             f"{manifest.n_classes}; the copy is incomplete or another version, get it again")
    return listing


def divide(parts, rule=None):
    """{split: rows} from the parts of a `Listing`, by a rule as above; class by class where anything is shuffled."""
    if rule is None:
        return {split: parts.get(split, []) for split in SPLITS}
    rng, rows = np.random.default_rng(SEED), {split: [] for split in SPLITS}
    for members in by_class(parts["all" if "train" in rule else "train"]):
        members = [members[i] for i in rng.permutation(len(members))]
        n_val = rule["val"] if isinstance(rule["val"], int) else round(rule["val"] * len(members))
        n_train = round(rule["train"] * len(members)) if "train" in rule else len(members) - n_val
        rows["train"] += members[:n_train]
        rows["val"] += members[n_train:n_train + n_val]
        rows["test"] += members[n_train + n_val:]
    return rows if "train" in rule else rows | {"test": parts["test"]}


def by_class(rows):
    """Rows (path, label) as one list a label, each sorted by path, since folders list their files in any order."""
    classes = {}
    for path, label in sorted(rows):
        classes.setdefault(label, []).append((path, label))
    return [classes[label] for label in sorted(classes)]


def describe(rule):
    """Which split a rule makes, in words."""
    if rule is None:
        return "the published lists"
    if "train" in rule:
        shares = [rule["train"], rule["val"], 1 - rule["train"] - rule["val"]]
        return f"equivalent split, seed {SEED} ({'/'.join(f'{100 * share:.0f}' for share in shares)} % per class)"
    amount = f"{rule['val']} images" if isinstance(rule["val"], int) else f"{100 * rule['val']:.0f} %"
    return f"equivalent split, seed {SEED} (published test images; {amount} per class of the training images for validation)"


def class_names(manifest, found):
    """Names in label order: the manifest's, else those found beside the images, repaired."""
    names = manifest.classnames()
    return manifest.repaired(found) if names is None else names


def read_split_file(manifest, data_root):
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
    return rows, [named.get(label, f"class {label}") for label in range(n_classes)]

"""Splits: CoOp's published split file where it lies beside the data, else an equivalent one by the same rule and a fixed seed.

The published files were shuffled with a seed that nobody recorded (CoOp, DATASETS.md), so they can be downloaded, not made
again. The rule that stands in for them is `split` of a manifest's source:
  {train: 0.5, val: 0.2}   every class is shuffled and cut: these shares, rounded, train and validate, the rest tests
  {val: 0.2}               this share of every class of the official training list validates; a whole number: so many images
  none                     the lists are taken as they are published
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from clipnotes.data.images import SPLITS
from clipnotes.data.manifests import Manifest

SEED = 1  # of the equivalent splits


def which_split(manifest: Manifest, data_root: str | Path) -> str:
    """Which split `load_task` takes, in words."""
    source = manifest.source
    if manifest.built_in:
        return "built in"
    if manifest.takes_split_file(data_root):
        return f"the published split file {Path(source['file']).name}"
    return source.get("words") or describe(source.get("split"))


def divide(parts: dict[str, list], rule: dict | None = None) -> dict[str, list]:
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


def by_class(rows: list) -> list[list]:
    """Rows (path, label) as one list a label, each sorted by path, since folders list their files in any order."""
    classes = {}
    for path, label in sorted(rows):
        classes.setdefault(label, []).append((path, label))
    return [classes[label] for label in sorted(classes)]


def describe(rule: dict | None) -> str:
    """Which split a rule makes, in words."""
    if rule is None:
        return "the published lists"
    if "train" in rule:
        shares = [rule["train"], rule["val"], 1 - rule["train"] - rule["val"]]
        return f"equivalent split, seed {SEED} ({'/'.join(f'{100 * share:.0f}' for share in shares)} % per class)"
    amount = f"{rule['val']} images" if isinstance(rule["val"], int) else f"{100 * rule['val']:.0f} %"
    return f"equivalent split, seed {SEED} (published test images; {amount} per class of the training images for validation)"

"""Which images of Open Images make a generic set: its CSV files, read in pieces, and a draw of classes and images by seed."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from clipnotes.data.manifests import load_manifest
from clipnotes.data.tasks import load_task
from clipnotes.errors import ClipnotesError
from clipnotes.file_kinds import stand_in
from clipnotes.progress import progress_bar
from clipnotes.text_files import read_csv

ROWS = 1_000_000  # of a CSV file in memory at a time
POOL = 4          # candidates for every image that is wanted, since many addresses lead nowhere by now
DETAILS = ["OriginalLandingURL", "License", "Author"]  # what the licence, CC BY, asks to keep


def draw_candidates(images_csv: str | Path, labels_csv: str | Path, classes_csv: str | Path, n_classes: int, wanted: int,
                    seed: int, exclude: Iterable[str] = (), data_root: str | Path = "data",
                    report: Callable[[str], object] = print, progress: bool = True) -> pd.DataFrame:
    """Candidates for `wanted` images of each of n_classes drawn classes: a DataFrame, classes by name, best candidates first.

    Columns: ImageID, DisplayName, URL and `DETAILS`. An image is a candidate if people verified exactly one label as present
    in it (confidence 1), if it is listed in images_csv, and if it is not known to lie on its side (Rotation 90, 180, 270).
    A class can be drawn if it has `wanted` of them, no namesake, and no namesake in the data sets that `exclude` names.
    Memory grows with the positive labels (about 40 bytes each), not with the size of the files.
    """
    names = class_names(classes_csv)
    names = names[~overlapping(names, exclude, data_root, report)]
    images, labels, labelnames = single_labels(labels_csv, progress)
    usable = np.isin(images, upright_images(images_csv, progress))
    images, labels = images[usable], labels[usable]
    codes = {names[label]: code for code, label in enumerate(labelnames) if label in names.index}
    counts = np.bincount(labels, minlength=len(labelnames))
    able = sorted(name for name, code in codes.items() if counts[code] >= wanted)
    if len(able) < n_classes:
        raise ClipnotesError(f"{n_classes} classes of {wanted} images (training and validation) were asked for, but only "
                             f"{len(able)} classes have as many with a single label; ask for fewer classes or images.")
    rng = np.random.default_rng(seed)
    drawn = sorted(able[i] for i in rng.permutation(len(able))[:n_classes])
    pools = [(name, rng.permutation(images[labels == codes[name]])[:POOL * wanted]) for name in drawn]
    rows = [(f"{image:016x}", name) for name, pool in pools for image in pool]
    return with_details(pd.DataFrame(rows, columns=["ImageID", "DisplayName"]), images_csv, progress)


def class_names(classes_csv: str | Path) -> pd.Series:
    """Display names by label name (such as /m/01yrx), a Series; names that several labels share are left out."""
    columns = ["LabelName", "DisplayName"]
    with reading(classes_csv):
        table = read_csv(classes_csv, text=True, header=None, names=columns)
    table = table[table["LabelName"].str.startswith("/")]  # not the header, which the older files lack
    names = table.drop_duplicates().set_index("LabelName")["DisplayName"].str.strip()
    if names.empty:
        raise ClipnotesError(f"{classes_csv} has no class; give Open Images' class-descriptions.csv (LabelName,DisplayName).")
    if (twice := names.index[names.index.duplicated()]).size:
        raise ClipnotesError(f"{classes_csv} names label {twice[0]} twice, as {' and '.join(map(repr, names[twice[0]]))}; "
                             "keep one.")
    return names[~names.str.casefold().duplicated(keep=False) & (names != "")]


def overlapping(names: pd.Series, datasets: Iterable[str], data_root: str | Path = "data",
                report: Callable[[str], object] = print) -> pd.Series:
    """Which of a Series of class names, bool, are classes of the named data sets; those found are reported.

    Only names are compared: "Dog" is no namesake of a data set of breeds. data_root: of sets whose own files name the classes.
    """
    classes = {name: load_manifest(name).classnames() or load_task(name, data_root=data_root).classnames for name in datasets}
    theirs = {form: f"{theirs} of {name}" for name in datasets for theirs in classes[name] for form in name_forms(theirs)}
    found = {name: theirs[form] for name in names for form in name_forms(name) if form in theirs}
    if datasets:
        report(f"{len(found)} classes are left out, as they bear the name of one of {', '.join(datasets)}"
               + "".join(f"\n    {name} ({which})" for name, which in sorted(found.items())))
    return names.isin(list(found))


def name_forms(name: str) -> set[str]:
    """A class name without case, spaces and punctuation, as it is and as singulars that it may be the plural of: a set."""
    bare = re.sub(r"[\W_]+", "", name.casefold())
    endings = {"s": "", "es": "", "ies": "y", "ves": "f"}
    return {bare} | {bare[:-len(end)] + single for end, single in endings.items() if bare.endswith(end)} - {""}


def single_labels(labels_csv: str | Path, progress: bool = True) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(ids of the images with exactly one verified label, ascending, uint64 [N]; its row in the names, [N]; label names)."""
    images, labels, codes = [], [], {}
    for piece in read_pieces(labels_csv, {"ImageID": str, "LabelName": "category", "Confidence": float}, progress):
        piece = piece[piece["Confidence"] == 1]
        code = [codes.setdefault(label, len(codes)) for label in piece["LabelName"].cat.categories]
        images.append(image_numbers(piece["ImageID"]))
        labels.append(np.array(code, np.int32)[piece["LabelName"].cat.codes])
    images, labels = np.concatenate(images), np.concatenate(labels)
    if not len(images):
        raise ClipnotesError(f"{labels_csv} has no label of confidence 1; give the labels verified by people, such as "
                             "oidv7-train-annotations-human-imagelabels.csv.")
    order = np.argsort(images)
    images, labels = images[order], labels[order]
    starts = np.flatnonzero(np.r_[True, images[1:] != images[:-1]])
    lowest, highest = np.minimum.reduceat(labels, starts), np.maximum.reduceat(labels, starts)
    single = lowest == highest  # a label that was verified twice is one label
    return images[starts][single], lowest[single], list(codes)


def upright_images(images_csv: str | Path, progress: bool = True) -> np.ndarray:
    """Ids, uint64, of all images in a file that need no turning as far as is known."""
    pieces = read_pieces(images_csv, {"ImageID": str, "Rotation": float}, progress)
    return np.concatenate([image_numbers(piece["ImageID"][piece["Rotation"].fillna(0) == 0]) for piece in pieces])


def with_details(rows: pd.DataFrame, images_csv: str | Path, progress: bool = True) -> pd.DataFrame:
    """Rows with the URL of each image (its small copy where there is one) and `DETAILS`; those not in the file fall out."""
    columns = dict.fromkeys(["ImageID", "OriginalURL", "Thumbnail300KURL", *DETAILS], str)
    pieces = [piece[piece["ImageID"].isin(rows["ImageID"])] for piece in read_pieces(images_csv, columns, progress)]
    found = pd.concat(pieces).drop_duplicates("ImageID")
    found["URL"] = found["Thumbnail300KURL"].fillna(found["OriginalURL"])
    return rows.merge(found[["ImageID", "URL", *DETAILS]].dropna(subset="URL"), on="ImageID")


def image_numbers(ids: pd.Series) -> np.ndarray:
    """Image ids of 16 hex digits, a Series, as uint64 [N]."""
    try:
        if not ids.str.len().eq(16).all():
            raise ValueError
        return np.frombuffer(bytes.fromhex("".join(ids)), ">u8").reshape(len(ids)).astype(np.uint64)
    except ValueError as error:
        wrong = next(each for each in ids if not re.fullmatch("[0-9A-Fa-f]{16}", str(each)))
        raise ClipnotesError(f"Image id {wrong!r} in an Open Images file is not one; ids have 16 hex digits, such as "
                             "000060e3121c7305.") from error


def read_pieces(path: str | Path, columns: dict, progress: bool = True) -> Iterator[pd.DataFrame]:
    """Yield DataFrames of ROWS rows of a CSV file with the given columns {name: type}."""
    with reading(path), read_csv(path, usecols=list(columns), dtype=columns, chunksize=ROWS) as pieces:
        yield from progress_bar(pieces, desc=f"reading {Path(path).name}", unit=" million rows", leave=False,
                                disable=not progress)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """ClipnotesError for a missing CSV file, and for one that is damaged or lacks columns."""
    if not Path(path).is_file():
        raise ClipnotesError(f"Open Images file {path} does not exist; get it from "
                             "https://storage.googleapis.com/openimages/web/download_v7.html.")
    try:
        if instead := stand_in(path):
            raise ValueError(f"it is {instead}")
        yield
    except ClipnotesError:
        raise
    except (ValueError, EOFError, OSError, OverflowError, MemoryError) as error:  # pandas' own errors are of the first kind
        reason = " ".join(str(error).split())
        raise ClipnotesError(f"{path} cannot be read as this file of Open Images ({reason}); give the official one.") from error

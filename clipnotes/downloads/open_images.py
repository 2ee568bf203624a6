"""A generic subset of Open Images as a data set of its own: drawn from the official CSV files, or rebuilt from a list."""
from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import yaml
from PIL import Image

from clipnotes.data.images import SPLITS
from clipnotes.downloads.download import DownloadError, UnreachableError, download, mismatch, refusals
from clipnotes.downloads.open_images_draw import DETAILS, draw_candidates, image_numbers, reading, with_details
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write, lock
from clipnotes.progress import progress_bar
from clipnotes.text_files import read_csv

THREADS = 8
SHOWN = 5     # of the images that could not be had
GIVE_UP = 20  # addresses in a row without any answer: then it is the network, not the images
LIST = ["ImageID", "DisplayName", "Split", "URL", "SHA256", *DETAILS]


def build_subset(images_csv: str | Path, labels_csv: str | Path, classes_csv: str | Path, n_classes: int, per_class: int,
                 out: str | Path, seed: int = 1, exclude: Iterable[str] = (), report: Callable[[str], object] = print,
                 progress: bool = True) -> list[str]:
    """Draw n_classes classes and per_class training images of each, fetch them into the folder `out`; returns problems.

    For each class a tenth as many images, at least one, become the validation split. An image that cannot be had makes way
    for the next candidate of its class. exclude: data sets whose class names are left out. See `draw_candidates` for what
    is drawn and `write_subset` for what is written. A killed run goes on where it was: images that are there are kept.
    Problems are sentences; an empty list means that every class has all its images.
    """
    if n_classes < 1 or per_class < 1:
        raise ClipnotesError(f"{n_classes} classes of {per_class} images were asked for; both numbers must be 1 or more.")
    out, wanted = named_folder(out), per_class + max(1, per_class // 10)
    candidates = draw_candidates(images_csv, labels_csv, classes_csv, n_classes, wanted, seed, exclude, out.parent,
                                 report, progress)
    left_out = f", without the class names of {', '.join(exclude)}" if exclude else ""
    notes = f"{n_classes} classes with {per_class} training images each, drawn with seed {seed}{left_out}."
    with refusals(out), lock(out):
        got, failed = fetch_images(candidates, dict.fromkeys(candidates["DisplayName"], wanted), out, progress)
        if failed:
            some = "".join(f"\n    {sentence}" for sentence in failed[:SHOWN]) + ("\n    ..." if failed[SHOWN:] else "")
            report(f"{len(failed)} images could not be had, others of their class stand in where there are any:{some}")
        got["Split"] = ["train" if i < per_class else "val" for i in got.groupby("DisplayName").cumcount()]
        write_subset(got, out, notes, report)
    counts = Counter(got["DisplayName"])
    return [f"{name}: only {counts[name]} of {wanted} images can still be had"
            for name in dict.fromkeys(candidates["DisplayName"]) if counts[name] < wanted]


def rebuild_subset(list_csv: str | Path, out: str | Path, images_csv: str | Path | None = None,
                   report: Callable[[str], object] = print, progress: bool = True) -> list[str]:
    """Fetch exactly the images of a list into the folder `out`; returns problems: a sentence for each that cannot be had.

    list_csv: the `open_images.csv` of another subset, or any CSV with the columns ImageID and DisplayName (the class).
    Without a column URL, images_csv says where the images are; without Split, all are for training; with SHA256, images
    must be the same to the bit, those that are there already, too. ClipnotesError for a list with rows that lack an id or a
    class, or that names one image twice in different ways.
    """
    out = named_folder(out)
    with reading(list_csv):
        rows = read_csv(list_csv, dtype=str, usecols=lambda column: column in LIST)
    if missing := {"ImageID", "DisplayName"} - set(rows):
        raise ClipnotesError(f"{list_csv} has no column {' and no '.join(sorted(missing))}; a list of images needs both "
                             "ImageID and DisplayName.")
    if (empty := rows[["ImageID", "DisplayName"]].isna().any(axis=1)).any():
        raise ClipnotesError(f"{list_csv} has no ImageID or no DisplayName in {empty.sum()} rows, the first of which is row "
                             f"{empty.argmax() + 1}; fill them in or remove them.")
    image_numbers(rows["ImageID"])  # an error for ids that are none
    rows = rows.assign(ImageID=rows["ImageID"].str.lower()).drop_duplicates()
    if (twice := rows["ImageID"][rows["ImageID"].duplicated()]).size:
        raise ClipnotesError(f"{list_csv} names {len(twice)} images twice with different classes, splits or addresses, such as "
                             f"{twice.iloc[0]}; keep one row of each.")
    problems = []
    if "URL" not in rows:
        if images_csv is None:
            raise ClipnotesError(f"{list_csv} has no column URL; give Open Images' file of image addresses, too (images_csv).")
        found = with_details(rows, images_csv, progress)
        problems = [f"{name}: not in {images_csv}" for name in rows["ImageID"][~rows["ImageID"].isin(found["ImageID"])]]
        rows = found
    if "Split" not in rows:
        rows["Split"] = "train"
    if wrong := set(rows["Split"]) - set(SPLITS):
        raise ClipnotesError(f"{list_csv} has the split {sorted(map(str, wrong))[0]!r}; splits are {', '.join(SPLITS)}.")
    with refusals(out), lock(out):
        got, failed = fetch_images(rows, Counter(rows["DisplayName"]), out, progress)
        write_subset(got, out, f"Rebuilt from the list {Path(list_csv).name}.", report)
    return problems + failed


def named_folder(out: str | Path) -> Path:
    """The folder to make, absolute; its name becomes part of the manifest. ClipnotesError for the root of the file system."""
    folder = Path(os.path.abspath(out))
    if not folder.name:
        raise ClipnotesError(f"out = {folder} is no folder that can be made; name a new one below it.")
    return folder


def fetch_images(candidates: pd.DataFrame, wanted: dict[str, int], out: Path,
                 progress: bool = True) -> tuple[pd.DataFrame, list[str]]:
    """(rows of the images that are in `out` now, in order, with their SHA256; a sentence for each that could not be had).

    wanted: {class: number of images}. Of every class the first ones are tried, then as many further ones as have failed.
    """
    waiting = {name: rows.to_dict("records")[::-1] for name, rows in candidates.groupby("DisplayName", sort=False)}
    got, failed, silent = [], [], 0
    bar = progress_bar(total=sum(wanted.values()), desc="images", disable=not progress)
    with ThreadPoolExecutor(THREADS) as pool, bar:
        try:
            lacking = dict(wanted)
            while batch := [waiting[name].pop() for name, n in lacking.items() for _ in range(min(n, len(waiting[name])))]:
                for row, result in zip(batch, pool.map(lambda row: try_image(row, out), batch), strict=True):
                    silent = silent + 1 if isinstance(result, UnreachableError) else 0
                    if silent == GIVE_UP:
                        raise result
                    if isinstance(result, ClipnotesError):
                        failed.append(f"{row['ImageID']} ({row['DisplayName']}): {result}")
                        continue
                    got.append(row | {"SHA256": result})
                    lacking[row["DisplayName"]] -= 1
                    bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else leaving the block would wait for all that are queued
            raise
    if not got:
        raise DownloadError(f"None of {len(candidates)} images could be had; are the addresses right? {failed[0]}.")
    order = {image: i for i, image in enumerate(candidates["ImageID"])}
    return pd.DataFrame(sorted(got, key=lambda row: order[row["ImageID"]])), failed


def try_image(row: dict, out: Path) -> str | ClipnotesError:
    """The sha256 of a row's image, fetched if it is not there whole, or the error that kept it away."""
    path = out / "images" / image_path(row)
    expected = {"size": None, "sha256": row.get("SHA256"), "md5": None}
    expected = {kind: value if isinstance(value, str) else None for kind, value in expected.items()}  # not pandas' NaN
    try:
        with refusals(path):
            if path.is_file() and jpeg_problem(path):
                path.unlink()  # damaged since it was fetched
            if not path.is_file():
                fetched = download(row["URL"], path.with_suffix(".new"), **expected, attempts=3, progress=False)
                if problem := jpeg_problem(fetched):
                    fetched.unlink()
                    raise DownloadError(f"{row['URL']} is not a whole JPEG image ({problem}).")
                os.replace(fetched, path)
            elif problem := mismatch(path, expected):
                raise DownloadError(f"{path} {problem}; remove it, and it is fetched again.")
            return hashlib.sha256(path.read_bytes()).hexdigest()
    except ClipnotesError as error:
        return error


def image_path(row: dict) -> str:
    """CLASS/ID.jpg, with nothing in the class name that a file system may dislike, at most 100 characters of it."""
    return f"{re.sub(r'[^0-9A-Za-z-]+', '_', row['DisplayName'])[:100]}/{row['ImageID']}.jpg"


def jpeg_problem(path: Path) -> str | None:
    """Why a file is not a whole JPEG, None where it is: photo sites answer with a picture saying that one is gone."""
    try:
        with Image.open(path) as image:
            image.load()
            return None if image.format in ("JPEG", "MPO") else f"a {image.format} file"  # the latter holds several
    except Exception as error:  # Pillow raises anything for damaged files
        return str(error) or type(error).__name__


def write_subset(rows: pd.DataFrame, out: Path, notes: str, report: Callable[[str], object] = print) -> None:
    """Write what makes the images of `out` a data set, from the rows of its images.

    open_images.csv is the list to rebuild it from and names authors and licences; split_open_images.json is the split in
    CoOp's format; open_images.yaml, written last, is the manifest, for the folder above `out` as data root.
    """
    classes = list(dict.fromkeys(rows["DisplayName"]))
    split = {name: [[image_path(row), classes.index(row["DisplayName"]), row["DisplayName"]] for row in
                    rows[rows["Split"] == name].to_dict("records")] for name in SPLITS}
    with atomic_write(out / "open_images.csv") as file:
        rows.reindex(columns=LIST).to_csv(file, index=False)
    with atomic_write(out / "split_open_images.json") as file:
        json.dump(split, file, indent=0)
    folder = out.name
    manifest = {
        "name": "open_images",
        "title": f"Open Images, {len(classes)} classes",
        "task": "generic images for training adapters, one verified label each",
        "homepage": "https://storage.googleapis.com/openimages/web/index.html",
        "citation": "A. Kuznetsova et al. (2020), The Open Images Dataset V4, IJCV",
        "licence": "images CC BY 2.0, authors in open_images.csv; annotations CC BY 4.0",
        "obtain": "clipnotes data open-images --from open_images.csv --out DIR fetches the same images again.",
        "notes": notes,
        "source": {"kind": "split-file", "images": f"{folder}/images", "file": f"{folder}/split_open_images.json"},
        "counts": {name: len(images) for name, images in split.items()},
        "classes": classes,
        "templates": ["a photo of a {}."],
    }
    with atomic_write(out / "open_images.yaml") as file:
        yaml.safe_dump(manifest, file, sort_keys=False, allow_unicode=True, width=120)
    counts = ", ".join(f"{name} {len(images)}" for name, images in split.items() if images)
    report(f"{len(classes)} classes, {counts}: {out / 'open_images.yaml'} (data root {out.parent})")

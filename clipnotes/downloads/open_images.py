"""A generic subset of Open Images as a data set of its own: drawn from the official CSV files, or rebuilt from a list."""
from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import yaml
from PIL import Image
from tqdm.auto import tqdm

from clipnotes.data.manifests import SPLITS
from clipnotes.downloads.download import DownloadError, UnreachableError, download
from clipnotes.downloads.open_images_draw import DETAILS, draw_candidates, image_numbers, reading, with_details
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write, lock

THREADS = 8
SHOWN = 5     # of the images that could not be had
GIVE_UP = 20  # addresses in a row without any answer: then it is the network, not the images
LIST = ["ImageID", "DisplayName", "Split", "URL", "SHA256", *DETAILS]


def build_subset(images_csv, labels_csv, classes_csv, n_classes, per_class, out, seed=1, exclude=(), report=print,
                 progress=True):
    """Draw n_classes classes and per_class training images of each, fetch them into the folder `out`; returns problems.

    For each class a tenth as many images, at least one, become the validation split. An image that cannot be had makes way
    for the next candidate of its class. exclude: data sets whose class names are left out. See `draw_candidates` for what
    is drawn and `write_subset` for what is written. A killed run goes on where it was: images that are there are kept.
    Problems are sentences; an empty list means that every class has all its images.
    """
    if n_classes < 1 or per_class < 1:
        raise ClipnotesError(f"{n_classes} classes of {per_class} images were asked for; both numbers must be 1 or more")
    wanted = per_class + max(1, per_class // 10)
    candidates = draw_candidates(images_csv, labels_csv, classes_csv, n_classes, wanted, seed, exclude, Path(out).parent,
                                 report, progress)
    left_out = f", without the class names of {', '.join(exclude)}" if exclude else ""
    notes = f"{n_classes} classes with {per_class} training images each, drawn with seed {seed}{left_out}."
    with lock(Path(out)):
        got, failed = fetch_images(candidates, dict.fromkeys(candidates["DisplayName"], wanted), out, progress)
        if failed:
            some = "".join(f"\n    {sentence}" for sentence in failed[:SHOWN]) + ("\n    ..." if failed[SHOWN:] else "")
            report(f"{len(failed)} images could not be had, others of their class stand in where there are any:{some}")
        got["Split"] = ["train" if i < per_class else "val" for i in got.groupby("DisplayName").cumcount()]
        write_subset(got, out, notes, report)
    counts = Counter(got["DisplayName"])
    return [f"{name}: only {counts[name]} of {wanted} images can still be had"
            for name in dict.fromkeys(candidates["DisplayName"]) if counts[name] < wanted]


def rebuild_subset(list_csv, out, images_csv=None, report=print, progress=True):
    """Fetch exactly the images of a list into the folder `out`; returns problems: a sentence for each that cannot be had.

    list_csv: the `open_images.csv` of another subset, or any CSV with the columns ImageID and DisplayName (the class).
    Without a column URL, images_csv says where the images are; without Split, all are for training; with SHA256, images
    must be the same to the bit.
    """
    with reading(list_csv):
        rows = pd.read_csv(list_csv, dtype=str, usecols=lambda column: column in LIST)
    if missing := {"ImageID", "DisplayName"} - set(rows):
        raise ClipnotesError(f"{list_csv} has no column {' and no '.join(sorted(missing))}; a list of images needs both "
                             "ImageID and DisplayName")
    rows = rows.drop_duplicates("ImageID").dropna(subset=["ImageID", "DisplayName"])
    image_numbers(rows["ImageID"])  # an error for ids that are none
    problems = []
    if "URL" not in rows:
        if images_csv is None:
            raise ClipnotesError(f"{list_csv} has no column URL; give Open Images' file of image addresses, too (images_csv)")
        found = with_details(rows, images_csv, progress)
        problems = [f"{name}: not in {images_csv}" for name in rows["ImageID"][~rows["ImageID"].isin(found["ImageID"])]]
        rows = found
    if "Split" not in rows:
        rows["Split"] = "train"
    if wrong := set(rows["Split"]) - set(SPLITS):
        raise ClipnotesError(f"{list_csv} has the split {sorted(map(str, wrong))[0]!r}; splits are {', '.join(SPLITS)}")
    with lock(Path(out)):
        got, failed = fetch_images(rows, Counter(rows["DisplayName"]), out, progress)
        write_subset(got, out, f"Rebuilt from the list {Path(list_csv).name}.", report)
    return problems + failed


def fetch_images(candidates, wanted, out, progress=True):
    """(rows of the images that are in `out` now, in order, with their SHA256; a sentence for each that could not be had).

    wanted: {class: number of images}. Of every class the first ones are tried, then as many further ones as have failed.
    """
    waiting = {name: rows.to_dict("records")[::-1] for name, rows in candidates.groupby("DisplayName", sort=False)}
    got, failed, silent = [], [], 0
    with ThreadPoolExecutor(THREADS) as pool, tqdm(total=sum(wanted.values()), desc="images", disable=not progress) as bar:
        try:
            lacking = dict(wanted)
            while batch := [waiting[name].pop() for name, n in lacking.items() for _ in range(min(n, len(waiting[name])))]:
                for row, result in zip(batch, pool.map(lambda row: try_image(row, out), batch), strict=True):
                    silent = silent + 1 if isinstance(result, UnreachableError) else 0
                    if silent == GIVE_UP:
                        raise result
                    if isinstance(result, DownloadError):
                        failed.append(f"{row['ImageID']} ({row['DisplayName']}): {result}")
                        continue
                    got.append(row | {"SHA256": result})
                    lacking[row["DisplayName"]] -= 1
                    bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else leaving the block would wait for all that are queued
            raise
    if not got:
        raise DownloadError(f"none of {len(candidates)} images could be had; are the addresses right? {failed[0]}")
    order = {image: i for i, image in enumerate(candidates["ImageID"])}
    return pd.DataFrame(sorted(got, key=lambda row: order[row["ImageID"]])), failed


def try_image(row, out):
    """The sha256 of a row's image, fetched if it is not there, or the DownloadError that kept it away."""
    path = Path(out) / "images" / image_path(row)
    try:
        if not path.is_file():
            fetched = download(row["URL"], path.with_suffix(".new"), sha256=row.get("SHA256"), attempts=3, progress=False)
            check_jpeg(fetched, row["URL"])
            os.replace(fetched, path)
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except DownloadError as error:
        return error


def image_path(row):
    """CLASS/ID.jpg, with nothing in the class name that a file system may dislike."""
    return f"{re.sub(r'[^0-9A-Za-z-]+', '_', row['DisplayName'])}/{row['ImageID']}.jpg"


def check_jpeg(path, url):
    """DownloadError, and the file is gone, where it is not a whole JPEG: photo sites answer with a picture saying so."""
    try:
        with Image.open(path) as image:
            image.load()
            if image.format not in ("JPEG", "MPO"):  # the latter holds several
                raise ValueError(f"a {image.format} file")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        path.unlink()
        raise DownloadError(f"{url} is not a whole JPEG image ({error})") from error


def write_subset(rows, out, notes, report=print):
    """Write what makes the images of `out` a data set, from the rows of its images.

    open_images.csv is the list to rebuild it from and names authors and licences; split_open_images.json is the split in
    CoOp's format; open_images.yaml, written last, is the manifest, for the folder above `out` as data root.
    """
    out = Path(out)
    classes = list(dict.fromkeys(rows["DisplayName"]))
    split = {name: [[image_path(row), classes.index(row["DisplayName"]), row["DisplayName"]] for row in
                    rows[rows["Split"] == name].to_dict("records")] for name in SPLITS}
    with atomic_write(out / "open_images.csv") as file:
        rows.reindex(columns=LIST).to_csv(file, index=False)
    with atomic_write(out / "split_open_images.json") as file:
        json.dump(split, file, indent=0)
    folder = out.absolute().name
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
    report(f"{len(classes)} classes, {counts}: {out / 'open_images.yaml'} (data root {out.absolute().parent})")

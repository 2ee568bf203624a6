"""Whether a data set is whole on this machine, and how large it is."""
from __future__ import annotations

import itertools
import os
import warnings
from pathlib import Path

from clipnotes.data.images import SPLITS
from clipnotes.data.manifests import Manifest, load_manifest
from clipnotes.data.split_files import split_file_problems
from clipnotes.errors import ClipnotesError, in_words
from clipnotes.file_kinds import stand_in


def check_dataset(name: str, data_root: str | Path = "data") -> list[str]:
    """Problems of a data set on this machine, one sentence each; an empty list means that it is complete.

    Counts of images, classes and the split file are held against the manifest, and every image file is opened.
    """
    from clipnotes.backbone.pictures import open_image
    from clipnotes.data.tasks import load_task
    from clipnotes.progress import progress_bar

    manifest = load_manifest(name)  # a name that is unknown is no problem of the data
    problems = split_file_problems(manifest, data_root) if manifest.takes_split_file(data_root) else []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            task = load_task(name, data_root=data_root)
        problems += [doubt for each in caught if (doubt := str(each.message)).startswith("Image folder ")]
        for each in caught:
            if not str(each.message).startswith(("Image folder ", "Split file ")):  # those are among the problems
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    except ClipnotesError as error:
        return list(dict.fromkeys([*problems, str(error)]))
    except OSError as error:
        return [*problems, f"{name} cannot be read: {in_words(error)}"]
    for split in SPLITS:
        part = getattr(task, split)
        missing = set(range(len(task.classnames))) - set(part.labels.tolist())
        if len(part) and missing:
            some = ", ".join(task.classnames[c] for c in sorted(missing)[:5])
            problems.append(f"{split}: {len(missing)} classes without an image ({some}).")
        for image in progress_bar(part.images, desc=f"{task.name} {split}", leave=False, disable=None):
            try:
                open_image(image)
            except ClipnotesError as error:
                instead = stand_in(image) if os.path.isfile(image) and os.access(image, os.R_OK) else None
                problems.append(f"{split}: Image {image} is {instead}." if instead else f"{split}: {error}")
    return problems


def size_in_words(manifest: Manifest, data_root: str | Path, most: int = 20_000) -> str:
    """How large a data set is here, or how much there is to download; files are counted up to `most`, to be quick."""
    if manifest.built_in:
        return "nothing to download"
    folder = manifest.image_folder(data_root)
    if folder is None:
        if manifest.download_size >= 1e7:  # more than lists
            return f"{megabytes(manifest.download_size)} to download"
        return "to get by hand" if manifest.manual else "to download"
    files = (Path(path) / file for path, _, files in os.walk(folder) for file in files)
    sizes = [file.lstat().st_size for file in itertools.islice(files, most)]
    return f"{'at least ' if len(sizes) == most else ''}{megabytes(sum(sizes))} on disk"


def megabytes(n_bytes: float) -> str:
    """Bytes in MB, to a tenth below 10."""
    return f"{n_bytes / 1e6:,.{0 if n_bytes >= 1e7 else 1}f} MB"

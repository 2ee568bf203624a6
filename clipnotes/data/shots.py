"""Few-shot index files: which images a draw of K shots consists of, so that a published draw can be used again.

The form is that of the draws which linzhiqiu/cross_modal_adaptation publishes for CoOp's data sets:
{"train": [{"impath": ..., "label": ..., "classname": ...}, ...], "val": [...]}, each list perhaps inside {"data": [...]}.
"""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from clipnotes.data.tasks import Task
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write


def write_few_shot(path: str | Path, task: Task) -> None:
    """Write the training and validation images of a task as an index file; only where they are image files."""
    if isinstance(task.train.images, np.ndarray):
        raise ClipnotesError(f"{task.name} has its images in memory, not in files that an index could name; draw its shots "
                             "again from their seed.")
    content = {split: [{"impath": Path(image).as_posix(), "label": label, "classname": task.classnames[label]}
                       for image, label in zip(part.images, part.labels.tolist(), strict=True)]
               for split, part in (("train", task.train), ("val", task.val))}
    with atomic_write(path) as file:
        json.dump(content, file, indent=1)


def read_few_shot(path: str | Path) -> dict[str, list[tuple[str, int]]]:
    """{"train": [(image path, label), ...], "val": [...]} of an index file; ClipnotesError for a file of another form."""
    path = Path(path)
    if not path.is_file():
        raise ClipnotesError(f"Few-shot file {path} does not exist; check the path, or write one with write_few_shot.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        lists = {split: content.get(split, []) for split in ("train", "val")}
        lists = {split: rows["data"] if isinstance(rows, dict) else rows for split, rows in lists.items()}
        return {split: [(str(row["impath"]), int(row["label"])) for row in rows] for split, rows in lists.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClipnotesError(f"Few-shot file {path} cannot be read ({error!r}); it must hold lists train and val of "
                             "{impath, label, classname}.") from error


def use_few_shot(task: Task, path: str | Path) -> Task:
    """The task with the training images of an index file and, where it lists some, its validation images.

    task: the whole data set (shots=0), in the split that the draw was made from. Images are found by the end of their path,
    so the file may come from another machine. Raises ClipnotesError for images that are not in the training (validation)
    split and labels that differ from the data set's.
    """
    lists = read_few_shot(path)
    if not lists["train"]:
        raise ClipnotesError(f"Few-shot file {path} lists no training images; give one that does.")
    splits = {split: getattr(task, split).take(find_rows(task, split, images, path))
              for split, images in lists.items() if images}
    shots = int(splits["train"].labels.bincount().max())
    return replace(task, **splits, shots=shots, split_source=f"{task.split_source}; few-shot file {Path(path).name}")


def find_rows(task: Task, split: str, images: list[tuple[str, int]], path: str | Path) -> list[int]:
    """Rows of a split in the order of the (image path, label) of an index file."""
    part, known = getattr(task, split), {}  # known: last two parts of the path -> [(all parts, row), ...]
    for row, image in enumerate([] if isinstance(part.images, np.ndarray) else part.images):
        parts = PurePosixPath(Path(image).as_posix()).parts
        known.setdefault(parts[-2:], []).append((parts, row))
    rows = []
    for image, label in images:
        parts = PurePosixPath(image).parts
        if parts[-2:] not in known:
            raise ClipnotesError(f"Image {image} of few-shot file {path} is not in the {split} split of {task.name} "
                                 f"({task.split_source}); the draw belongs to another data set or was made from another split.")
        row = max(known[parts[-2:]], key=lambda place: common_end(place[0], parts))[1]  # noqa: B023
        true = int(part.labels[row])
        if label != true:
            raise ClipnotesError(f"Image {image} has label {label} in few-shot file {path}, but {true} "
                                 f"({task.classnames[true]}) in {task.name}; the file has another order of classes.")
        rows.append(row)
    return rows


def common_end(a: tuple, b: tuple) -> int:
    """How many parts two paths share at their ends."""
    return next((k for k, (x, y) in enumerate(zip(reversed(a), reversed(b), strict=False)) if x != y), min(len(a), len(b)))

"""Files that are one and the same under several paths, by symbolic or hard links: no image may be two images."""
from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from clipnotes.errors import ClipnotesError

Row = tuple[str, int]  # path relative to the image folder, label


def file_number(path: str | Path) -> tuple[int, int] | None:
    """What is equal for all paths of one file; None where there is no file, which reading it says."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return (state.st_dev, state.st_ino) if state.st_ino else None


def repeats(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (a path, the first one of the same file) for every path of a file that had another path before."""
    first = {}
    for path in paths:
        number = file_number(path)
        other = path if number is None else first.setdefault(number, path)
        if other != path and os.path.samefile(other, path):  # some file systems give a number twice
            yield path, other


def each_file_once(paths: list[str]) -> list[str]:
    """The paths without those of files that had a path before."""
    again = {path for path, _ in repeats(paths)}
    return [path for path in paths if path not in again]


def check_same_files(folder: Path, rows: dict[str, list[Row]], own: bool) -> None:
    """Hold the images of {split: rows} against each other.

    own: whether the folder is somebody's own. There, one file under two classes is a ClipnotesError; for published images,
    which may have such, a warning, and hard links are no matter, since archives are often kept with equal files as one. A
    warning where one file is in several splits.
    """
    place = {os.path.join(folder, path): (split, label) for split, part in rows.items() for path, label in part}
    pairs = [pair for pair in repeats(sorted(place)) if own or any(map(os.path.islink, pair))]
    mixed = [pair for pair in pairs if place[pair[0]][1] != place[pair[1]][1]]
    across = [pair for pair in pairs if place[pair[0]][0] != place[pair[1]][0]]
    if mixed:
        path, other = mixed[0]
        sentence = f"Image folder {folder} has one file under two classes, {other} and {path}; keep the one of the right class."
        if own:
            raise ClipnotesError(sentence)
        warnings.warn(sentence, stacklevel=1)
    if across:
        path, other = across[0]
        warnings.warn(f"Image folder {folder} has one file in several of train, val and test, such as {other} and {path} "
                      f"({len(across)} in all); accuracies are too high.", stacklevel=1)

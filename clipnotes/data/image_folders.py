"""Folders of images: which class folders there are and which images lie below them, each once."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from clipnotes.errors import ClipnotesError


def has_image_suffix(path: str) -> bool:
    return path.lower().endswith(IMG_EXTENSIONS)


def visible_folders(folder: str | Path) -> list[str]:
    """Names of the folders in a folder, also linked, but not hidden ones; ClipnotesError where it cannot be read."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise unreadable(error) from error


def class_images(root: str | Path, roots: Iterable[str | Path], classes: Iterable[str],
                 is_image: Callable[[str], bool] = has_image_suffix) -> list[list[tuple[str, str]]]:
    """For each of `roots`, the [(path, class), ...] of the images below its class folders, in the order of torchvision's
    ImageFolder. is_image: called with the path.

    Links are followed, but only to places that are not part of the data set already: `root`, the folder of all images, must
    hold every image once. Raises ClipnotesError where a link leads back and where a folder cannot be read.
    """
    root, classes = os.path.realpath(root), sorted(classes)
    seen = {root} | {os.path.realpath(each) for each in roots}

    def check(folder):
        real = os.path.realpath(folder)
        if real in seen or root.startswith(os.path.join(real, "")):
            raise ClipnotesError(f"Image folder {folder} is a link to {real}, whose images would count twice; remove the link.")
        seen.add(real)

    def images_below(folder):
        walked = []
        for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
            check(place)
            walked.append((place, folders, files))
        paths = (os.path.join(place, name) for place, _, files in sorted(walked) for name in sorted(files))
        return [path for path in paths if is_image(path)]

    return [[(path, name) for name in classes if os.path.isdir(os.path.join(each, name))
             for path in images_below(os.path.join(each, name))] for each in roots]


def refuse(error):
    raise unreadable(error) from error


def unreadable(error: OSError) -> ClipnotesError:
    return ClipnotesError(f"Image folder {error.filename} cannot be read ({error.strerror}); give yourself the right to "
                          "read it, or take it out of the data set.")

"""Folders of images: which class folders there are and which images lie below them, each once."""
from __future__ import annotations

import functools
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from clipnotes.errors import ClipnotesError

SYSTEM_NAMES = {"@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "__macosx", "$recycle.bin",
                "system volume information", "lost+found", "__pycache__", "thumbs.db", "desktop.ini"}
UNREAD = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}  # kinds that Pillow knows by name, but does not read by itself
TEXTS = {".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".log", ".ini", ".cfg", ".py",
         ".ipynb", ".sh", ".md5", ".sha256"}  # beside images, such as their boxes or licences
OWN_FILES = {"run.json", "sweep.json"}  # what a run or a sweep of ours leaves in its folder


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or made by a system for bins, thumbnails and the like."""
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


@functools.cache
def image_endings() -> frozenset[str]:
    """The endings, in lower case, of all kinds of pictures that Pillow reads."""
    from PIL import Image

    Image.init()
    readable = {*Image.OPEN, "MPO"} - UNREAD  # MPO is opened as JPEG
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in readable)


def is_image(path: str) -> bool:
    """Whether a file is an image by its ending or, where it has none, by its content."""
    ending = os.path.splitext(path)[1].lower()
    return ending in image_endings() if ending else opens(path)


def opens(path: str) -> bool:
    from PIL import Image

    try:
        with Image.open(path):
            return True
    except Exception:  # every kind of image has errors of its own
        return False


def visible_folders(folder: str | Path) -> list[str]:
    """Names of the folders in a folder, also linked, but not hidden ones.

    ClipnotesError where the folder cannot be read and for a name that is no UTF-8, since no table or prompt could hold it.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name))
    except OSError as error:
        raise unreadable(error) from error
    for name in names:
        check_utf8(name, f"Class folder in {folder}")
    return names


def check_utf8(name: str, what: str) -> None:
    """ClipnotesError for a path with bytes that are no UTF-8; what: begins the sentence."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ClipnotesError(f"{what} has the name {os.fsencode(name)!r}, which is no UTF-8; rename it.") from None


def class_images(root: str | Path, roots: Iterable[str | Path], classes: Iterable[str]) -> list[list[tuple[str, str]]]:
    """For each of `roots`, the [(path, class), ...] of the images below its class folders, in the order of torchvision's
    ImageFolder. Hidden files and folders and results of clipnotes are passed over; a warning says what else is left out.

    Links are followed, but only to places that are not part of the data set already: `root`, the folder of all images, must
    hold every image once. Raises ClipnotesError where a link leads back and where a folder cannot be read.
    """
    walk, classes = Walk(root, roots), sorted(classes)
    images = [[(path, name) for name in classes if os.path.isdir(os.path.join(each, name))
               for path in walk.images_below(os.path.join(each, name))] for each in roots]
    walk.warn()
    return images


class Walk:
    """A walk over the folders of a data set, each of which it enters once; it counts what it leaves out."""

    def __init__(self, root: str | Path, roots: Iterable[str | Path]) -> None:
        self.root, self.real_root = os.path.abspath(root), os.path.realpath(root)
        self.seen = {os.path.realpath(each): os.path.abspath(each) for each in (root, *roots)}  # {real folder: as it was met}
        self.results, self.taken, self.left_out = [], 0, Counter()  # left_out: files by ending

    def images_below(self, folder: str) -> list[str]:
        """The images below a class folder."""
        walked = []
        for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
            folders[:] = [] if self.are_results(place, folders, files) else [name for name in folders if not is_hidden(name)]
            if place not in self.results:
                self.check(place)
                walked.append((place, [name for name in files if not is_hidden(name)]))
        images = []
        for path in (os.path.join(place, name) for place, files in sorted(walked) for name in sorted(files)):
            if is_image(path):
                images.append(path)
            elif (ending := os.path.splitext(path)[1].lower()) not in TEXTS:
                self.left_out[ending] += 1
        self.taken += len(images)
        return images

    def are_results(self, place: str, folders: list[str], files: list[str]) -> bool:
        """Whether a folder is what a run, a sweep or a study of ours left there; it is kept in mind."""
        study = "index.html" in files and any(os.path.isfile(os.path.join(place, name, "run.json")) for name in folders)
        if study or OWN_FILES & set(files):
            self.results.append(place)
            return True
        return False

    def check(self, folder: str) -> None:
        """ClipnotesError where a folder was entered before or leads back to where the walk began."""
        real = os.path.realpath(folder)
        if real in self.seen or self.real_root.startswith(os.path.join(real, "")):
            link = folder if self.is_linked(folder) else self.seen[real]
            raise ClipnotesError(f"Image folder {link} is a link to {real}, whose images would count twice; remove the link.")
        self.seen[real] = folder

    def is_linked(self, folder: str) -> bool:
        return os.path.realpath(folder) != os.path.join(self.real_root, os.path.relpath(folder, self.root))

    def warn(self) -> None:
        """Say what was left out, if anything."""
        doubts = []
        if self.left_out:
            n, kinds = self.left_out.total(), self.left_out.most_common(8)
            some = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in kinds)
            doubts.append(f"{n} of {n + self.taken} files in its class folders are left out, since Pillow does not read them: "
                          f"{some}{' ...' * (len(self.left_out) > 8)}; convert those that are pictures.")
        if self.results:
            some = ", ".join(os.path.relpath(place, self.root) for place in self.results[:3])
            doubts.append(f"results of clipnotes in it are left out ({some}{' ...' * (len(self.results) > 3)}); write them to "
                          "another place with --out.")
        for doubt in doubts:
            warnings.warn(f"Image folder {self.root}: {doubt}", stacklevel=1)  # one place, so that it is shown once


def refuse(error: OSError) -> None:
    raise unreadable(error) from error


def unreadable(error: OSError) -> ClipnotesError:
    return ClipnotesError(f"Image folder {error.filename} cannot be read ({error.strerror}); give yourself the right to "
                          "read it, or take it out of the data set.")

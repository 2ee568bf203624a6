"""Every kind of source of a manifest: one function (manifest, data root) -> ({split: Split}, class names).

Class names are None where the manifest itself names the classes.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clipnotes.data import lists
from clipnotes.data.built_in import digits, pocket
from clipnotes.data.cifar import cifar
from clipnotes.data.folders import own_folder
from clipnotes.data.images import Split, splits_of_files
from clipnotes.data.manifests import Manifest
from clipnotes.data.split_files import read_split_file
from clipnotes.data.split_rules import divide
from clipnotes.errors import ClipnotesError, shown

Source = Callable[[Manifest, str | Path], tuple[dict[str, Split], list[str] | None]]


def split_file(manifest: Manifest, data_root: str | Path) -> tuple[dict[str, Split], list[str]]:
    """The image files of a published split file in CoOp's format."""
    rows, names = read_split_file(manifest, data_root)
    return splits_of_files(manifest, found_folder(manifest, data_root), rows), names


def listed(read: lists.Reader) -> Source:
    """The source of a data set whose own folders or lists are read by `read`: its split file's where there is one,
    else the splits that the rule of its manifest makes of the lists."""
    def source(manifest, data_root):
        if manifest.takes_split_file(data_root):
            return split_file(manifest, data_root)
        folder = found_folder(manifest, data_root)
        listing = checked_listing(read, manifest, folder, data_root)
        rows = divide(listing.parts, manifest.source.get("split"))
        names = None if manifest.classnames() else manifest.repaired(listing.classnames)
        return splits_of_files(manifest, folder, rows), names

    return source


def found_folder(manifest: Manifest, data_root: str | Path) -> Path:
    """The image folder; ClipnotesError where it is missing."""
    folder = manifest.image_folder(data_root)
    if folder is None:
        raise ClipnotesError(f"Images of data set {manifest.name} are missing: there is no folder "
                             f"{' or '.join(map(str, manifest.folders('images', data_root)))} with its content; "
                             f"{manifest.remedy}.")
    return folder


def checked_listing(read: lists.Reader, manifest: Manifest, folder: Path, data_root: str | Path) -> lists.Listing:
    """The `Listing` of a data set; ClipnotesError where its lists or some of its classes are not there."""
    try:
        listing = read(manifest, folder, data_root)
    except ClipnotesError:
        raise
    except (OSError, RuntimeError, ValueError, LookupError) as error:  # of torchvision, scipy and our own readers
        either = f"put its split file {Path(manifest.source['file']).name} there, or " if "file" in manifest.source else ""
        raise ClipnotesError(f"The lists of data set {manifest.name} that belong to {folder} are missing or damaged "
                             f"({error}); {either}get it again: {manifest.remedy}.") from error
    found = listing.classnames
    if found is not None and len(found) != manifest.n_classes:
        raise ClipnotesError(f"{folder} has {len(found)} classes, but the manifest of {manifest.name} says "
                             f"{manifest.n_classes}; the copy is incomplete or another version, get it again.")
    named = manifest.classnames()
    if swapped := named_otherwise(found or [], named or []):
        raise ClipnotesError(f"The manifest of {manifest.name} names class {swapped[0]} {named[swapped[0]]!r}, but its folder "
                             f"or list says {found[swapped[0]]!r}: give the classes in the order of {shown(found)}.")
    return listing


def named_otherwise(found: list[str], named: list[str]) -> list[int]:
    """Labels whose class bears in the files the name that the manifest gives another class."""
    plain = [name.replace("_", " ").casefold() for name in named]
    own = [name.replace("_", " ").casefold() for name in found]
    return [label for label, (one, other) in enumerate(zip(own, plain, strict=False)) if one != other and one in plain]


SOURCES: dict[str, Source] = {
    "pocket": pocket,
    "sklearn-digits": digits,
    "cifar": cifar,
    "folder": own_folder,
    "split-file": split_file,
    "class-folders": listed(lists.class_folders),
    "torchvision": listed(lists.torchvision_class),
    "fgvc-aircraft": listed(lists.fgvc_aircraft),
    "ucf101": listed(lists.ucf101),
    "sun397": listed(lists.sun397),
    "cub200": listed(lists.cub200),
    "stanford-dogs": listed(lists.stanford_dogs),
}

"""A folder of one's own images as a data set, `folder:PATH`: every class a folder, no manifest to write."""
from __future__ import annotations

import hashlib
import itertools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipnotes.data.image_folders import check_utf8, class_images, is_hidden, is_image, visible_folders
from clipnotes.data.images import SPLITS, Split, splits_of_files
from clipnotes.data.same_files import each_file_once
from clipnotes.errors import ClipnotesError
from clipnotes.yaml_files import read_yaml

TEMPLATE = "a photo of a {}."
NAMES_FILES = ("classes.yaml", "classes.yml")
SPLIT_WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def folder_manifest(folder: Path) -> dict[str, Any]:
    """The fields of the Manifest of a folder of images, without looking at the images: see `own_folder`."""
    if folder == folder.parent:
        raise ClipnotesError(f"Image folder {folder} is the root of a file system; give folder:PATH of a folder that holds one "
                             "folder of images a class.")
    check_utf8(str(folder), "Image folder")
    if not folder.is_dir():
        raise ClipnotesError(f"Image folder {folder} {'is a file' if folder.exists() else 'does not exist'}; give folder:PATH "
                             "of a folder that holds one folder of images a class.")
    names, templates = read_names(names_file(folder))
    parts = split_folders(folder)
    words = "folders {}, {} and {}".format(*parts.values()) if parts else "50/20/30 % of every class, by a hash of the names"
    return {"name": folder.name, "title": folder.name, "task": "images of your own", "licence": "your own",
            "classes": {"count": "any", "source": "the names of its folders"}, "templates": templates,
            "counts": dict.fromkeys(SPLITS, "any"), "path": folder,
            "source": {"kind": "folder", "images": str(folder), "names": names, "folders": parts, "words": words}}


def own_folder(manifest: Any, data_root: str | Path) -> tuple[dict[str, Split], list[str]]:
    """({split: Split}, class names) of the images of one's own.

    PATH/CLASS/... holds the images of a class, of which each split gets a share (see `shares`), chosen by a hash of their
    names; or PATH/train/CLASS/..., PATH/val/CLASS/... and PATH/test/CLASS/..., taken as they are (see `split_folders`). Every
    split needs an image of every class: classes that are too small for it are left out, with a warning. PATH/classes.yaml may
    give names, {folder: class name}, and templates. Raises ClipnotesError where there are no images, no two classes that can
    be used, a folder that cannot be read, a link that leads back, one file under two classes, a classes.yaml that does not
    fit.
    """
    folder, names, parts = Path(manifest.source["images"]), manifest.source["names"], manifest.source["folders"]
    images = images_of(folder, parts) if parts else shared_out(images_of(folder, {".": "."})["."])
    everywhere = sorted({c for part in images.values() for c in part})
    classes = usable_classes(folder, images, everywhere)
    if strange := [c for c in names if c not in everywhere]:
        raise bad_names(names_file(folder), f"names {strange[0]!r}, but there is no such class folder (there are "
                                             f"{', '.join(everywhere[:10])})")
    titles = [names.get(c, c.replace("_", " ")) for c in classes]
    if twice := sorted({title for title in titles if titles.count(title) > 1}):
        raise ClipnotesError(f"Image folder {folder} has several classes named {twice[0]!r}; rename one in {NAMES_FILES[0]}: "
                             "names: {folder: class name}.")
    rows = {split: [(path, label) for label, c in enumerate(classes) for path in images[split][c]] for split in SPLITS}
    return splits_of_files(manifest, folder, rows), titles


def split_folders(folder: Path) -> dict[str, str]:
    """{split: name of its folder} where the folder holds train, val and test, named in any of SPLIT_WORDS; else {}.

    ClipnotesError where it has some of them, but not all, or two for one split.
    """
    here = {split: [name for name in visible_folders(folder) if name.lower() in words and holds_folders_only(folder / name)]
            for split, words in SPLIT_WORDS.items()}
    found = [name for names in here.values() for name in names]
    if found and (missing := [split for split, names in here.items() if not names]):
        raise ClipnotesError(f"Image folder {folder} has {' and '.join(found)} with class folders inside, but no "
                             f"{', '.join(missing)}; give all of train, val and test, or put the class folders into the folder "
                             "itself.")
    for split, names in here.items():
        if len(names) > 1:
            raise ClipnotesError(f"Image folder {folder} has {' and '.join(names)}, which all mean {split}; keep one of them.")
    return {split: here[split][0] for split in SPLITS} if found else {}


def holds_folders_only(folder: Path) -> bool:
    """Whether a folder has folders and no image directly inside: a split, not a class that happens to be named `train`."""
    files = (entry.path for entry in os.scandir(folder) if entry.is_file() and not is_hidden(entry.name))
    return bool(visible_folders(folder)) and not any(map(is_image, files))


def images_of(folder: Path, parts: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """{part: {class folder: [paths relative to `folder`, in order]}} of all images below the class folders of its parts,
    {part: folder}."""
    roots = {part: os.path.normpath(folder / name) for part, name in parts.items()}
    classes = {part: visible_folders(root) for part, root in roots.items()}
    for part, root in roots.items():
        if not classes[part]:
            raise ClipnotesError(f"Image folder {root} has no class folders; put the images of every class into a folder "
                                 f"of its own, such as {os.path.join(root, 'cat', '1.jpg')}.")
    start, images = len(f"{folder}/"), {}
    found = class_images(folder, roots.values(), set().union(*classes.values()))
    for (part, root), pairs in zip(roots.items(), found, strict=True):
        if not pairs:
            raise ClipnotesError(f"Image folder {root} holds no image in its {len(classes[part])} class folders "
                                 f"({', '.join(classes[part][:3])} ...); give images of a kind that Pillow reads, such as .jpg "
                                 "or .png.")
        found_in = {c: [path for path, _ in group] for c, group in itertools.groupby(pairs, lambda pair: pair[1])}
        images[part] = {c: [path[start:] for path in each_file_once(found_in.get(c, []))] for c in classes[part]}
    return images


def shared_out(images: dict[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """{split: {class folder: paths}} of the {class folder: paths} of one folder, the same on every machine.

    Images are put in the order of a hash of their names, so that few change their split when others are added.
    """
    split = {split: {} for split in SPLITS}
    for c, paths in images.items():
        order = sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path)).digest())
        first = 0
        for name, n in zip(SPLITS, shares(len(paths)), strict=True):
            split[name][c] = sorted(order[first:first + n])
            first += n
    return split


def shares(n: int) -> tuple[int, int, int]:
    """Images of a class for train, val and test: 50, 20 and 30 %, rounded, at least one each; none of fewer than three."""
    if n < len(SPLITS):
        return 0, 0, 0
    val, test = max(1, round(0.2 * n)), max(1, round(0.3 * n))
    return n - val - test, val, test


def usable_classes(folder: Path, images: dict, everywhere: list[str]) -> list[str]:
    """Class folders with an image in every split; others are named in a warning. ClipnotesError for fewer than two."""
    usable = [c for c in everywhere if all(images[split].get(c) for split in SPLITS)]
    left_out = [c for c in everywhere if c not in usable]
    reason = (f"{', '.join(left_out[:10])}{' ...' if len(left_out) > 10 else ''}; each of train, val and test needs an image "
              "of every class, three in all")
    if len(usable) < 2:
        only = f"one class ({usable[0]})" if usable else "no class"
        small = f"; too small are {reason}" if left_out else ""
        raise ClipnotesError(f"Image folder {folder} has {only} that can be used, but two or more are needed{small}.")
    if left_out:
        warnings.warn(f"Image folder {folder.name}: {len(left_out)} of {len(everywhere)} classes are left out: {reason}.",
                      stacklevel=1)  # one place, so that it is shown once
    return usable


def names_file(folder: Path) -> Path:
    """The classes.yaml of a folder, which may be named classes.yml; ClipnotesError where it has both."""
    here = [folder / name for name in NAMES_FILES if (folder / name).is_file()]
    if len(here) > 1:
        raise ClipnotesError(f"Image folder {folder} has {' and '.join(NAMES_FILES)}; keep one of them.")
    return here[0] if here else folder / NAMES_FILES[0]


def read_names(path: Path) -> tuple[dict[str, str], list[str]]:
    """({class folder: name}, templates) of a classes.yaml, ({}, [the usual one]) where there is none; all it holds is text."""
    content = read_yaml(path, str(path), texts=True) or {} if path.is_file() else {}
    if not isinstance(content, dict) or not set(content) <= {"names", "templates"}:
        raise bad_names(path, f"holds {', '.join(map(str, content)) if isinstance(content, dict) else type(content).__name__}")
    names, templates = content.get("names") or {}, content.get("templates") or [TEMPLATE]
    if not isinstance(names, dict) or not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise bad_names(path, "has names that are blank or no texts")
    if not isinstance(templates, list) or not all(isinstance(text, str) and "{}" in text for text in templates):
        raise bad_names(path, "has a template without a {} for the class name")
    return names, templates


def bad_names(path: Path, problem: str) -> ClipnotesError:
    return ClipnotesError(f"{path} {problem}; it may hold names: {{folder: class name}} and templates: [\"{TEMPLATE}\"].")

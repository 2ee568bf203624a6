"""A folder of one's own images as a data set, `folder:PATH`: every class a folder, no manifest to write."""
from __future__ import annotations

import hashlib
import os
import warnings

import yaml
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from clipnotes.data.manifests import SPLITS, Manifest
from clipnotes.errors import ClipnotesError
from clipnotes.folder_names import folder_of

TEMPLATE = "a photo of a {}."
NAMES_FILE = "classes.yaml"


def read_folder(name):
    """The Manifest of the images in `folder:PATH`; source["rows"] lists them, {split: [(relative path, label), ...]}, and
    source["words"] say which split it is.

    PATH/CLASS/... holds the images of a class, of which each split gets a share (see `shares`), chosen by a hash of their
    names; or PATH/train/CLASS/..., PATH/val/CLASS/... and PATH/test/CLASS/..., taken as they are. Every split needs an image
    of every class: classes that are too small for it are left out, with a warning. PATH/classes.yaml may give names,
    {folder: class name}, and templates. Raises ClipnotesError where there are no images, no two classes that can be used, or
    a classes.yaml that does not fit.
    """
    folder = folder_of(name)
    if not folder.is_dir():
        raise ClipnotesError(f"image folder {folder} {'is a file' if folder.exists() else 'does not exist'}; give folder:PATH "
                             "of a folder that holds one folder of images a class")
    parts = split_folders(folder)
    images = {split: class_images(folder, split) for split in SPLITS} if parts else shared_out(class_images(folder))
    classes = usable_classes(folder, images)
    names, templates = read_names(folder / NAMES_FILE, sorted({c for part in images.values() for c in part}))
    titles = [names.get(c, c.replace("_", " ")) for c in classes]
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice:
        raise ClipnotesError(f"image folder {folder} has several classes named {twice[0]!r}; rename one in {NAMES_FILE}: "
                             "names: {folder: class name}")
    rows = {split: [(path, label) for label, c in enumerate(classes) for path in images[split][c]] for split in SPLITS}
    words = "folders train, val and test" if parts else "50/20/30 % of every class, by a hash of the names"
    return Manifest(name=folder.name, title=folder.name, task="images of your own", licence="your own", classes=titles,
                    templates=templates, counts={split: len(rows[split]) for split in SPLITS}, path=folder,
                    source={"kind": "folder", "images": str(folder), "rows": rows, "words": words})


def split_folders(folder):
    """Whether the folder holds train, val and test; ClipnotesError where it has some of them, but not all."""
    here = [split for split in SPLITS if holds_folders_only(folder / split)]
    if here and len(here) < len(SPLITS):
        missing = ", ".join(split for split in SPLITS if split not in here)
        raise ClipnotesError(f"image folder {folder} has {' and '.join(here)} with class folders inside, but no {missing}; "
                             "give all of train, val and test, or put the class folders into the folder itself")
    return bool(here)


def holds_folders_only(folder):
    """Whether a folder has folders and no image directly inside: a split, not a class that happens to be named `train`."""
    return folder.is_dir() and bool(visible_folders(folder)) and not any(map(is_image, os.listdir(folder)))


def visible_folders(folder):
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def is_image(path):
    return path.lower().endswith(IMG_EXTENSIONS) and "/." not in f"/{path}"  # nothing hidden, such as ._cat.jpg


def class_images(folder, split="."):
    """{class folder: [paths relative to `folder`, in order]} of all images below the class folders of a split."""
    root = os.path.normpath(folder / split)
    classes = visible_folders(root)
    if not classes:
        raise ClipnotesError(f"image folder {root} has no class folders; put the images of every class into a folder "
                             f"of its own, such as {os.path.join(root, 'cat', '1.jpg')}")
    images = {c: [] for c in classes}
    start = len(f"{folder}/")
    for path, c in make_dataset(root, {c: c for c in classes}, is_valid_file=lambda p: is_image(p[start:]), allow_empty=True):
        images[c].append(path[start:])
    if not any(images.values()):
        raise ClipnotesError(f"image folder {root} holds no image in its {len(classes)} class folders "
                             f"({', '.join(classes[:3])} ...); images end in {', '.join(IMG_EXTENSIONS)}")
    return images


def shared_out(images):
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


def shares(n):
    """Images of a class for train, val and test: 50, 20 and 30 %, rounded, at least one each; none of fewer than three."""
    if n < len(SPLITS):
        return 0, 0, 0
    val, test = max(1, round(0.2 * n)), max(1, round(0.3 * n))
    return n - val - test, val, test


def usable_classes(folder, images):
    """Class folders with an image in every split; others are named in a warning. ClipnotesError for fewer than two."""
    everywhere = sorted({c for part in images.values() for c in part})
    usable = [c for c in everywhere if all(images[split].get(c) for split in SPLITS)]
    left_out = [c for c in everywhere if c not in usable]
    reason = (f"{', '.join(left_out[:10])}{' ...' if len(left_out) > 10 else ''}; each of train, val and test needs an image "
              "of every class, three in all")
    if len(usable) < 2:
        only = f"one class ({usable[0]})" if usable else "no class"
        raise ClipnotesError(f"image folder {folder} has {only} that can be used, but two or more are needed"
                             + f"; too small are {reason}" * bool(left_out))
    if left_out:
        warnings.warn(f"image folder {folder.name}: {len(left_out)} of {len(everywhere)} classes are left out: {reason}",
                      stacklevel=1)  # one place, so that it is shown once
    return usable


def read_names(path, classes):
    """({class folder: name}, templates) of a classes.yaml, ({}, [the usual one]) where there is none."""
    def fail(problem):
        raise ClipnotesError(f"{path} {problem}; it may hold names: {{folder: class name}} and templates: [\"{TEMPLATE}\"]")

    if not path.is_file():
        return {}, [TEMPLATE]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fail(f"is not valid YAML ({' '.join(str(error).split())[:200]})")
    if not isinstance(content, dict) or not set(content) <= {"names", "templates"}:
        fail(f"holds {', '.join(map(str, content)) if isinstance(content, dict) else type(content).__name__}")
    names, templates = content.get("names") or {}, content.get("templates") or [TEMPLATE]
    if not isinstance(names, dict) or not all(isinstance(name, str) and name.strip() for name in names.values()):
        fail("has names that are no texts (quote names such as \"yes\" or \"1\")")
    strange = [c for c in names if c not in classes]
    if strange:
        fail(f"names {strange[0]!r}, but there is no such class folder (there are {', '.join(classes[:10])})")
    if not isinstance(templates, list) or not all(isinstance(text, str) and "{}" in text for text in templates):
        fail("has a template without a {} for the class name")
    return names, templates

"""Where the images and labels of a data set come from: one small reader for every kind of source.

A reader of image files gets (manifest, image folder, data root) and returns a `Listing`: what the data set's own folders or
lists say, from which `splits.py` makes training, validation and test split where no split file is at hand.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipnotes.errors import ClipnotesError


@dataclass
class Listing:
    """{part: [(path relative to the image folder, label), ...]} and the names of the classes where the files say them.

    Parts are "train", "val" and "test" where the data set has such lists, else "all".
    """
    parts: dict
    classnames: list | None = None


@dataclass(frozen=True)
class Source:
    """The fields that a kind of source needs in a manifest, and its reader: None where the images are no files."""
    fields: tuple
    read: Callable | None = None


def image_folder(manifest, data_root):
    """The folder that image paths are relative to, or None: the first of the manifest's with the folders that it `holds`."""
    folders, holds = folders_of(manifest, "images", data_root), manifest.source.get("holds", ["."])
    return next((folder for folder in folders if all((folder / name).is_dir() for name in holds)), None)


def list_folder(manifest, file, data_root):
    """The first of the manifest's folders of lists that holds a file, else the first of all."""
    folders = folders_of(manifest, "lists", data_root)
    return next((path for path in folders if (path / file).is_file()), folders[0])


def folders_of(manifest, field, data_root):
    """The folders that may be meant by a field of the manifest's source, which names one or several."""
    return [Path(data_root) / folder for folder in as_list(manifest.source[field])]


def as_list(value):
    return [value] if isinstance(value, str) else value


# --- readers ------------------------------------------------------------------------------------------------------


def class_folders(manifest, folder, data_root):
    """One folder of images a class, as torchvision's ImageFolder has them, labels in the order of the folder names.

    `folders`: {part: folder that holds the class folders, or a list of such}, by default {all: "."}; `skip`: names that are
    no classes; `order: number` sorts by number. Where the manifest names synsets, the folders must be just those.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    source = manifest.source
    parts = {part: [folder / name for name in as_list(names)] for part, names in source.get("folders", {"all": "."}).items()}
    roots = [root for part in parts.values() for root in part]
    names = {path.name for root in roots for path in root.iterdir() if path.is_dir()} - set(source.get("skip", []))
    names = sorted(names, key=int if source.get("order") == "number" else None)
    wanted = manifest.synsets()
    if wanted and set(wanted) != set(names):
        odd = sorted(set(wanted) ^ set(names))
        raise ClipnotesError(f"{folder} has other class folders than {manifest.name}'s {len(wanted)}: {len(odd)} are missing "
                             f"or foreign ({', '.join(odd[:5])}); the copy is incomplete or another version, get it again")
    order = {name: row for row, name in enumerate(names)}
    start = len(str(folder)) + 1  # quicker than relative_to, for ImageNet's 1.3 million
    return Listing({part: [(path[start:], label) for root in roots
                           for path, label in make_dataset(root, order, IMG_EXTENSIONS, allow_empty=True)]
                    for part, roots in parts.items()}, names)


def torchvision_class(manifest, folder, data_root):
    """A class of torchvision.datasets, which knows where its files are: `class`, `root`, `parts` {part: split names}."""
    from torchvision import datasets

    source = manifest.source
    parts, classnames = {}, None
    for part, splits in source["parts"].items():
        parts[part] = []
        for split in as_list(splits):
            dataset = getattr(datasets, source["class"])(Path(data_root) / source["root"], split=split)
            classnames = getattr(dataset, "classes", None)
            rows = getattr(dataset, "_samples", None)  # none of these classes has a public list of its files
            rows = rows or zip(getattr(dataset, "_images", None) or dataset._image_files, dataset._labels, strict=True)
            parts[part] += [(str(Path(path).relative_to(folder)), int(label)) for path, label in rows]
    return Listing(parts, classnames)


def fgvc_aircraft(manifest, folder, data_root):
    """variants.txt and images_variant_{train,val,test}.txt, lines of "image variant", beside the image folder."""
    names = read_lines(folder.parent / "variants.txt")
    parts = {}
    for part in ("train", "val", "test"):
        rows = [line.split(" ", 1) for line in read_lines(folder.parent / f"images_variant_{part}.txt")]
        parts[part] = [(f"{image}.jpg", names.index(variant)) for image, variant in rows]
    return Listing(parts, names)


def ucf101(manifest, folder, data_root):
    """Middle frames of the videos in trainlist01.txt and testlist01.txt, labels of classInd.txt, all in the folder `lists`."""
    lists = list_folder(manifest, "classInd.txt", data_root)
    names = [line.split()[1] for line in read_lines(lists / "classInd.txt")]
    parts = {}
    for part in ("train", "test"):
        videos = [line.split()[0].split("/") for line in read_lines(lists / f"{part}list01.txt")]
        parts[part] = [(f"{REPAIRS['capitals'](action).replace(' ', '_')}/{Path(video).stem}.jpg", names.index(action))
                       for action, video in videos]
    return Listing(parts, names)


def sun397(manifest, folder, data_root):
    """ClassName.txt, Training_01.txt and Testing_01.txt, with lines of "/letter/scene/image.jpg", in the folder `lists`."""
    lists = list_folder(manifest, "Training_01.txt", data_root)
    names = read_lines(lists / "ClassName.txt")
    label = {name: row for row, name in enumerate(names)}
    return Listing({part: [(line[1:], label[line.rsplit("/", 1)[0]]) for line in read_lines(lists / f"{file}_01.txt")]
                    for part, file in (("train", "Training"), ("test", "Testing"))}, names)


def cub200(manifest, folder, data_root):
    """images.txt, image_class_labels.txt, train_test_split.txt and classes.txt, lines of "number value", beside the images."""
    paths, labels, train, names = ([line.split()[1] for line in read_lines(folder.parent / f"{file}.txt")]
                                   for file in ("images", "image_class_labels", "train_test_split", "classes"))
    parts = {"train": [], "test": []}
    for path, label, in_train in zip(paths, labels, train, strict=True):
        parts["train" if in_train == "1" else "test"].append((path, int(label) - 1))
    return Listing(parts, names)


def stanford_dogs(manifest, folder, data_root):
    """train_list.mat and test_list.mat in the folder `lists`: arrays `file_list` of "folder/image.jpg" and `labels` from 1."""
    from scipy.io import loadmat

    lists, parts, names = list_folder(manifest, "train_list.mat", data_root), {}, {}
    for part in ("train", "test"):
        content = loadmat(lists / f"{part}_list.mat", squeeze_me=True)
        parts[part] = [(str(path), int(label) - 1) for path, label in zip(content["file_list"], content["labels"], strict=True)]
        names |= {label: path.split("/")[0] for path, label in parts[part]}
    return Listing(parts, [names[label] for label in sorted(names)])


def own_folder(manifest, folder, data_root):
    """Images of one's own, which `folders.py` has listed already."""
    return Listing(manifest.source["rows"])


def read_lines(path):
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


# --- class names --------------------------------------------------------------------------------------------------


def capitals(name):
    """"ApplyEyeMakeup" -> "Apply Eye Makeup"."""
    return "".join(f" {c}" if c.isupper() and i and name[i - 1].islower() else c for i, c in enumerate(name))


def year_first(name):
    """"Audi TTS Coupe 2012" -> "2012 Audi TTS Coupe"."""
    rest, _, last = name.rpartition(" ")
    return f"{last} {rest}" if len(last) == 4 and last[:2] in ("19", "20") and last.isdigit() else name


def path_reversed(name):
    """"/b/bakery/shop" -> "shop bakery": without the folder of the first letter, the narrower word first."""
    parts = name.strip("/").split("/")
    return " ".join(reversed(parts[1:] if len(parts) > 1 and len(parts[0]) == 1 else parts))


def number_off(name):
    """"001.Black_footed_Albatross" -> "Black_footed_Albatross", "n02085620-Chihuahua" -> "Chihuahua"."""
    for mark in ".-":
        number, found, rest = name.partition(mark)
        if found and number.lstrip("n").isdigit():
            return rest
    return name


def mark_off(name):
    """"pink-yellow dahlia?" -> "pink-yellow dahlia"."""
    return name.rstrip("?")


REPAIRS = {"capitals": capitals, "year-first": year_first, "path-reversed": path_reversed, "number-off": number_off,
           "mark-off": mark_off}

BUILT_IN = ("pocket", "sklearn-digits")
SOURCES = {
    "pocket": Source(()),                                     # drawn by clipnotes.pocket.datasets
    "sklearn-digits": Source(()),                             # scikit-learn's handwritten digits
    "split-file": Source(("images", "file")),                 # nothing but a split file in CoOp's format
    "class-folders": Source(("images",), class_folders),
    "torchvision": Source(("images", "class", "root", "parts"), torchvision_class),
    "fgvc-aircraft": Source(("images",), fgvc_aircraft),
    "ucf101": Source(("images", "lists"), ucf101),
    "sun397": Source(("images", "lists"), sun397),
    "cub200": Source(("images",), cub200),
    "stanford-dogs": Source(("images", "lists"), stanford_dogs),
    "cifar": Source(("images", "files", "label_bytes", "names", "val")),   # see cifar.py
    "folder": Source(("images", "rows"), own_folder),         # see folders.py
}

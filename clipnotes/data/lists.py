"""What the own folders and lists of data sets say about their images: one small reader for every kind of list.

A reader gets (manifest, image folder, data root) and returns a `Listing`, from which `split_rules.py` makes training,
validation and test split where no split file is at hand.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipnotes.data.class_names import capitals
from clipnotes.data.image_folders import class_images, visible_folders
from clipnotes.data.manifests import Manifest, as_list
from clipnotes.errors import ClipnotesError


@dataclass
class Listing:
    """{part: [(path relative to the image folder, label), ...]} and the names of the classes where the files say them.

    Parts are "train", "val" and "test" where the data set has such lists, else "all".
    """
    parts: dict[str, list[tuple[str, int]]]
    classnames: list[str] | None = None


Reader = Callable[[Manifest, Path, "str | Path"], Listing]


def class_folders(manifest: Manifest, folder: Path, data_root: str | Path) -> Listing:
    """One folder of images a class, as torchvision's ImageFolder has them, labels in the order of the folder names.

    `folders`: {part: folder that holds the class folders, or a list of such}, by default {all: "."}; `skip`: names that are
    no classes; `order: number` sorts by number. Where the manifest names synsets, the folders must be just those.
    """
    source = manifest.source
    parts = {part: [folder / name for name in as_list(names)] for part, names in source.get("folders", {"all": "."}).items()}
    roots = [root for part in parts.values() for root in part]
    names = {name for root in roots for name in visible_folders(root)} - set(source.get("skip", []))
    names = sorted(names, key=int if source.get("order") == "number" else None)
    wanted = manifest.synsets()
    if wanted and set(wanted) != set(names):
        odd = sorted(set(wanted) ^ set(names))
        raise ClipnotesError(f"{folder} has other class folders than {manifest.name}'s {len(wanted)}: {len(odd)} are missing "
                             f"or foreign ({', '.join(odd[:5])}); the copy is incomplete or another version, get it again.")
    order, start = {name: row for row, name in enumerate(names)}, len(str(folder)) + 1
    images = iter(class_images(folder, roots, names))
    return Listing({part: [(path[start:], order[name]) for _ in roots for path, name in next(images)]
                    for part, roots in parts.items()}, names)


def torchvision_class(manifest: Manifest, folder: Path, data_root: str | Path) -> Listing:
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


def fgvc_aircraft(manifest: Manifest, folder: Path, data_root: str | Path) -> Listing:
    """variants.txt and images_variant_{train,val,test}.txt, lines of "image variant", beside the image folder."""
    names = read_lines(folder.parent / "variants.txt")
    parts = {}
    for part in ("train", "val", "test"):
        rows = [line.split(" ", 1) for line in read_lines(folder.parent / f"images_variant_{part}.txt")]
        parts[part] = [(f"{image}.jpg", names.index(variant)) for image, variant in rows]
    return Listing(parts, names)


def ucf101(manifest: Manifest, folder: Path, data_root: str | Path) -> Listing:
    """Middle frames of the videos in trainlist01.txt and testlist01.txt, labels of classInd.txt, all in the folder `lists`."""
    lists = manifest.list_folder("classInd.txt", data_root)
    names = [line.split()[1] for line in read_lines(lists / "classInd.txt")]
    parts = {}
    for part in ("train", "test"):
        videos = [line.split()[0].split("/") for line in read_lines(lists / f"{part}list01.txt")]
        parts[part] = [(f"{capitals(action).replace(' ', '_')}/{Path(video).stem}.jpg", names.index(action))
                       for action, video in videos]
    return Listing(parts, names)


def sun397(manifest: Manifest, folder: Path, data_root: str | Path) -> Listing:
    """ClassName.txt, Training_01.txt and Testing_01.txt, with lines of "/letter/scene/image.jpg", in the folder `lists`."""
    lists = manifest.list_folder("Training_01.txt", data_root)
    names = read_lines(lists / "ClassName.txt")
    label = {name: row for row, name in enumerate(names)}
    return Listing({part: [(line[1:], label[line.rsplit("/", 1)[0]]) for line in read_lines(lists / f"{file}_01.txt")]
                    for part, file in (("train", "Training"), ("test", "Testing"))}, names)


def cub200(manifest: Manifest, folder: Path, data_root: str | Path) -> Listing:
    """images.txt, image_class_labels.txt, train_test_split.txt and classes.txt, lines of "number value", beside the images."""
    paths, labels, train, names = ([line.split()[1] for line in read_lines(folder.parent / f"{file}.txt")]
                                   for file in ("images", "image_class_labels", "train_test_split", "classes"))
    parts = {"train": [], "test": []}
    for path, label, in_train in zip(paths, labels, train, strict=True):
        parts["train" if in_train == "1" else "test"].append((path, int(label) - 1))
    return Listing(parts, names)


def stanford_dogs(manifest: Manifest, folder: Path, data_root: str | Path) -> Listing:
    """train_list.mat and test_list.mat in the folder `lists`: arrays `file_list` of "folder/image.jpg" and `labels` from 1."""
    from scipy.io import loadmat

    lists, parts, names = manifest.list_folder("train_list.mat", data_root), {}, {}
    for part in ("train", "test"):
        content = loadmat(lists / f"{part}_list.mat", squeeze_me=True)
        parts[part] = [(str(path), int(label) - 1) for path, label in zip(content["file_list"], content["labels"], strict=True)]
        names |= {label: path.split("/")[0] for path, label in parts[part]}
    return Listing(parts, [names[label] for label in sorted(names)])


def read_lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]

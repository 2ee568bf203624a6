"""Small copies of the papers' data sets in their real directory layouts: all classes, few and tiny images."""

import json
import os

import numpy as np
import yaml
from PIL import Image
from scipy.io import savemat

from clipnotes.data import load_manifest
from clipnotes.paths import manifests_dir

EUROSAT = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
           "River", "SeaLake"]
SHARES = {"train": 5, "val": 2, "test": 3}     # of ten images a class, by the rule 50/20/30 %
OFFICIAL = {"train": 4, "val": 1, "test": 2}   # of five training images a class, by the rule 20 %, and two test images


class Layout:
    """Writes images under `root`; `truth` keeps {path relative to root: class name}, `counts` the images of each split."""

    def __init__(self, root):
        self.root, self.truth, self.counts = root, {}, None
        self.source, self.classes = {}, None  # what the manifest of a small copy has to say otherwise
        root.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / "one.jpg")

    def add(self, path, classname):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(self.root / "one.jpg", file)  # one image under many names: quick
        self.truth[path] = classname

    def write(self, path, lines):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text("".join(f"{line}\n" for line in lines))

    def expect(self, names, per_class):
        self.counts = {split: n * len(names) for split, n in per_class.items()}


def folders(layout, where, names, n=10):
    """names: {folder: class name}."""
    for folder, name in names.items():
        for i in range(n):
            layout.add(f"{where}/{folder}/{i}.jpg", name)


def dtd(layout):
    names = load_manifest("dtd").classes
    folders(layout, "dtd/images", {name: name for name in names})
    layout.expect(names, SHARES)


def caltech101(layout):
    odd = {"face": "Faces", "leopard": "Leopards", "motorbike": "Motorbikes", "airplane": "airplanes"}
    names = load_manifest("caltech101").classes
    where = "caltech101/101_ObjectCategories"  # where torchvision unpacks it
    folders(layout, where, {odd.get(name, name.replace(" ", "_")): name for name in names})
    folders(layout, where, {"BACKGROUND_Google": None, "Faces_easy": None}, 2)
    layout.expect(names, SHARES)


def eurosat(layout):
    names = load_manifest("eurosat").classes
    folders(layout, "eurosat/2750", dict(zip(EUROSAT, names, strict=True)))
    layout.expect(names, SHARES)


def food101(layout):
    names = {f"dish_number_{i:03d}": f"dish number {i:03d}" for i in range(101)}
    folders(layout, "food-101/images", names)
    layout.expect(names, SHARES)


def oxford_pets(layout):
    names = load_manifest("oxford_pets").classes
    base = "oxford_pets/oxford-iiit-pet"
    for part, n in (("trainval", 5), ("test", 2)):
        files = [(f"{name.title().replace(' ', '_')}_{part}{i}", label + 1, name)
                 for label, name in enumerate(names) for i in range(n)]
        layout.write(f"{base}/annotations/{part}.txt", [f"{file} {label} 1 1" for file, label, _ in files])
        for file, _, name in files:
            layout.add(f"{base}/images/{file}.jpg", name)
    layout.expect(names, OFFICIAL)


def flowers102(layout):
    names = load_manifest("flowers102").classnames()
    base, labels = "oxford_flowers/flowers-102", np.random.default_rng(0).permutation(np.repeat(np.arange(102), 10))
    for i, label in enumerate(labels):
        layout.add(f"{base}/jpg/image_{i + 1:05d}.jpg", names[label])
    ids = np.arange(1, 1021)
    savemat(layout.root / base / "imagelabels.mat", {"labels": labels[None] + 1})
    savemat(layout.root / base / "setid.mat", {"trnid": ids[None, :100], "valid": ids[None, 100:300], "tstid": ids[None, 300:]})
    layout.expect(names, SHARES)


def fgvc_aircraft(layout):
    names = [f"7{i:02d}-320 ER" for i in range(100)]
    base = "fgvc_aircraft/fgvc-aircraft-2013b/data"
    layout.write(f"{base}/variants.txt", names)
    for start, part, n in ((0, "train", 2), (1000, "val", 1), (2000, "test", 3)):
        files = [(f"{start + n * label + i:07d}", name) for label, name in enumerate(names) for i in range(n)]
        layout.write(f"{base}/images_variant_{part}.txt", [f"{file} {name}" for file, name in files])
        for file, name in files:
            layout.add(f"{base}/images/{file}.jpg", name)
    layout.expect(names, {"train": 2, "val": 1, "test": 3})


def stanford_cars(layout):
    names = [f"Maker Model {i} Coupe {1990 + i % 25}" for i in range(196)]
    for part, n, annotations in (("train", 5, "devkit/cars_train_annos"), ("test", 2, "cars_test_annos_withlabels")):
        rows = np.empty(n * 196, [("class", "O"), ("fname", "O")])
        for i in range(len(rows)):
            rows[i] = (i % 196 + 1, f"{i + 1:05d}.jpg")
            layout.add(f"stanford_cars/cars_{part}/{i + 1:05d}.jpg",
                       f"{1990 + i % 196 % 25} Maker Model {i % 196} Coupe")
        (layout.root / "stanford_cars/devkit").mkdir(exist_ok=True)
        savemat(layout.root / f"stanford_cars/{annotations}.mat", {"annotations": rows})
    savemat(layout.root / "stanford_cars/devkit/cars_meta.mat", {"class_names": np.array(names, object)})
    layout.expect(names, OFFICIAL)


def sun397(layout):
    names = {f"/b/bakery{i:03d}/shop" if i % 2 else f"/a/abbey_ruin{i:03d}": f"shop bakery{i:03d}" if i % 2 else
             f"abbey ruin{i:03d}" for i in range(397)}
    layout.write("sun397/ClassName.txt", names)
    for part, n in (("Training", 5), ("Testing", 2)):
        layout.write(f"sun397/{part}_01.txt", [f"{scene}/sun_{part}{i}.jpg" for scene in names for i in range(n)])
        for scene, name in names.items():
            for i in range(n):
                layout.add(f"sun397/SUN397{scene}/sun_{part}{i}.jpg", name)
    layout.expect(names, OFFICIAL)


def ucf101(layout):
    actions = [f"Apply{'Eye' if i % 2 else 'Lip'}Makeup{chr(65 + i // 26)}{chr(97 + i % 26)}" for i in range(101)]
    names = {action: f"Apply {'Eye' if i % 2 else 'Lip'} Makeup {chr(65 + i // 26)}{chr(97 + i % 26)}"
             for i, action in enumerate(actions)}
    layout.write("ucf101/ucfTrainTestlist/classInd.txt", [f"{i + 1} {action}" for i, action in enumerate(actions)])
    for part, first, n in (("train", 8, 5), ("test", 1, 2)):
        videos = [(i, action, f"v_{action}_g{group:02d}_c01") for i, action in enumerate(actions)
                  for group in range(first, first + n)]
        layout.write(f"ucf101/ucfTrainTestlist/{part}list01.txt",
                     [f"{action}/{video}.avi {i + 1}" if part == "train" else f"{action}/{video}.avi"
                      for i, action, video in videos])
        for _, action, video in videos:
            layout.add(f"ucf101/UCF-101-midframes/{names[action].replace(' ', '_')}/{video}.jpg", names[action])
    layout.expect(names, OFFICIAL)


def cub200(layout):
    base, number, lists = "cub/CUB_200_2011", 0, {"images": [], "image_class_labels": [], "train_test_split": []}
    names = [f"{i + 1:03d}.Laughing_Gull_{i}" for i in range(200)]
    for label, name in enumerate(names):
        for i in range(9):  # seven of them for training, of which six validate
            number += 1
            layout.add(f"{base}/images/{name}/{i}.jpg", name[4:].replace("_", " "))
            for file, value in zip(lists, (f"{name}/{i}.jpg", label + 1, int(i >= 2)), strict=True):
                lists[file].append(f"{number} {value}")
    for file, lines in lists.items():
        layout.write(f"{base}/{file}.txt", lines)
    layout.write(f"{base}/classes.txt", [f"{i + 1} {name}" for i, name in enumerate(names)])
    layout.expect(names, {"train": 1, "val": 6, "test": 2})


def stanford_dogs(layout):
    names = {f"n02{i:06d}-Silky-haired_Terrier_{i}": f"Silky-haired Terrier {i}" for i in range(120)}
    (layout.root / "stanford_dogs/lists").mkdir(parents=True)
    for part, n in (("train", 5), ("test", 2)):
        files = [f"{folder}/{part}{i}.jpg" for folder in names for i in range(n)]
        savemat(layout.root / f"stanford_dogs/lists/{part}_list.mat",
                {"file_list": np.array(files, object)[:, None], "labels": np.repeat(np.arange(1, 121), n)[:, None]})
        for file in files:
            layout.add(f"stanford_dogs/Images/{file}", names[file.split("/")[0]])
    layout.expect(names, OFFICIAL)


def synsets(name):
    manifest = load_manifest(name)
    return dict(zip(manifest.synsets(), manifest.classnames(), strict=True))


def fewer_classes(layout, name):
    """The classes of ImageNet-A instead of all."""
    layout.classes = load_manifest(name).classes | {"count": 200, "synsets": "imagenet_a_synsets.txt"}
    return synsets("imagenet_a")


def imagenet(layout):
    names = fewer_classes(layout, "imagenet")
    folders(layout, "imagenet/images/train", names, 3)
    folders(layout, "imagenet/images/val", names, 1)
    layout.source = {"split": {"val": 1}}
    layout.expect(names, {"train": 2, "val": 1, "test": 1})


def variant(name, where):
    def write(layout):
        if name == "imagenet_v2":
            names = dict(enumerate(load_manifest(name).classnames()))
        else:
            names = fewer_classes(layout, name) if name == "imagenet_sketch" else synsets(name)
        folders(layout, where, names, 1)
        layout.write(f"{where}/README.txt", ["no class"])
        layout.expect(names, {"train": 0, "val": 0, "test": 1})
    return write


def cifar(n):
    """Records of CIFAR's binary version: the red pixels hold the row number in their first byte, the label bytes come first."""
    def write(layout):
        manifest = load_manifest(f"cifar{n}")
        source, names = manifest.source, manifest.classnames() or [f"thing_{i}" for i in range(100)]
        folder = layout.root / source["images"]
        layout.write(f"{source['images']}/{source['names']}", names)
        rows = 0
        for files in source["files"].values():
            for file in files:
                records = np.zeros((20, source["label_bytes"] + 3072), np.uint8)
                records[:, 0] = 77  # the coarse label of CIFAR-100, which is not used
                records[:, source["label_bytes"] - 1] = np.arange(rows, rows + 20) * 7 % n
                records[:, source["label_bytes"]] = np.arange(rows, rows + 20)
                records[:, source["label_bytes"] + 1024 + 33] = 200  # green, second row, second column
                records.tofile(folder / file)
                rows += 20
        layout.source = {"val": 5}
        train = 20 * len(source["files"]["train"])
        layout.counts = {"train": train - 5, "val": 5, "test": 20}
    return write


def listed(name, where, n_classes):
    """A data set that is nothing but images and a split file; more images of the first classes, as real ones have."""
    def write(layout):
        splits, number = {"train": [], "val": [], "test": []}, 0
        for label in range(n_classes):
            for split in (*splits, "test"):
                number += 1
                layout.add(f"{where}/{number}.jpg", f"class {label}")
                splits[split].append([f"{number}.jpg", label, f"class_{label}"])
        layout.write(load_manifest(name).source["file"], [json.dumps(splits)])
        layout.counts = {split: len(rows) for split, rows in splits.items()}
    return write


LAYOUTS = {
    "oxford_pets": oxford_pets, "food101": food101, "dtd": dtd, "ucf101": ucf101, "flowers102": flowers102,
    "fgvc_aircraft": fgvc_aircraft, "caltech101": caltech101, "eurosat": eurosat, "stanford_cars": stanford_cars,
    "sun397": sun397, "imagenet": imagenet, "cub200": cub200, "stanford_dogs": stanford_dogs,
    "imagenet_v2": variant("imagenet_v2", "imagenetv2/imagenetv2-matched-frequency-format-val"),
    "imagenet_sketch": variant("imagenet_sketch", "imagenet-sketch/sketch"),
    "imagenet_a": variant("imagenet_a", "imagenet-adversarial/imagenet-a"),
    "imagenet_r": variant("imagenet_r", "imagenet-rendition/imagenet-r"),
    "plantdoc": listed("plantdoc", "plantdoc/all_images", 27),
    "open_images": listed("open_images", "open_images/images", 4),
    "cifar10": cifar(10), "cifar100": cifar(100),
}


def write_layout(name, root):
    """(layout, path of a copy of the manifest with its counts) of a small copy of a data set under `root`."""
    layout = Layout(root)
    LAYOUTS[name](layout)
    return layout, write_manifest(layout, name)


def write_manifest(layout, name):
    """A copy of a shipped manifest that expects the layout's counts, of its split file as well as of the equivalent split."""
    content = yaml.safe_load((manifests_dir() / f"{name}.yaml").read_text())
    content["source"] = {k: v for k, v in content["source"].items() if k != "counts"} | layout.source
    path = layout.root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content | {"counts": layout.counts, "classes": layout.classes or content["classes"]}))
    return path


def write_split_file(layout, name):
    """Adds a split file in CoOp's format: of every class the first image trains, the second validates, the others test.

    Returns the class names; the layout's counts are those of the split file from now on.
    """
    source, splits, seen = load_manifest(name).source, {"train": [], "val": [], "test": []}, {}
    images = [source["images"]] if isinstance(source["images"], str) else source["images"]
    start = next(folder for folder in images if (layout.root / folder).is_dir())
    names = [classname for classname in dict.fromkeys(layout.truth.values()) if classname]
    for path, classname in layout.truth.items():
        if classname:
            rank = seen[classname] = seen.get(classname, 0) + 1
            splits[("train", "val", "test")[min(rank, 3) - 1]].append(
                [os.path.relpath(path, start), names.index(classname), classname.replace(" ", "_")])
    layout.write(source["file"], [json.dumps(splits)])
    layout.counts = {split: len(rows) for split, rows in splits.items()}
    return names

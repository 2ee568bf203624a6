"""The papers' data sets from small copies of their real layouts, the split rules, CIFAR's binary files and labels by people."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import says
from layouts import LAYOUTS, write_layout, write_manifest, write_split_file

from clipnotes.analysis.robustness import labels_by_people
from clipnotes.cli.main import main
from clipnotes.data import corrupt_labels, encode_task, list_datasets, load_manifest, load_task
from clipnotes.data.class_names import REPAIRS
from clipnotes.data.images import SPLITS
from clipnotes.data.split_rules import divide
from clipnotes.downloads import check_dataset
from clipnotes.downloads.check import size_in_words

PAPERS = [name for name in list_datasets() if not load_manifest(name).built_in]
LISTED = [name for name in PAPERS if "file" in load_manifest(name).source]


def paths(task, split, root):
    return [str(path.relative_to(root)) for path in getattr(task, split).images]


@pytest.fixture
def own_flowers(monkeypatch):
    """torchvision holds the label files of Flowers102 against their checksums, which a small copy cannot have."""
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *file: True)


# --- every data set in its layout ---------------------------------------------------------------------------------


def test_every_data_set_of_the_papers_has_a_layout():
    assert set(LAYOUTS) == set(PAPERS)


@pytest.mark.parametrize("name", PAPERS)
def test_a_data_set_loads_from_its_own_folders_and_lists_and_from_its_split_file(name, tmp_path, own_flowers):
    layout, manifest = write_layout(name, tmp_path)
    assert load_manifest(manifest).status(tmp_path) == "here" and load_manifest(name).status(tmp_path / "no") == "missing"
    task = load_task(manifest, data_root=tmp_path)
    assert {split: len(getattr(task, split)) for split in SPLITS} == layout.counts
    assert len(task.classnames) == (4 if name == "open_images" else load_manifest(manifest).n_classes)
    if not layout.truth:  # pixels in memory
        return
    used = [path for split in SPLITS for path in paths(task, split, tmp_path)]
    assert sorted(used) == sorted(path for path, classname in layout.truth.items() if classname)
    for split in SPLITS:
        labels = getattr(task, split).labels.tolist()
        assert [task.classnames[label] for label in labels] == [layout.truth[path] for path in paths(task, split, tmp_path)]
        assert set(Counter(labels).values()) <= {layout.counts[split] // len(task.classnames)}  # every class alike
    if name not in LISTED or load_manifest(name).source["kind"] == "split-file":
        return
    assert task.split_source.startswith("equivalent split, seed 1 (")
    names = write_split_file(layout, name)
    listed = load_task(write_manifest(layout, name), data_root=tmp_path)
    assert listed.split_source == f"the published split file {Path(load_manifest(name).source['file']).name}"
    assert {split: len(getattr(listed, split)) for split in SPLITS} == layout.counts
    assert set(listed.classnames) == set(names)
    assert not set(paths(listed, "train", tmp_path)) & {path for s in ("val", "test") for path in paths(listed, s, tmp_path)}


@pytest.mark.parametrize("name, base, place", [
    ("dtd", "dtd", "dtd/dtd"), ("caltech101", "caltech101", "caltech-101"), ("imagenet", "imagenet/images", "imagenet"),
    ("fgvc_aircraft", "fgvc_aircraft/fgvc-aircraft-2013b/data", "fgvc_aircraft"), ("cub200", "cub/CUB_200_2011", "cub"),
])  # fmt: skip
def test_coops_layout_and_torchvisions_are_one_data_set(name, base, place, tmp_path, monkeypatch):
    layout, manifest = write_layout(name, tmp_path / "a")
    first = load_task(manifest, data_root=tmp_path / "a")
    (tmp_path / "b" / place).parent.mkdir(parents=True)
    (tmp_path / "a" / base).rename(tmp_path / "b" / place)
    second = load_task(manifest, data_root=tmp_path / "b")
    assert [path.name for path in first.train.images] == [path.name for path in second.train.images]
    assert torch.equal(first.train.labels, second.train.labels) and second.train.images[0].is_file()


# --- facts in the manifests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAPERS)
def test_a_manifest_says_how_to_get_the_data(name):
    from torchvision import datasets

    manifest = load_manifest(name)
    assert manifest.obtain and manifest.homepage.startswith("http") and manifest.citation
    assert manifest.torchvision or manifest.archives or manifest.manual
    if manifest.torchvision:
        assert hasattr(datasets, manifest.torchvision["class"]) and manifest.torchvision["size"] > 1e7
    for archive in manifest.archives:
        assert archive["url"].startswith(("https://", "http://vision.stanford.edu/"))
        assert len(archive.get("sha256", "0" * 64)) == 64 and len(archive.get("md5", "0" * 32)) == 32
    if "parts" in manifest.source:
        assert hasattr(datasets, manifest.source["class"])


def test_names_of_parts_of_imagenet_come_from_its_word_net_ids():
    whole = dict(zip(load_manifest("imagenet").synsets(), load_manifest("imagenet").classnames(), strict=True))
    assert whole["n01498041"] == "stingray" and whole["n02123045"] == "tabby cat" and len(whole) == 1000
    for name in ("imagenet_a", "imagenet_r"):
        part = load_manifest(name)
        assert len(part.synsets()) == 200 and part.synsets() == sorted(part.synsets())
        assert part.classnames() == [whole[wnid] for wnid in part.synsets()]
    assert load_manifest("imagenet_v2").classnames() == list(whole.values())
    assert load_manifest("imagenet_sketch").synsets() == list(whole)


def test_names_that_only_the_files_know_are_not_made_up():
    assert load_manifest("food101").classnames() is None and load_manifest("food101").n_classes == 101
    flowers = load_manifest("flowers102").classnames()  # as in CoOp's cat_to_name.json; torchvision has a "?" behind one
    assert len(flowers) == 102 and flowers[0] == "pink primrose" and flowers[59] == "pink-yellow dahlia"
    assert not [name for name in flowers if not name.replace(" ", "").replace("-", "").replace("'", "").isalpha()]


@pytest.mark.parametrize("repair, name, expected", [
    ("capitals", "ApplyEyeMakeup", "Apply Eye Makeup"), ("capitals", "YoYo", "Yo Yo"), ("capitals", "Tai_Chi", "Tai_Chi"),
    ("year-first", "Audi TTS Coupe 2012", "2012 Audi TTS Coupe"), ("year-first", "2012 BMW X5", "2012 BMW X5"),
    ("year-first", "Chevrolet Silverado 1500", "Chevrolet Silverado 1500"),
    ("path-reversed", "/a/abbey", "abbey"), ("path-reversed", "/b/bakery/shop", "shop bakery"),
    ("path-reversed", "indoor apse", "indoor apse"), ("number-off", "001.Black_footed_Albatross", "Black_footed_Albatross"),
    ("number-off", "n02085620-Chihuahua", "Chihuahua"), ("number-off", "flat-coated_retriever", "flat-coated_retriever"),
])  # fmt: skip
def test_repairs_of_class_names(repair, name, expected):
    assert REPAIRS[repair](name) == expected
    assert REPAIRS[repair](expected) == expected  # split files hold names that are repaired already


# --- split rules --------------------------------------------------------------------------------------------------


def rows_of(sizes):
    return [(f"{label}/{i:03d}.jpg", label) for label, size in enumerate(sizes) for i in range(size)]


def test_shares_are_cut_class_by_class_and_do_not_depend_on_the_order_of_the_folders():
    rows = rows_of([10, 31, 7])
    splits = divide({"all": rows}, {"train": 0.5, "val": 0.2})
    assert sorted(sum(splits.values(), [])) == sorted(rows)
    assert Counter(label for _, label in splits["train"]) == {0: 5, 1: 16, 2: 4}  # Python's round: 15.5 -> 16, 3.5 -> 4
    assert Counter(label for _, label in splits["val"]) == {0: 2, 1: 6, 2: 1}
    assert divide({"all": rows[::-1]}, {"train": 0.5, "val": 0.2}) == splits
    members = [path for path, label in splits["train"] if label == 1]
    assert members != sorted(members)  # shuffled, which the halves of PTNL's sampler rely on


@pytest.mark.parametrize("rule, held_out", [({"val": 0.2}, {0: 2, 1: 6, 2: 1}), ({"val": 3}, {0: 3, 1: 3, 2: 3})])
def test_validation_is_held_out_of_the_official_training_list(rule, held_out):
    rows, test = rows_of([10, 31, 7]), [("t.jpg", 1)]
    splits = divide({"train": rows, "test": test}, rule)
    assert Counter(label for _, label in splits["val"]) == held_out
    assert sorted(splits["train"] + splits["val"]) == sorted(rows) and splits["test"] == test


@pytest.mark.parametrize("name", ["caltech101", "dtd", "eurosat", "oxford_pets"])
def test_the_rules_cut_every_class_as_the_published_split_files_do(name, shared):
    manifest = load_manifest(name)
    published = json.loads((shared / "data" / "splits" / Path(manifest.source["file"]).name).read_text())
    rows = {split: [(path, label) for path, label, _ in published[split]] for split in SPLITS}
    parts = {"all": sum(rows.values(), []), "train": rows["train"] + rows["val"], "test": rows["test"]}
    ours = divide(parts, manifest.source["split"])
    for split in SPLITS:
        assert Counter(label for _, label in ours[split]) == Counter(label for _, label in rows[split])


# --- what may be wrong --------------------------------------------------------------------------------------------


@pytest.fixture
def eurosat(tmp_path):
    return write_layout("eurosat", tmp_path)[1], tmp_path


def test_missing_images_and_missing_lists(eurosat, tmp_path):
    manifest, root = eurosat
    with says("^Images of data set eurosat are missing: there is no folder gone/eurosat/2750 with its content; `clipnotes"):
        load_task("eurosat", data_root="gone")
    _, pets = write_layout("oxford_pets", tmp_path / "pets")
    base = tmp_path / "pets/oxford_pets/oxford-iiit-pet"
    (base / "annotations/test.txt").unlink()
    with says("^The lists of data set oxford_pets .* are missing or damaged .*put its split file split_zhou_OxfordPets.json "):
        load_task(pets, data_root=tmp_path / "pets")
    (base / "annotations").rename(base.parent / "annotations")  # CoOp's layout, but without its split file
    (base / "images").rename(base.parent / "images")
    with says(r"^The lists of data set oxford_pets .* \(Dataset not found.*\); put its split file split_zhou_OxfordPets.json "):
        load_task(pets, data_root=tmp_path / "pets")


def test_a_split_file_alone_is_no_data_set(tmp_path):
    layout, _ = write_layout("stanford_cars", tmp_path)
    write_split_file(layout, "stanford_cars")
    manifest = load_manifest(write_manifest(layout, "stanford_cars"))
    assert manifest.status(tmp_path) == "here"
    (tmp_path / "stanford_cars/cars_test").rename(tmp_path / "cars_test")
    assert manifest.status(tmp_path) == "missing"
    with says("^Images of data set stanford_cars are missing: .*/stanford_cars with its content; The original addresses"):
        load_task(manifest.path, data_root=tmp_path)


def test_a_list_with_a_byte_order_mark(tmp_path):
    _, manifest = write_layout("fgvc_aircraft", tmp_path)
    before = load_task(manifest, data_root=tmp_path)
    for path in (tmp_path / "fgvc_aircraft/fgvc-aircraft-2013b/data").glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some editors save it
    task = load_task(manifest, data_root=tmp_path)
    assert task.classnames == before.classnames and task.test.images == before.test.images


def test_a_damaged_list(tmp_path):
    _, manifest = write_layout("fgvc_aircraft", tmp_path)
    path = tmp_path / "fgvc_aircraft/fgvc-aircraft-2013b/data/images_variant_val.txt"
    path.write_text("0001000\n")
    with says("^The lists of data set fgvc_aircraft that belong to .* are missing or damaged"):
        load_task(manifest, data_root=tmp_path)
    path.write_text("0001000 Zeppelin NT\n")
    with says("^The lists of data set fgvc_aircraft .*'Zeppelin NT' is not in list"):
        load_task(manifest, data_root=tmp_path)


def test_counts_of_both_kinds_of_split_are_held_against_the_manifest(eurosat):
    manifest, root = eurosat
    (root / "eurosat/2750/Forest/0.jpg").unlink()  # nine images are cut into 4 (4.5 rounds to even), 2 and 3
    with says("^eurosat has 49 train images, but its manifest says 50; the copy is incomplete or another version, get it"):
        load_task(manifest, data_root=root)
    content = yaml.safe_load(manifest.read_text())
    content["source"]["counts"] = {"train": 49, "val": 20, "test": 30}
    manifest.write_text(yaml.safe_dump(content))
    assert len(load_task(manifest, data_root=root).train) == 49
    split = {"train": [["Forest/1.jpg", 1, "forest"]], "val": [], "test": []}
    (root / "eurosat/split_zhou_EuroSAT.json").write_text(json.dumps(split))
    with says("^eurosat has 1 train images, but its manifest says 50; "):  # the split file's counts, not the other ones
        load_task(manifest, data_root=root)


def test_a_missing_class_and_a_foreign_one(eurosat, tmp_path):
    manifest, root = eurosat
    (root / "eurosat/2750/River").rename(root / "River")
    with says(r"2750 has 9 classes, but the manifest of eurosat says 10; the copy is incomplete"):
        load_task(manifest, data_root=root)
    _, variant = write_layout("imagenet_a", tmp_path / "a")
    folder = tmp_path / "a/imagenet-adversarial/imagenet-a"
    (folder / "n01498041").rename(folder / "n01440764")
    with says(r"imagenet-a has other class folders than imagenet_a's 200: 2 are missing or foreign \(n01440764, n01498041\)"):
        load_task(variant, data_root=tmp_path / "a")


def test_check_names_broken_images_and_empty_classes(eurosat, capsys):
    manifest, root = eurosat
    assert check_dataset(manifest, root) == []
    size = 100 * (root / "one.jpg").stat().st_size / 1e6  # 100 copies of one image
    assert size_in_words(load_manifest(manifest), root) == f"{size:.1f} MB on disk"
    assert size_in_words(load_manifest(manifest), root, most=99) == f"at least {0.99 * size:.1f} MB on disk"
    broken = root / "eurosat/2750/Highway/3.jpg"
    broken.unlink()
    broken.write_bytes(b"no image")
    for path in (root / "eurosat/2750/Forest").iterdir():
        path.unlink()
    content = yaml.safe_load(manifest.read_text())
    manifest.write_text(yaml.safe_dump(content | {"counts": {"train": 45, "val": 18, "test": 27}}))
    problems = check_dataset(manifest, root)
    assert sum("1 classes without an image (Forest)" in problem for problem in problems) == 3 and len(problems) == 4
    assert sum(f"Image {broken} cannot be read" in problem for problem in problems) == 1


def exit_code(*arguments):
    try:
        main(list(map(str, arguments)))
    except SystemExit as error:
        return error.code or 0
    return 0


def test_the_command_line_tells_whole_from_broken_from_unknown(eurosat, capsys):
    manifest, root = eurosat
    assert exit_code("data", "check", manifest, "--data-root", root) == 0
    (root / "eurosat/2750/Forest/0.jpg").unlink()
    assert exit_code("data", "check", manifest, "--data-root", root) == 1
    assert "get it again" in capsys.readouterr().err
    assert exit_code("data", "check", "euro", "--data-root", root) == 2
    assert capsys.readouterr().err.startswith("Error: Unknown data set 'euro'; choose one of ")
    assert exit_code("data", "list", "--data-root", root) == 0
    shown = capsys.readouterr().out
    for name in list_datasets():
        assert name in shown
    assert re.search(r"eurosat +here +10 classes.*\n.*MB on disk", shown)
    assert re.search(r"food101 +missing +101 classes.*\n.*4,996 MB to download", shown)
    assert re.search(r"imagenet +missing +1000 classes.*\n.*to get by hand", shown)


@pytest.mark.parametrize("change, message", [
    ({"archives": [{"url": "https://example.org/a.zip"}]}, "field 'file' of archives.0 is missing"),
    ({"archives": [{"url": "https://a.org", "file": "../a.zip"}]}, r"archives.0.file is '../a.zip', but must be"),
    ({"archives": [{"url": "https://a.org", "file": "a", "folder": "/etc"}]}, "archives.0.folder is '/etc', but must be"),
    ({"archives": [{"url": "https://a.org", "file": "a", "crc": 1}]}, "unknown field 'crc' in archives.0"),
    ({"archives": {"url": "https://a.org"}}, "archives is {.*}, but must be a list of archives"),
    ({"archives": ["https://a.org"]}, "archives.0 is 'https://a.org', but must be a mapping of url, file"),
    ({"torchvision": "EuroSAT"}, "torchvision is 'EuroSAT', but must be a mapping of class, root"),
    ({"torchvision": {"class": "EuroSAT", "root": "../.."}}, "torchvision.root is '../..', but must be a path relative"),
    ({"name": "../eurosat"}, "name is '../eurosat', but must be a name without / and"),
    ({"name": ".hidden"}, "name is '.hidden', but must be a name"),
    ({"source": {"kind": "split-file", "images": "x", "file": "/etc/passwd"}}, "source.file is '/etc/passwd', but must be"),
    ({"source": {"kind": "class-folders", "images": ["x", "a/../../b"]}}, "source.images is .*, but must be"),
    ({"source": {"kind": "class-folders", "images": r"C:\images"}}, "source.images is .*, but must be a path relative to"),
    ({"source": {"kind": "class-folders", "images": "x", "folders": 7}}, "source.folders is 7, but must be a mapping of train"),
    ({"source": "class-folders"}, "source is 'class-folders', but must be a mapping of kind"),
    ({"classes": {"source": "x", "count": 1}}, "classes.count is 1, but must be two or more"),
    ({"torchvision": {"class": "EuroSAT"}}, "field 'root' of torchvision is missing"),
    ({"classes": {"count": 3}}, "classes is .*, but must be a list of names, or a mapping of a count and"),
    ({"classes": {"source": "files", "count": "many"}}, "classes.count is 'many', but must be two or more, or \"any\""),
    ({"classes": {"source": "x", "count": 3, "repair": "glue"}}, "classes.repair is 'glue', but must be one of capitals"),
    ({"classes": {"attribute": "os:environ", "count": 3}}, "classes.attribute is 'os:environ', but must be one of open"),
    ({"source": {"kind": "ucf101", "images": "x"}}, "field 'lists' of source is missing"),
    ({"counts": {"train": "some", "val": 1, "test": 1}}, "counts.train is 'some', but must be "),
    ({"source": {"kind": "class-folders", "images": "x", "counts": {"train": 1}}}, "field 'val' of source.counts is missing"),
])  # fmt: skip
def test_schema_errors(change, message, tmp_path):
    content = yaml.safe_load(load_manifest("eurosat").path.read_text())
    (tmp_path / "eurosat.yaml").write_text(yaml.safe_dump(content | change))
    with says(f"^Manifest eurosat.yaml: {message}"):
        load_manifest(tmp_path / "eurosat.yaml")


# --- test-only sets -----------------------------------------------------------------------------------------------


def test_a_set_for_testing_only_loads_without_shots_and_is_encoded(tmp_path, clip):
    _, manifest = write_layout("imagenet_a", tmp_path)
    task = load_task(manifest, data_root=tmp_path)
    bank = encode_task(clip, task, progress=False)
    assert len(task.train) == len(task.val) == 0 and bank.test.x.shape == (200, clip.dim) and bank.n_classes == 200
    assert check_dataset(manifest, tmp_path) == []
    with says("^imagenet_a is for testing only and has no training images, but shots=4 was asked for; use shots=0"):
        load_task(manifest, shots=4, data_root=tmp_path)


# --- CIFAR and labels by people -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name, n_train", [("cifar10", 100), ("cifar100", 20)])
def test_binary_cifar_keeps_pixels_labels_and_places(name, n_train, tmp_path):
    _, manifest = write_layout(name, tmp_path)
    task = load_task(manifest, data_root=tmp_path)
    n = len(task.classnames)
    assert task.train.images.shape == (n_train - 5, 32, 32, 3) and task.train.images.dtype == np.uint8
    assert task.train.images[:, 0, 0, 0].tolist() == list(range(n_train - 5)) == task.train.rows.tolist()
    assert task.val.images[:, 0, 0, 0].tolist() == list(range(n_train - 5, n_train)) == task.val.rows.tolist()
    assert task.test.images[:, 0, 0, 0].tolist() == list(range(n_train, n_train + 20))
    assert task.train.labels.tolist() == [row * 7 % n for row in range(n_train - 5)]
    assert (task.train.images[:, 1, 1] == [0, 200, 0]).all()  # the green pixel of the second row and column
    assert len({getattr(task, split).fingerprint for split in SPLITS}) == 3


def test_labels_by_people_stay_with_their_images(tmp_path):
    _, manifest = write_layout("cifar10", tmp_path)
    task = load_task(manifest, shots=4, seed=3, data_root=tmp_path)  # rows in another order, and not all
    whole = load_task(manifest, data_root=tmp_path)
    noisy = load_manifest("cifar10").noisy_labels
    path = tmp_path / noisy["file"]
    true = torch.cat([whole.train.labels, whole.val.labels]).numpy()
    given = np.where(np.arange(100) % 4 == 0, (true + 1) % 10, true)
    torch.save({"clean_label": true, noisy["entries"][0]: given}, path)
    for part in (task.train, whole.train, whole.val):
        labels = corrupt_labels(part.labels, kind="human", path=path, key="aggre_label", rows=part.rows)
        assert labels.is_noisy.tolist() == [row % 4 == 0 for row in part.rows]
        assert torch.equal(labels.labels, (part.labels + labels.is_noisy.long()) % 10)
    people = labels_by_people(task, "aggre_label", tmp_path)
    assert torch.equal(people != task.train.labels, torch.as_tensor(task.train.rows) % 4 == 0)
    with says("CIFAR-10_human.pt was made for other images: its true labels differ from those of "):
        corrupt_labels(whole.train.labels, kind="human", path=path, key="aggre_label", rows=whole.train.rows[::-1])
    with says("give one label an image, in the order of the training split, or rows= of the file"):
        corrupt_labels(whole.train.labels, kind="human", path=path, key="aggre_label")
    with says("holds 100 labels, but row 100 was asked for; give rows="):
        corrupt_labels(whole.val.labels, kind="human", path=path, key="aggre_label", rows=whole.val.rows + 1)


def test_cifar_in_another_format_or_cut_off(tmp_path):
    with says("cifar10/cifar-10-batches-bin of data set cifar10 is missing; `clipnotes data fetch cifar10`"):
        load_task("cifar10", data_root=tmp_path)
    _, manifest = write_layout("cifar10", tmp_path)
    file = tmp_path / "cifar10/cifar-10-batches-bin/data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with says(r"does not hold the binary version of cifar10 \(data_batch_3.bin has 61459 bytes, not whole records of 3073\)"):
        load_task(manifest, data_root=tmp_path)
    os.remove(file)
    with says("does not hold the binary version of cifar10 .*data_batch_3.bin"):
        load_task(manifest, data_root=tmp_path)


def test_class_folders_in_another_order_than_the_manifest_s_names_are_refused(tmp_path):
    _, manifest = write_layout("dtd", tmp_path)
    content = yaml.safe_load(Path(manifest).read_text())
    names = load_task(manifest, data_root=tmp_path).classnames
    content["classes"] = [names[1], names[0], *names[2:]]
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(content, allow_unicode=True))
    with says(f"names class 0 '{names[1]}', but its folder or list says '{names[0]}': give the classes in the order of"):
        load_task(own, data_root=tmp_path)

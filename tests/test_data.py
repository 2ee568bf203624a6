"""Manifests, tasks and shots; made-up image folders, and real photographs where they are at hand."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import says
from PIL import Image

from clipnotes.data import few_shot, list_datasets, load_manifest, load_task
from clipnotes.data.images import SPLITS
from clipnotes.downloads import check_dataset
from clipnotes.pocket import datasets, world

# --- the shipped manifests ----------------------------------------------------------------------------------------


def test_every_pocket_set_has_a_manifest():
    assert set(list_datasets()) >= {*datasets.SETS, "digits"}


@pytest.mark.parametrize("name", list_datasets())
def test_a_manifest_says_what_is_there(name):
    manifest = load_manifest(name)
    assert manifest.name == name and manifest.path.stem == name
    assert manifest.title and manifest.task and manifest.licence and manifest.obtain
    assert len(set(manifest.templates)) == len(manifest.templates)
    if name in datasets.SETS:
        assert manifest.source == {"kind": "pocket"} and manifest.status("nowhere") == "built in"
        recipe = datasets.SETS[name]
        assert manifest.classes == list(recipe.classes)
        for split, per_class in zip(SPLITS, recipe.per_class, strict=True):
            assert manifest.counts[split] == per_class * len(manifest.classes) == len(datasets.labels(name, split))
    elif manifest.built_in:
        assert manifest.classes == list(world.DIGITS)
        assert manifest.counts == {split: len(datasets.real_digits(split)[1]) for split in SPLITS}


def test_generic_classes_are_those_of_no_other_set():
    names = [name for name in list_datasets() if load_manifest(name).built_in and name != "pocket-generic"]
    assert not set(load_manifest("pocket-generic").classes) & {c for n in names for c in load_manifest(n).classes}


@pytest.mark.parametrize("name", ["pocket-pairs", "digits"])
def test_built_in_tasks_load_whole(name):
    task, manifest = load_task(name), load_manifest(name)
    assert (task.name, task.shots) == (name, 0) and task.classnames == manifest.classes
    for split in SPLITS:
        part = getattr(task, split)
        assert len(part) == manifest.counts[split] and part.labels.dtype == torch.int64
        assert torch.bincount(part.labels).min() >= 20 and len(part.labels.unique()) == len(manifest.classes)
    assert task.val.images.shape == (len(task.val), 40, 40, 3) and task.val.images.dtype == np.uint8


@pytest.mark.parametrize("name", ["caltech101", "dtd", "eurosat", "oxford_pets"])
def test_manifests_of_the_papers_agree_with_the_published_splits(name, shared):
    manifest = load_manifest(name)
    path = shared / "data" / "splits" / Path(manifest.source["file"]).name
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the reference data")
    splits = json.loads(path.read_text())
    assert manifest.counts == {split: len(rows) for split, rows in splits.items()}
    published = dict(sorted((label, classname) for rows in splits.values() for _, label, classname in rows))
    assert list(published) == list(range(len(manifest.classes)))
    for ours, theirs in zip(manifest.classes, published.values(), strict=True):
        assert ours.lower().replace("_", " ") == theirs.lower().replace("_", " ")


# --- the schema ---------------------------------------------------------------------------------------------------

GOOD = {
    "name": "pets",
    "title": "Pets",
    "task": "cats and dogs",
    "licence": "CC0",
    "classes": ["cat", "dog"],
    "templates": ["a photo of a {}."],
    "counts": {"train": 4, "val": 2, "test": 2},
    "source": {"kind": "split-file", "images": "pets/images", "file": "pets/split.json"},
}


def write_manifest(folder, change=None, drop=None, text=None):
    content = {k: v for k, v in (GOOD | (change or {})).items() if k != drop}
    path = folder / "pets.yaml"
    path.write_text(yaml.safe_dump(content) if text is None else text)
    return path


def test_a_manifest_of_ones_own(tmp_path):
    manifest = load_manifest(write_manifest(tmp_path, {"notes": "mine"}))
    assert manifest.name == "pets" and manifest.notes == "mine" and manifest.homepage == ""
    assert manifest == load_manifest(str(tmp_path / "pets.yaml"))
    before = manifest.fingerprint
    assert load_manifest(write_manifest(tmp_path, {"notes": "other"})).fingerprint != before


def test_unknown_data_set():
    with says("^Unknown data set 'pets'; choose one of .*digits, .*pocket-textures, .*, or give the path of a manifest"):
        load_manifest("pets")
    with says("^Unknown data set 'gone/pets.yaml'"):
        load_task("gone/pets.yaml")


@pytest.mark.parametrize("drop", ["name", "title", "task", "licence", "classes", "templates", "counts", "source"])
def test_missing_field(drop, tmp_path):
    with says(f"^Manifest pets.yaml: field '{drop}' of its content is missing.$"):
        load_manifest(write_manifest(tmp_path, drop=drop))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"colour": "red"}, "unknown field 'colour' in its content; fields are name, title, .*, notes"),
        ({"classes": []}, r"classes is \[\], but must be a list of two or more different names"),
        ({"classes": "cat dog"}, "classes is 'cat dog', but must be a list of names, or a mapping of a count"),
        ({"title": 7}, "title is 7, but must be text"),
        ({"notes": ["a"]}, r"notes is \['a'\], but must be text"),
        ({"classes": ["cat", "cat"]}, r"classes is .*, but must be a list of two or more different names \(quote names"),
        ({"classes": ["yes", True]}, "classes.1 is True, but must be text"),
        ({"classes": ["cat"]}, r"classes is \['cat'\], but must be a list of two or more"),
        ({"classes": ["cat", ["dog"]]}, r"classes.1 is \['dog'\], but must be text"),
        ({"counts": {"train": 4, "test": 2}}, "field 'val' of counts is missing"),
        ({"counts": {"train": 4, "val": "2", "test": 2}}, "counts.val is '2', but must be a whole number"),
        ({"counts": {"train": 4, "val": -1, "test": 2}}, "counts.val is -1, but must be a whole number"),
        ({"templates": ["a {}", "a photo"]}, "templates.1 is 'a photo', but must be a template with a {} for the class name"),
        ({"templates": [{}]}, "templates.0 is {}, but must be a template"),  # an unquoted {} of YAML
        ({"source": {"kind": "web"}}, "source.kind is 'web', but must be one of pocket, sklearn-digits, split-file"),
        ({"source": {"file": "x"}}, "field 'kind' of source is missing"),
        ({"source": {"kind": ["pocket"]}}, r"source.kind is \['pocket'\], but must be one of"),
        ({"source": {"kind": "split-file", "file": "x"}}, "field 'images' of source is missing"),
    ],
)
def test_schema_errors(change, message, tmp_path):
    with says(f"^Manifest pets.yaml: {message}"):
        load_manifest(write_manifest(tmp_path, change))


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [1", "^Manifest pets.yaml is no valid YAML: "),
        ("- a\n- b", r"^Manifest pets.yaml: its content is \['a', 'b'\], but must be a mapping of name, title"),
        ("", "^Manifest pets.yaml: its content is None, but must be a mapping"),
        ("a: !!python/object/apply:os.getcwd []", "^Manifest pets.yaml is no valid YAML: "),
    ],
)
def test_not_a_manifest(text, message, tmp_path):
    with says(message):
        load_manifest(write_manifest(tmp_path, text=text))


def test_a_pocket_set_that_was_never_drawn(tmp_path):
    path = write_manifest(tmp_path, {"source": {"kind": "pocket"}})
    with says("^Manifest pets.yaml: the pocket world has no data set 'pets'; it has pocket-glyphs, "):
        load_task(path)


# --- a small data set of image files ------------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path):
    """Eight JPEGs of two classes, half of them grey; returns (manifest path, data root)."""
    folder = tmp_path / "pets" / "images"
    folder.mkdir(parents=True)
    rng, splits, number = np.random.default_rng(0), {split: [] for split in SPLITS}, 0
    for split in SPLITS:
        for label in np.repeat([0, 1], GOOD["counts"][split] // 2):
            size = (24, 30) if number % 2 else (24, 30, 3)
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{number}.jpg")
            splits[split].append([f"{number}.jpg", int(label), GOOD["classes"][label]])
            number += 1
    (tmp_path / "pets" / "split.json").write_text(json.dumps(splits))
    return write_manifest(tmp_path), tmp_path


def edit_split(root, change):
    path = root / "pets" / "split.json"
    splits = json.loads(path.read_text())
    change(splits)
    path.write_text(json.dumps(splits))


def test_image_files_load_in_the_order_of_the_split_file(pets):
    manifest, root = pets
    assert load_manifest(manifest).status(root) == "here" and load_manifest(manifest).status("gone") == "missing"
    task = load_task(manifest, data_root=root)
    assert [path.name for path in task.train.images] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert task.train.labels.tolist() == [0, 0, 1, 1] and task.test.labels.tolist() == [0, 1]
    assert check_dataset(manifest, root) == []


def test_data_sets_that_differ_have_other_fingerprints(pets, tmp_path_factory):
    manifest, root = pets
    task = load_task(manifest, data_root=root)
    parts = {getattr(task, split).fingerprint for split in SPLITS}
    assert len(parts) == 3 and load_task(manifest, data_root=root).train.fingerprint == task.train.fingerprint
    assert task.train.take([0, 1]).fingerprint != task.train.take([1, 0]).fingerprint
    twin = tmp_path_factory.mktemp("twin")  # the same names, but other images for all one knows
    (twin / "pets").symlink_to(root / "pets")
    assert load_task(manifest, data_root=twin).train.fingerprint == task.train.fingerprint
    (twin / "pets").unlink()
    (root / "pets").rename(twin / "pets")
    assert load_task(manifest, data_root=twin).train.fingerprint != task.train.fingerprint
    edit_split(twin, lambda splits: splits["train"].reverse())
    assert load_task(manifest, data_root=twin).train.fingerprint not in parts


def test_missing_split_file(pets):
    manifest, root = pets
    with says(r"^Split file gone/pets/split.json of data set pets is missing; put it there, or set data_root"):
        load_task(manifest, data_root="gone")
    write_manifest(root, {"obtain": "Get it from example.org."})
    with says(r"is missing; Get it from example.org.$"):
        load_task(manifest, data_root="gone")


@pytest.mark.parametrize("content, message", [
    ("[", "Split file split.json in .* is no valid JSON"),
    ("[]", "Split file .* is not a CoOp split; it must hold lists train,"),
    ("[" * 100_000, "Split file split.json in .* is no valid JSON .it is nested too deep"),
    ('{"train": []}', "is not a CoOp split"),
    ('{"train": [["a", 0]], "val": [], "test": []}', r"has the row \['a', 0\] in train; it must hold lists"),
    ('{"train": [["a", "x", "cat"]], "val": [], "test": []}', r"has the row \['a', 'x', 'cat'\] in train; .* labels as whole"),
    ('{"train": [["a", 0.5, "cat"]], "val": [], "test": []}', r"has the row \['a', 0.5, 'cat'\] in train"),
    ('{"train": [["a", true, "cat"]], "val": [], "test": []}', r"has the row \['a', True, 'cat'\] in train"),
    ('{"train": 7, "val": [], "test": []}', "is not a CoOp split"),
    ("\x00\x01", "Split file split.json in .* is a binary file"),
])  # fmt: skip
def test_not_a_split_file(content, message, pets):
    manifest, root = pets
    (root / "pets" / "split.json").write_text(content)
    with says(f"^Split file .*{message}|^{message}") as caught:
        load_task(manifest, data_root=root)
    assert len(str(caught.value)) < 500 and check_dataset(manifest, root) == [str(caught.value)]


@pytest.mark.parametrize("change, message", [
    (lambda s: s["val"][0].__setitem__(2, "dog"), "gives label 0 the names 'cat' and 'dog'; one of them is wrong"),
    (lambda s: [row.__setitem__(2, "Cat") for part in s.values() for row in part if row[1]], "gives labels 0 and 1 the same"),
    (lambda s: s["val"][0].__setitem__(0, "../../secret.jpg"), "has the image path '../../secret.jpg' in val, which leads out"),
    (lambda s: s["test"][0].__setitem__(0, "/etc/passwd"), "has the image path '/etc/passwd' in test, which leads out of the"),
    (lambda s: s["test"][0].__setitem__(0, "C:\\pets\\1.jpg"), "has the image path 'C:/pets/1.jpg' in test, which leads out"),
    (lambda s: s["test"][1].__setitem__(0, "0.jpg"), "gives image 0.jpg the labels 0 and 1; one of them is wrong"),
])  # fmt: skip
def test_mistakes_in_a_split_file_are_refused_and_reported(change, message, pets):
    manifest, root = pets
    edit_split(root, change)
    with says(f"^Split file .*split.json {message}"):
        load_task(manifest, data_root=root)
    assert any(re.search(message, problem) for problem in check_dataset(manifest, root))


def test_every_mistake_of_a_split_file_is_reported(pets):
    manifest, root = pets
    edit_split(root, lambda s: (
        s["val"][0].__setitem__(2, "dog"), s["test"][0].__setitem__(0, "/etc/x"), s["train"][0].__setitem__(1, 7)))
    problems = check_dataset(manifest, root)
    for part in ("Label 7 of 0.jpg .train.", "the names 'cat' and 'dog'", "the image path '/etc/x'"):
        assert any(re.search(part, problem) for problem in problems)


def test_the_names_of_a_split_file_count(pets):
    """Where its classes stand in another order, the image of a dog must not be called a cat."""
    manifest, root = pets
    edit_split(root, lambda s: [row.__setitem__(2, ["Dog", "c_a_t"][row[1]]) for part in s.values() for row in part])
    with pytest.warns(UserWarning, match="names 2 of 2 classes otherwise than the manifest of pets, such as label 0: 'Dog'"):
        assert load_task(manifest, data_root=root).classnames == ["dog", "cat"]  # in the manifest's spelling
    assert any("'Dog' in place of 'cat'; the file's names are taken" in problem for problem in check_dataset(manifest, root))
    edit_split(root, lambda s: [row.__setitem__(2, ["Dog", "green_newt"][row[1]]) for part in s.values() for row in part])
    with pytest.warns(UserWarning, match="the file's names are taken"):
        assert load_task(manifest, data_root=root).classnames == ["dog", "green newt"]


def test_test_images_that_are_in_train_are_counted(pets):
    manifest, root = pets
    edit_split(root, lambda s: s["test"][0].__setitem__(0, "0.jpg"))
    with pytest.warns(UserWarning, match="has 1 of 2 test images in train or val, too, such as 0.jpg; accuracies"):
        load_task(manifest, data_root=root)
    assert ["1 of 2 test images" in problem for problem in check_dataset(manifest, root)] == [True]


def test_links_among_the_images_of_a_split_file_are_said(pets):
    manifest, root = pets
    images = root / "pets" / "images"
    for other, message in (("0.jpg", r"one file in several of train, val and test, such as .*0.jpg and .*6.jpg \(1 in all\)"),
                           ("3.jpg", "one file under two classes, .*3.jpg and .*6.jpg; keep the one of the right class")):
        (images / "6.jpg").unlink()
        (images / "6.jpg").symlink_to(other)
        with pytest.warns(UserWarning, match=f"^Image folder .*images has {message}"):
            load_task(manifest, data_root=root)
        assert re.search(message, check_dataset(manifest, root)[0])
    (images / "6.jpg").unlink()
    (images / "6.jpg").hardlink_to(images / "0.jpg")  # as some keep their archives, with equal files as one
    assert check_dataset(manifest, root) == []


def test_split_files_of_other_systems(pets):
    manifest, root = pets
    before = load_task(manifest, data_root=root)
    (root / "pets" / "images" / "sub").mkdir()
    (root / "pets" / "images" / "0.jpg").rename(root / "pets" / "images" / "sub" / "0.jpg")
    edit_split(root, lambda s: s["train"][0].__setitem__(0, "sub\\0.jpg"))  # Windows
    path = root / "pets" / "split.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte order mark
    task = load_task(manifest, data_root=root)
    assert task.train.images[0].is_file() and task.train.labels.tolist() == before.train.labels.tolist()


def test_labels_of_an_open_set_have_no_gaps(pets):
    _, root = pets
    manifest = write_manifest(root, {"classes": {"count": "any", "source": "the split file"}})
    edit_split(root, lambda s: [row.__setitem__(1, row[1] + 1) for part in s.values() for row in part])
    with says("^Split file .* has labels up to 2, but none 0 .do they count from 1.*; labels must be 0, 1, 2"):
        load_task(manifest, data_root=root)


@pytest.mark.parametrize("label", [2, -1])
def test_label_out_of_range(label, pets):
    manifest, root = pets
    edit_split(root, lambda splits: splits["val"][1].__setitem__(1, label))
    with says(rf"^Label {label} of 5.jpg \(val\) in .*split.json is out of range; pets has 2 classes, labels 0 to 1.$"):
        load_task(manifest, data_root=root)


def test_wrong_count(pets):
    manifest, root = pets
    edit_split(root, lambda splits: splits["test"].pop())
    message = "pets has 1 test images, but its manifest says 2; the copy is incomplete or another version, get it again."
    with says(f"^{message}$"):
        load_task(manifest, data_root=root)
    assert check_dataset(manifest, root) == [message]


def test_check_finds_what_is_broken(pets):
    manifest, root = pets
    cut, gone = root / "pets" / "images" / "1.jpg", root / "pets" / "images" / "6.jpg"
    cut.write_bytes(cut.read_bytes()[:-60])
    gone.unlink()
    edit_split(root, lambda splits: [row.__setitem__(slice(1, 3), [0, "cat"]) for row in splits["val"]])
    problems = check_dataset(manifest, root)
    expected = [
        rf"train: Image {re.escape(str(cut))} cannot be read \(.*trunc.*\); fetch it again or remove it",
        r"val: 1 classes without an image \(dog\).$",
        rf"test: Image {re.escape(str(gone))} does not exist; check the data root",
    ]
    assert len(problems) == 3 and all(re.match(e, p) for e, p in zip(expected, problems, strict=True))


# --- shots --------------------------------------------------------------------------------------------------------

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [9, 5, 7, 6, 8]))


@pytest.mark.parametrize("shots", [1, 3, 5])
@pytest.mark.parametrize("seed", [1, 2])
def test_shots_are_exact_distinct_nested_and_reproducible(shots, seed):
    rows = few_shot(LABELS, shots, seed)
    assert LABELS[rows].tolist() == np.repeat(np.arange(5), shots).tolist()
    assert len(set(rows)) == len(rows)
    assert set(few_shot(LABELS, shots - 1, seed) if shots > 1 else []) <= set(rows)
    assert np.array_equal(rows, few_shot(torch.from_numpy(LABELS), shots, seed))
    assert not np.array_equal(rows, few_shot(LABELS, shots, seed + 10))


def test_every_image_is_drawn_equally_often():
    counts = Counter(row for seed in range(2000) for row in few_shot(LABELS, 2, seed))
    for label, size in enumerate([9, 5, 7, 6, 8]):
        drawn = [counts[row] for row in np.flatnonzero(LABELS == label)]
        expected = 2000 * 2 / size
        assert np.abs(np.array(drawn) - expected).max() < 4.5 * np.sqrt(expected * (1 - 2 / size))


def test_too_few_images():
    with says(r"^Class 1 has 5 training images, fewer than shots=6; ask for at most 5 shots.$"):
        few_shot(LABELS, 6, 1)
    with says(r"^Class 1 \(dog\) has 5 training images, fewer than shots=9"):
        few_shot(np.array([0] * 9 + [1] * 5), 9, 1, ["cat", "dog"])
    with says(r"^Class 2 \(cow\) has 0 training images, fewer than shots=1"):
        few_shot(np.array([0, 1]), 1, 1, ["cat", "dog", "cow"])
    with says(r"^Class 0 \(zero\) has 64 training images, fewer than shots=65"):
        load_task("digits", shots=65)


def test_a_task_of_few_shots_shows_the_drawn_images():
    whole, few, again = (load_task("digits", **how) for how in ({}, {"shots": 2, "seed": 4}, {"shots": 2, "seed": 4}))
    rows = few_shot(whole.train.labels, 2, 4)
    assert (few.shots, few.seed) == (2, 4)
    assert np.array_equal(few.train.images, whole.train.images[rows])
    assert torch.equal(few.train.labels, whole.train.labels[rows])
    assert few.train.fingerprint == again.train.fingerprint != load_task("digits", shots=2, seed=5).train.fingerprint
    assert few.test.fingerprint == whole.test.fingerprint and len(few.test) == len(whole.test)


def test_shots_of_image_files(pets):
    manifest, root = pets
    task = load_task(manifest, shots=1, seed=3, data_root=root)
    cat, dog = task.train.images
    assert cat.name in ("0.jpg", "1.jpg") and dog.name in ("2.jpg", "3.jpg") and task.train.labels.tolist() == [0, 1]


# --- real photographs ---------------------------------------------------------------------------------------------


def test_real_photographs_are_whole_and_encoded_by_a_large_network(caltech):
    from clipnotes.backbone import load_clip

    manifest, root = caltech
    assert check_dataset(manifest, root) == []
    task = load_task(manifest, data_root=root)
    assert [len(part) for part in (task.train, task.val, task.test)] == [80, 40, 60] and len(task.classnames) == 10
    grey = [path for path in [*task.train.images, *task.val.images, *task.test.images] if Image.open(path).mode == "L"]
    assert len(grey) == 4
    clip = load_clip("RN50", "random")
    paths = [grey[0], grey[1], task.test.images[0]]
    features = clip.encode_images(paths, batch_size=2)
    assert features.shape == (3, 1024) and torch.isfinite(features).all() and clip.image_size == 224
    rgb = Image.open(grey[0]).convert("RGB")
    torch.testing.assert_close(clip.encode_images([rgb]), features[:1], rtol=0, atol=1e-5)
    assert (features[0] - features[2]).abs().max() > 1e-3


def test_pictures_are_drawn_once_for_all_runs(monkeypatch):
    first = load_task("pocket-scenes").val.images
    drawn = datasets.draw("pocket-scenes", "val")
    monkeypatch.setattr(datasets, "draw", lambda name, split: pytest.fail("drawn again"))
    again = load_task("pocket-scenes").val.images
    assert again.dtype == np.uint8 and (again == drawn).all() and (first == drawn).all()
    monkeypatch.setattr(datasets, "fingerprint", lambda: "another world")
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        load_task("pocket-scenes").val.images  # noqa: B018

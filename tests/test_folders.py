"""Folders of one's own images as data sets: classes, splits, names, mistakes, and their way through a run."""

import json
import os
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import says
from PIL import Image

from clipnotes.cli.main import main
from clipnotes.data import encode_task, load_manifest, load_task
from clipnotes.data.folders import shares
from clipnotes.data.images import SPLITS
from clipnotes.downloads import check_dataset
from clipnotes.folder_names import absolute_name, full_name, in_names, short_names


def draw(folder, n, suffix=".png", first=0):
    """n pictures in a folder, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        pixels = np.random.default_rng([i, *folder.name.encode()]).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}{suffix}")


@pytest.fixture
def birds(tmp_path):
    """Two classes of ten pictures, in a folder of the name birds."""
    for name in ("house_sparrow", "crow"):
        draw(tmp_path / "birds" / name, 10)
    return tmp_path / "birds"


def files_of(folder):
    """{split: [relative paths]} of the task of a folder."""
    task = load_task(f"folder:{folder}")
    return {split: [path.relative_to(folder).as_posix() for path in getattr(task, split).images] for split in SPLITS}


# --- classes and splits -------------------------------------------------------------------------------------------


def test_every_image_of_a_class_folder_is_in_one_split(birds):
    task, files = load_task(f"folder:{birds}"), files_of(birds)
    assert task.name == "birds" and task.classnames == ["crow", "house sparrow"] and task.templates == ["a photo of a {}."]
    assert [len(files[split]) for split in SPLITS] == [10, 4, 6]
    assert sorted(sum(files.values(), [])) == sorted(path.relative_to(birds).as_posix() for path in birds.rglob("*.png"))
    for split in SPLITS:
        labels = getattr(task, split).labels
        assert [file.split("/")[0] for file in files[split]] == [("crow", "house_sparrow")[label] for label in labels]
    assert "50/20/30" in task.split_source and load_manifest(f"folder:{birds}").status("nowhere") == "here"


def test_the_split_is_no_matter_of_place_or_order_and_nearly_stays_when_images_come(birds, tmp_path):
    before = files_of(birds)
    assert any(before[split] != sorted(before[split], key=lambda f: int(Path(f).stem)) for split in SPLITS)
    birds.rename(tmp_path / "elsewhere")
    assert files_of(tmp_path / "elsewhere") == before
    draw(tmp_path / "elsewhere" / "crow", 2, first=10)
    after = files_of(tmp_path / "elsewhere")
    moved = sum(file not in after[split] for split in SPLITS for file in before[split])
    assert moved <= 3 and sum(map(len, after.values())) == 22


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_images_make_no_split(n):
    assert shares(n) == (0, 0, 0)


def test_shares_add_up_and_leave_no_split_empty():
    for n in range(3, 400):
        parts = shares(n)
        assert sum(parts) == n and min(parts) >= 1
        assert np.abs(np.array(parts) - n * np.array([0.5, 0.2, 0.3])).max() <= 1
    assert shares(3) == (1, 1, 1) and shares(100) == (50, 20, 30)


def test_what_is_no_image_or_hidden_is_left_alone(birds):
    expected = files_of(birds)
    (birds / "crow" / "notes.txt").write_text("caw")
    (birds / "crow" / "._1.png").write_bytes(b"left by another system")
    (birds / "crow" / "Thumbs.db").write_bytes(b"left by another system")
    (birds / "licence.md").write_text("mine")
    assert files_of(birds) == expected
    draw(birds / "crow" / "more", 1, ".JPG", first=77)
    assert "crow/more/77.JPG" in sum(files_of(birds).values(), [])


SYSTEM_FOLDERS = [".thumbnails", "@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information",
                  "@Recycle"]


@pytest.mark.parametrize("name", SYSTEM_FOLDERS)
def test_folders_that_systems_make_are_hidden_at_any_depth(name, birds, tmp_path):
    expected = files_of(birds)
    for folder in (name, f"{name}/crow", f"crow/{name}", f"crow/{name}/9.png", f"house_sparrow/more/{name}"):
        draw(birds / folder, 3)
    assert files_of(birds) == expected
    for split in SPLITS:
        for folder in ("cat", "dog", name, f"cat/{name}"):
            draw(tmp_path / "pets" / split / folder, 2)
    assert [len(files) for files in files_of(tmp_path / "pets").values()] == [4, 4, 4]


def test_all_kinds_that_pillow_reads_are_taken_and_the_others_counted(birds):
    picture = Image.new("RGB", (8, 8))
    for name, kind in (("a.jfif", "JPEG"), ("b.jpe", "JPEG"), ("c.GIF", "GIF"), ("d.jp2", "JPEG2000"), ("e", "PNG"),
                       ("f.tga", "TGA"), ("g.webp", "WEBP"), ("h.dds", "DDS")):
        picture.save(birds / "crow" / name, kind)
    assert len({file for part in files_of(birds).values() for file in part}) == 28
    for name in ("1.heic", "2.HEIC", "3.mp4", "notes"):
        (birds / "crow" / name).write_bytes(b"something else")
    (birds / "crow" / "boxes.xml").write_text("<box>")
    said = ("4 of 32 files in its class folders are left out, since Pillow does not read them: 2 .heic, 1 .mp4, 1 without an "
            "ending")
    with pytest.warns(UserWarning, match=rf"^Image folder {birds}: {said}; convert those"):
        assert sum(map(len, files_of(birds).values())) == 28
    (problem,) = check_dataset(f"folder:{birds}")
    assert said in problem


def test_results_written_among_the_images_are_no_class(birds):
    expected = files_of(birds)
    for folder, mark in (("runs/02_x", "run.json"), ("crow/out", "sweep.json")):
        draw(birds / folder / "figures", 5)
        (birds / folder / mark).write_text("{}")
    draw(birds / "study" / "book" / "_images", 5)
    draw(birds / "study" / "02_x", 5)
    (birds / "study" / "02_x" / "run.json").write_text("{}")
    (birds / "study" / "index.html").write_text("")
    with pytest.warns(UserWarning, match=r"results of clipnotes in it are left out \(crow/out, runs/02_x, study\); write"):
        task = load_task(f"folder:{birds}")
    assert task.classnames == ["crow", "house sparrow"]
    with pytest.warns(UserWarning):
        assert files_of(birds) == expected


@pytest.mark.parametrize("names", [("Train", "Val", "Test"), ("Training", "Validation", "Testing"), ("TRAIN", "valid", "test")])
def test_train_val_test_in_other_words(names, tmp_path):
    for split, n in zip(names, (4, 1, 2), strict=True):
        for name in ("cat", "dog"):
            draw(tmp_path / "pets" / split / name, n)
    task, files = load_task(f"folder:{tmp_path / 'pets'}"), files_of(tmp_path / "pets")
    assert task.classnames == ["cat", "dog"] and [len(files[split]) for split in SPLITS] == [8, 2, 4]
    assert all(file.startswith(f"{name}/") for split, name in zip(SPLITS, names, strict=True) for file in files[split])
    assert task.split_source == "folders {}, {} and {}".format(*names)
    draw(tmp_path / "pets" / "tests" / "cat", 1)  # means nothing
    draw(tmp_path / "pets" / "training" / "cat", 1)
    with says(f"^Image folder .*pets has {names[0]} and training, which all mean train; keep one of them"):
        load_task(f"folder:{tmp_path / 'pets'}")


def test_folders_train_val_test_are_taken_as_they_are(birds, tmp_path):
    for split, n in zip(SPLITS, (4, 1, 2), strict=True):
        for name in ("cat", "dog"):
            draw(tmp_path / "pets" / split / name, n)
    task, files = load_task(f"folder:{tmp_path / 'pets'}"), files_of(tmp_path / "pets")
    assert [len(files[split]) for split in SPLITS] == [8, 2, 4] and task.classnames == ["cat", "dog"]
    assert all(file.startswith(f"{split}/") for split in SPLITS for file in files[split])
    assert task.split_source == "folders train, val and test"
    for path in (tmp_path / "pets" / "test").rglob("*.png"):
        path.unlink()
    with says("Image folder .*pets/test holds no image in its 2 class folders"):
        load_task(f"folder:{tmp_path / 'pets'}")


def test_some_of_train_val_test_are_a_mistake_but_a_class_may_be_named_train(birds, tmp_path):
    for split in ("train", "val"):
        draw(tmp_path / "imagenet" / split / "tench", 3)
    with says(r"^Image folder .*imagenet has train and val with class folders inside, but no test; give all of train, val and"):
        load_task(f"folder:{tmp_path / 'imagenet'}")
    draw(birds / "train", 5)
    assert load_task(f"folder:{birds}").classnames == ["crow", "house sparrow", "train"]


def test_classes_that_are_too_small_are_left_out_and_named(birds):
    draw(birds / "owl", 2)
    draw(birds / "jay", 3)
    (birds / "emu").mkdir()
    with pytest.warns(UserWarning, match=r"^Image folder birds: 2 of 5 classes are left out: emu, owl; each of train, val and"):
        task = load_task(f"folder:{birds}")
    assert task.classnames == ["crow", "house sparrow", "jay"]
    assert all(len(getattr(task, split).labels.unique()) == 3 for split in SPLITS)


def test_names_and_templates_come_from_classes_yaml(birds):
    (birds / "classes.yaml").write_text('names: {crow: carrion crow}\ntemplates: ["a drawing of a {}.", "{}"]\n')
    task = load_task(f"folder:{birds}")
    assert task.classnames == ["carrion crow", "house sparrow"] and task.templates == ["a drawing of a {}.", "{}"]
    (birds / "classes.yaml").write_text("")
    assert load_task(f"folder:{birds}").classnames == ["crow", "house sparrow"]


def test_all_in_classes_yaml_is_text_and_it_may_be_named_yml(birds):
    for folder in ("010", "10"):  # of ImageFolder's labels, for example
        draw(birds / folder, 3)
    (birds / "classes.yml").write_text("names: {010: eight, 10: yes, crow: 1:30}\n")
    assert load_task(f"folder:{birds}").classnames == ["eight", "yes", "1:30", "house sparrow"]
    (birds / "classes.yaml").write_text("")
    with says("^Image folder .*birds has classes.yaml and classes.yml; keep one of them"):
        load_task(f"folder:{birds}")


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content, message", [
    ("names: [", "is no valid YAML"),
    ("[crow]", "holds list; it may hold names"),
    ("classes: {}", "holds classes; it may hold names"),
    ("names: {raven: x}", "names 'raven', but there is no such class folder (there are crow, house_sparrow)"),
    ("names: {crow: }", "has names that are blank or no texts"),
    ("names: {crow: [a]}", "has names that are blank or no texts"),
    ("names: [crow]", "has names that are blank or no texts"),
    ("templates: [a bird]", "has a template without a {} for the class name"),
    ("templates: a {}", "has a template without a {} for the class name"),
])
def test_a_classes_yaml_that_does_not_fit(content, message, birds):
    (birds / "classes.yaml").write_text(content)
    with says(re.escape(message)) as caught:
        load_task(f"folder:{birds}")
    assert str(caught.value).startswith(str(birds / "classes.yaml")) and "\n" not in str(caught.value)


def test_two_classes_of_one_name(birds):
    draw(birds / "house sparrow", 3)
    with says("has several classes named 'house sparrow'; rename one in classes.yaml"):
        load_task(f"folder:{birds}")


def test_folders_that_are_no_data_set(birds, tmp_path):
    with says(r"^Image folder .*gone does not exist; give folder:PATH of a folder that holds one folder of images a class.$"):
        load_task(f"folder:{tmp_path / 'gone'}")
    with says("^Image folder .*0.png is a file; give"):
        load_task(f"folder:{birds / 'crow' / '0.png'}")
    with says(r"^Image folder .*crow has no class folders; put the images of every class into a folder of its own, such as"):
        load_task(f"folder:{birds / 'crow'}")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with says(r"^Image folder .*empty holds no image in its 1 class folders \(cat ...\); give images of a kind that "):
        load_task(f"folder:{tmp_path / 'empty'}")
    draw(tmp_path / "empty" / "cat", 3)
    with says(r"^Image folder .*empty has one class \(cat\) that can be used, but two or more are needed.$"):
        load_task(f"folder:{tmp_path / 'empty'}")
    draw(tmp_path / "empty" / "dog", 2)
    with says(r"one class \(cat\) that can be used, but two or more are needed; too small are dog; each of train,"):
        load_task(f"folder:{tmp_path / 'empty'}")


def test_links_that_lead_back_would_count_images_twice(birds, tmp_path):
    before = files_of(birds)
    outside = tmp_path / "more"
    draw(outside, 2, first=50)
    (birds / "crow" / "more").symlink_to(outside)  # a link to images elsewhere is no harm
    assert len(sum(files_of(birds).values(), [])) == len(sum(before.values(), [])) + 2
    for target in (birds, tmp_path, Path("/"), birds / "house_sparrow", outside):
        link = birds / "house_sparrow" / "again"
        link.symlink_to(target)
        with says("^Image folder .* is a link to .*, whose images would count twice; remove the link.$"):
            load_task(f"folder:{birds}")
        link.unlink()
    (birds / "all").symlink_to(birds)
    with says("^Image folder .*birds/all is a link to .*birds, whose images would count twice"):
        load_task(f"folder:{birds}")
    with says("^Image folder / is the root of a file system"):
        load_task("folder:/")


def test_a_link_between_class_folders_is_named(birds):
    for link, target in (("crow/sparrow", "house_sparrow"), ("jackdaw", "crow"), ("a/b", ".")):
        (birds / link).parent.mkdir(exist_ok=True)
        (birds / link).symlink_to(birds / target)
        with says(f"^Image folder {birds / link} is a link to {(birds / target).resolve()}, whose images would count twice"):
            load_task(f"folder:{birds}")
        (birds / link).unlink()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_is_one_image_and_has_one_label(link, birds, tmp_path):
    expected = files_of(birds)
    link(birds / "crow" / "0.png", birds / "crow" / "same.png")
    assert files_of(birds) == expected
    link(birds / "crow" / "0.png", birds / "house_sparrow" / "other.png")
    with says(f"^Image folder {birds} has one file under two classes, {birds}/crow/0.png and {birds}/house_sparrow/other.png; "
              "keep the one of the right class"):
        load_task(f"folder:{birds}")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_in_train_and_test_is_said(link, tmp_path):
    for split in SPLITS:
        for name in ("cat", "dog"):
            draw(tmp_path / "pets" / split / name, 2)
    for split in SPLITS[1:]:
        (tmp_path / "pets" / split / "cat" / "1.png").unlink()
        link(tmp_path / "pets" / "train" / "cat" / "1.png", tmp_path / "pets" / split / "cat" / "1.png")
    said = r"pets has one file in several of train, val and test, such as .*test/cat/1.png and .*train/cat/1.png \(2 in all\)"
    with pytest.warns(UserWarning, match=said):
        assert len(load_task(f"folder:{tmp_path / 'pets'}").test) == 4
    (problem,) = check_dataset(f"folder:{tmp_path / 'pets'}")
    assert "train/cat/1.png (2 in all); accuracies are too high" in problem


def test_names_that_are_no_utf8(birds, tmp_path, capsys, clip):
    odd = os.fsdecode(b"\xef")
    os.rename(birds / "crow" / "0.png", birds / "crow" / f"{odd}.png")  # an image may be named so
    task = load_task(f"folder:{birds}")
    assert len(encode_task(clip, task, progress=False).train) == 10
    (birds / odd).mkdir()
    with says(rf"^Class folder in {birds} has the name b'\\xef', which is no UTF-8; rename it"):
        load_task(f"folder:{birds}")
    os.rename(birds, tmp_path / odd)
    with says(r"^Image folder has the name b'.*\\xef', which is no UTF-8; rename it"):
        load_task(f"folder:{tmp_path / odd}")
    with pytest.raises(SystemExit):
        main(["data", "check", f"folder:{tmp_path / odd}"])
    assert "is no UTF-8" in capsys.readouterr().err


def test_a_class_folder_that_cannot_be_read_stops(birds, monkeypatch):
    scandir = os.scandir

    def refused(path="."):
        if str(path).endswith("crow"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)  # rights do not bind the administrator
    with says("^Image folder .*birds/crow cannot be read .Permission denied.; give yourself the right to read it"):
        load_task(f"folder:{birds}")


def test_images_that_cannot_be_read_are_named(birds, clip, capsys):
    broken = birds / "crow" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (problem,) = check_dataset(f"folder:{birds}")
    assert f"Image {broken} cannot be read" in problem
    with pytest.raises(SystemExit):
        main(["data", "check", f"folder:{birds}"])
    assert str(broken) in capsys.readouterr().err
    with says(f"^Image {re.escape(str(broken))} cannot be read"):
        encode_task(clip, load_task(f"folder:{birds}"), progress=False)
    paths = sorted(birds.rglob("*.png"))
    with says(f"^Image {re.escape(str(broken))} cannot be read") as caught:
        clip.encode_images(paths, progress=False, workers=1)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


# --- features -----------------------------------------------------------------------------------------------------


def test_an_image_that_was_replaced_is_encoded_again(birds, clip):
    first = encode_task(clip, load_task(f"folder:{birds}"), progress=False)
    again = load_task(f"folder:{birds}")
    replaced, kept = again.test.images[0], again.test.take([1, 2]).fingerprint
    draw(replaced.parent, 1, first=500)
    (replaced.parent / "500.png").replace(replaced)
    assert load_task(f"folder:{birds}").test.take([1, 2]).fingerprint == kept
    second = encode_task(clip, load_task(f"folder:{birds}"), progress=False)
    assert not torch.equal(second.test.x[0], first.test.x[0]) and torch.equal(second.test.x[1:], first.test.x[1:])
    assert torch.equal(second.test.x, clip.encode_images(again.test.images, progress=False))
    before, state = again.test.fingerprint, os.stat(replaced)
    assert load_task(f"folder:{birds}").test.fingerprint == before
    os.utime(replaced, ns=(state.st_atime_ns, state.st_mtime_ns + 1000))  # the time alone may tell another image
    assert load_task(f"folder:{birds}").test.fingerprint != before


# --- names --------------------------------------------------------------------------------------------------------


def test_short_names_are_the_last_part_and_never_those_of_another_set(birds, tmp_path, monkeypatch):
    full = f"folder:{birds}"
    values = {"dataset": full, "datasets": [f"folder:{tmp_path}/other/birds", f"folder:{tmp_path}/digits", "digits", 3]}
    short = short_names(values)
    assert list(short.values()) == ["birds", "other/birds", f"{tmp_path.name}/digits"] and list(short)[0] == full
    assert full_name(short[full]) == full and full_name("digits") == "digits" and load_task(short[full]).name == "birds"
    with says("^Unknown data set 'birds'"):  # the text alone knows no folder, whatever was loaded before
        load_task("birds")
    assert short_names(values["datasets"])[f"folder:{tmp_path}/other/birds"] == "birds"
    assert pickle.loads(pickle.dumps(short[full])).full == full
    monkeypatch.chdir(tmp_path)
    assert absolute_name("folder:birds") == absolute_name("folder:x/../birds") == full and absolute_name("birds") == "birds"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute_name("folder:~/birds") == full
    assert in_names(str.upper, {"a": ["b", 1], "c": 2.0, "d": "e"}) == {"a": ["B", 1], "c": 2.0, "d": "E"}


PARAMETERS = """\
dataset: str = "digits"  # the images [dataset]
datasets: list[str] = ["digits"]  # more images [dataset]
generic: list[str] = ["digits"]  # images without a domain
out: str = ""  # folder of the results"""


@pytest.fixture
def own_notebook(tmp_path, monkeypatch):
    from conftest import write_notebook

    monkeypatch.setenv("CLIPNOTES_NOTEBOOKS", str(tmp_path / "notebooks"))
    monkeypatch.chdir(tmp_path)
    return write_notebook(tmp_path / "notebooks" / "01_own.ipynb", PARAMETERS)


def test_a_run_gets_absolute_folders_and_shows_short_names(birds, own_notebook, tmp_path, capsys):
    from clipnotes import lab
    from clipnotes.running.execute import overrides
    from clipnotes.series.notebooks import find

    names = {"dataset": "folder:birds", "datasets": ["folder:birds", "digits"], "generic": ["folder:birds"]}
    full = f"folder:{birds}"
    values = overrides(find("01"), names)
    assert values == {"dataset": full, "datasets": [full, "digits"], "generic": [full]}
    namespace = values | {"out": str(tmp_path / "out")}
    run = lab.start("01_own", namespace)
    assert (namespace["dataset"], namespace["datasets"], namespace["generic"]) == ("birds", ["birds", "digits"], ["birds"])
    assert load_task(namespace["dataset"]).name == "birds"
    run.record(metric="accuracy", value=0.5)
    assert run.records["dataset"].tolist() == ["birds"]
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert facts["parameters"]["dataset"] == full and facts["parameters"]["datasets"] == [full, "digits"]
    shown = capsys.readouterr().out
    assert "folder:birds (default digits)" in shown and str(birds) not in shown
    assert lab.start("01_own", namespace).parameters == run.parameters  # the cell may run again


def test_a_bad_folder_is_an_error_before_anything_runs(own_notebook, birds, capsys):
    with pytest.raises(SystemExit) as caught, warnings.catch_warnings():
        main(["run", "01", "-p", "dataset=folder:brids"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"Error: Image folder {birds.parent / 'brids'} does not exist") and error.count("\n") == 1
    assert not Path("runs").exists()

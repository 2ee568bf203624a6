"""Generic subsets of Open Images, from small files of the official form and a server on this machine."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import says
from PIL import Image
from test_download import cli, closed_port

from clipnotes.data import load_manifest, load_task
from clipnotes.downloads import check_dataset, open_images_draw
from clipnotes.downloads.download import UnreachableError
from clipnotes.downloads.open_images import build_subset, image_path, rebuild_subset
from clipnotes.downloads.open_images_draw import draw_candidates, name_forms

CLASSES = ["Cat", "Dogs", "Tea pot", "Striped", "Rare", "Crane", "Crane", "Zebra, plains"]
MIDS = [f"/m/0{i}" for i in range(len(CLASSES))]
N = 40  # single-label images a class, of the rare one fewer
COLUMNS = ("ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,OriginalSize,OriginalMD5,"
           "Thumbnail300KURL,Rotation").split(",")


def image_id(number):
    return f"{(number + 1) * 2654435761 * 4294967291 % 2**64:016x}"


def jpeg(number):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (24, 24, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def world(web, tmp_path):
    """The three files, in no order, with the pictures on the server; `single`: {image id: class} of all that can be drawn."""
    rng, labels, images, single = np.random.default_rng(0), [], [], {}
    number = 0
    for c, mid in enumerate(MIDS):
        for i in range(5 if CLASSES[c] == "Rare" else N):
            name, number = image_id(number), number + 1
            labels += [(name, "verification", mid, 1), (name, "verification", MIDS[c - 1], 0)]
            if i % 4 == 0:
                labels.append((name, "crowdsource-verification", mid, 1))  # the same label again
            if i % 5 == 4:
                labels.append((name, "verification", "/m/0unlisted", 1))  # a second label, of a class that has no name
            rotation = {0: 0.0, 1: None, 2: 90.0, 3: 0.0, 4: 0.0}[i % 5]
            small = "" if i % 5 == 0 else f"{web.address}/s/{name}.jpg"
            images.append((name, "train", f"{web.address}/o/{name}.jpg", "https://l/", "CC BY", "", "Ann, B", "t", 1, "", small,
                           rotation))
            web.files["/s/" + name + ".jpg"] = web.files["/o/" + name + ".jpg"] = jpeg(number)
            if i % 5 in (0, 1, 3):
                single[name] = CLASSES[c]
    labels = pd.DataFrame(labels, columns=["ImageID", "Source", "LabelName", "Confidence"])
    labels.sample(frac=1, random_state=0).to_csv(tmp_path / "labels.csv", index=False)
    pd.DataFrame(images, columns=COLUMNS).iloc[rng.permutation(len(images))].to_csv(tmp_path / "images.csv", index=False)
    pd.DataFrame({"LabelName": MIDS, "DisplayName": CLASSES}).to_csv(tmp_path / "classes.csv", index=False)
    web.single, web.csvs = single, [tmp_path / f"{kind}.csv" for kind in ("images", "labels", "classes")]
    return web


def build(world, out, n_classes=3, per_class=8, **options):
    options = {"report": lambda line: None, "progress": False} | options
    return build_subset(*world.csvs, n_classes, per_class, out, **options)


def files(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


# --- the draw -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [7, 10_000])
def test_candidates_have_one_label_and_stand_upright(world, monkeypatch, rows):
    monkeypatch.setattr(open_images_draw, "ROWS", rows)  # however the files are cut into pieces
    drawn = draw_candidates(*world.csvs, 5, 6, seed=1, progress=False)
    # the rare class has too few images, the two cranes cannot be told apart
    assert list(dict.fromkeys(drawn["DisplayName"])) == ["Cat", "Dogs", "Striped", "Tea pot", "Zebra, plains"]
    assert set(Counter(drawn["DisplayName"]).values()) == {24} and drawn["ImageID"].is_unique
    for row in drawn.itertuples():
        assert world.single[row.ImageID] == row.DisplayName
        assert row.URL.removeprefix(world.address) in (f"/s/{row.ImageID}.jpg", f"/o/{row.ImageID}.jpg")
    assert set(drawn["Author"]) == {"Ann, B"} and {url[len(world.address) + 1] for url in drawn["URL"]} == {"s", "o"}


def test_the_draw_depends_on_the_seed_alone(world, tmp_path):
    def drawn(seed=1, wanted=6, csvs=world.csvs):
        return draw_candidates(*csvs, 2, wanted, seed, progress=False)[["ImageID", "DisplayName"]].values.tolist()

    assert drawn() == drawn() and drawn() != drawn(seed=2)
    shuffled = [tmp_path / f"shuffled_{path.name}" for path in world.csvs]
    for old, new in zip(world.csvs, shuffled, strict=True):
        pd.read_csv(old, dtype=str).sample(frac=1, random_state=3).to_csv(new, index=False)
    assert drawn(csvs=shuffled) == drawn()
    more = drawn(wanted=7)  # the first images of a class stay the first
    for name in {name for _, name in more}:
        assert [i for i, n in more if n == name][:24] == [i for i, n in drawn() if n == name]


def test_classes_of_other_data_sets_are_left_out_and_reported(world):
    lines = []
    drawn = draw_candidates(*world.csvs, 3, 6, 1, ["pocket-textures", "pocket-glyphs"], report=lines.append, progress=False)
    assert set(drawn["DisplayName"]) == {"Dogs", "Tea pot", "Zebra, plains"}
    assert len(lines) == 1 and "2 classes are left out" in lines[0] and "Cat (cat of pocket-glyphs)" in lines[0]
    with says("Unknown data set 'no-such-set'"):
        draw_candidates(*world.csvs, 3, 6, 1, ["no-such-set"], progress=False)


@pytest.mark.parametrize(
    "one, other, same",
    [("Cats", "cat", True), ("T-shirt", "t shirts", True), ("hot_dog", "Hotdog", True), ("Berries", "berry", True),
     ("Houses", "house", True), ("Buses", "bus", True), ("Knives", "knif", True), ("Glass", "glasses", True),
     ("Cat", "Cattle", False), ("Cat", "Dog", False), ("Bus", "Business", False)],
)
def test_names_match_but_for_case_punctuation_and_plural(one, other, same):
    assert bool(name_forms(one) & name_forms(other)) is same


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_classes": 6}, "6 classes of 9 images .* were asked for, but only 5 classes have as many"),
        ({"n_classes": 0}, "0 classes of 8 images were asked for; both numbers must be 1 or more"),
        ({"per_class": 0}, "3 classes of 0 images were asked for"),
    ],
)
def test_numbers_that_cannot_be_had(world, tmp_path, change, message):
    with says(message):
        build(world, tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "which, content, message",
    [
        (0, None, "Open Images file .*images.csv does not exist; get it from https://storage"),
        (0, "ImageID,Subset\n0000,train\n", "images.csv cannot be read as this file of Open Images .*Rotation"),
        (1, "ImageID,LabelName,Confidence\n00000000000000zz,/m/01,1\n", "Image id '00000000000000zz' .* 16 hex digits"),
        (1, "ImageID,LabelName,Confidence\n0000000000000001,/m/01,yes\n", "labels.csv cannot be read .*yes"),
        (1, "", "labels.csv cannot be read as this file"),
        (2, "LabelName,DisplayName\n", "classes.csv has no class"),
    ],
)
def test_files_that_are_not_those_of_open_images(world, tmp_path, which, content, message):
    world.csvs[which].unlink()
    if content is not None:
        world.csvs[which].write_text(content)
    with says(message):
        build(world, tmp_path / "out")


def test_class_files_without_a_header_are_read_as_well(world):
    lines = world.csvs[2].read_text().splitlines()
    names = open_images_draw.class_names(world.csvs[2])
    world.csvs[2].write_text("\n".join(lines[1:]))
    assert open_images_draw.class_names(world.csvs[2]).equals(names) and "Crane" not in set(names)


# --- building -----------------------------------------------------------------------------------------------------


def test_a_subset_is_a_data_set(world, tmp_path):
    out, lines = tmp_path / "data" / "open_images", []
    assert build(world, out, report=lines.append) == []
    task = load_task(str(out / "open_images.yaml"), data_root=tmp_path / "data")
    assert (len(task.train), len(task.val), len(task.test)) == (24, 3, 0)
    assert np.bincount(task.train.labels).tolist() == [8, 8, 8] and task.classnames == sorted(task.classnames)
    assert check_dataset(str(out / "open_images.yaml"), tmp_path / "data") == []
    for path, label in zip(task.train.images, task.train.labels, strict=True):
        assert world.single[path.stem] == task.classnames[label] and path.parent.parent == out / "images"
        assert path.read_bytes() == world.files[f"/o/{path.stem}.jpg"]
    assert "3 classes, train 24, val 3" in lines[-1]
    shipped = load_task("open_images", data_root=tmp_path / "data")  # the manifest that ships fits any subset
    assert shipped.classnames == task.classnames and shipped.train.images == task.train.images
    listed = pd.read_csv(out / "open_images.csv")
    assert len(listed) == 27 and set(listed["Author"]) == {"Ann, B"} and listed["License"].notna().all()
    assert "seed 1" in load_manifest(str(out / "open_images.yaml")).notes


def break_some(world):
    """Make four of ten images unusable, each in another way; returns the ids of those that are left."""
    good = jpeg(10**6)
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    for i, name in enumerate(np.random.default_rng(0).permutation(sorted(world.single)).tolist()):
        change = [None, good[: len(good) // 2], png.getvalue(), b"<html>", *[...] * 6][i % 10]
        for path in (f"/s/{name}.jpg", f"/o/{name}.jpg"):
            if change is None:
                world.files.pop(path)
            elif change is not ...:
                world.files[path] = change
    return {name for name in world.single if world.files.get(f"/o/{name}.jpg") == world.files.get(f"/s/{name}.jpg")
            and (world.files.get(f"/o/{name}.jpg") or b"")[-2:] == b"\xff\xd9"}


def test_images_that_are_gone_or_broken_are_replaced_in_the_order_of_the_draw(world, tmp_path):
    good, lines = break_some(world), []
    problems = build(world, tmp_path / "out", n_classes=2, report=lines.append)
    assert problems == []
    candidates = draw_candidates(*world.csvs, 2, 9, seed=1, progress=False)
    listed = pd.read_csv(tmp_path / "out" / "open_images.csv", dtype=str)
    for name, rows in candidates.groupby("DisplayName"):
        expected = [i for i in rows["ImageID"] if i in good][:9]
        assert listed["ImageID"][listed["DisplayName"] == name].tolist() == expected
        assert listed["Split"][listed["DisplayName"] == name].tolist() == ["train"] * 8 + ["val"]
    assert {path.stem for path in (tmp_path / "out" / "images").rglob("*.*")} == set(listed["ImageID"])
    assert any("images could not be had, others of their class stand in" in line for line in lines)


def test_every_way_of_being_broken_is_seen(world, tmp_path):
    good = break_some(world)
    pd.DataFrame(world.single.items(), columns=["ImageID", "DisplayName"]).to_csv(tmp_path / "list.csv", index=False)
    problems = rebuild(tmp_path / "list.csv", tmp_path / "out", images_csv=world.csvs[0])
    assert set(pd.read_csv(tmp_path / "out" / "open_images.csv")["ImageID"]) == good
    assert {sentence.split()[0] for sentence in problems} == set(world.single) - good
    for reason in ("HTTP 404", "is not a whole JPEG image (a PNG file)", "Truncated", "is a web page"):
        assert sum(reason in sentence for sentence in problems) >= len(problems) // 4 - 1


def test_a_class_that_falls_short_is_a_problem(world, tmp_path, capsys):
    for name, label in world.single.items():
        if label == "Cat":
            world.files.pop(f"/s/{name}.jpg")
            if name not in sorted(n for n, c in world.single.items() if c == "Cat")[:4]:
                world.files.pop(f"/o/{name}.jpg")
    images, labels, classes = world.csvs
    code, out, err = cli(capsys, "open-images", "--images-csv", images, "--labels-csv", labels, "--classes-csv", classes,
                         "--n-classes", 5, "--per-class", 8, "--out", tmp_path / "out")
    have = Counter(pd.read_csv(tmp_path / "out" / "open_images.csv")["DisplayName"])
    assert code == 1 and err.splitlines()[-1] == f"Cat: only {have['Cat']} of 9 images can still be had"
    assert 0 < have["Cat"] < 9 and set(have.values()) == {have["Cat"], 9} and "5 classes" in out


def test_without_a_network_a_build_gives_up_soon(world, tmp_path):
    table = pd.read_csv(world.csvs[0], dtype=str)
    for column in ("OriginalURL", "Thumbnail300KURL"):
        table[column] = table[column].str.replace(world.address, closed_port())
    table.to_csv(world.csvs[0], index=False)
    with says("cannot be fetched .*; check the network", UnreachableError):
        build(world, tmp_path / "out", per_class=20)
    assert not (tmp_path / "out" / "open_images.yaml").exists()


def test_a_killed_build_goes_on_to_the_same_files(world, tmp_path):
    out = tmp_path / "out"
    candidates = draw_candidates(*world.csvs, 3, 9, seed=1, progress=False)
    world.hold |= {f"/{kind}/{name}.jpg" for name in candidates["ImageID"][::3] for kind in "so"}
    images, labels, classes = map(str, world.csvs)
    command = [sys.executable, "-m", "clipnotes", "data", "open-images", "--images-csv", images, "--labels-csv", labels,
               "--classes-csv", classes, "--n-classes", "3", "--per-class", "8", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while len(list(out.glob("images/*/*.jpg"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    here = {path.stem for path in out.glob("images/*/*.jpg")}
    assert len(here) >= 4 and not (out / "open_images.yaml").exists()
    world.hold.clear()
    world.release.set()
    asked = len(world.requests)
    assert build(world, out) == []
    assert not here & {Path(path).stem for path, _ in world.requests[asked:]}  # nothing is downloaded again
    assert build(world, tmp_path / "whole" / "out") == []
    assert files(out) == files(tmp_path / "whole" / "out")


# --- rebuilding ---------------------------------------------------------------------------------------------------


def rebuild(list_csv, out, **options):
    return rebuild_subset(list_csv, out, report=lambda line: None, progress=False, **options)


def test_a_list_gives_the_same_data_set_again(world, tmp_path, capsys):
    build(world, tmp_path / "one" / "out")
    list_csv = tmp_path / "one" / "out" / "open_images.csv"
    code, out, _ = cli(capsys, "open-images", "--from", list_csv, "--out", tmp_path / "two" / "out")
    assert code == 0 and "3 classes, train 24, val 3" in out
    one, two = files(tmp_path / "one" / "out"), files(tmp_path / "two" / "out")
    for content in (one, two):
        manifest = yaml.safe_load(content.pop("open_images.yaml"))
        assert manifest["counts"] == {"train": 24, "val": 3, "test": 0}
    assert one == two


def test_a_list_of_ids_and_names_is_enough_with_the_file_of_addresses(world, tmp_path):
    chosen = sorted(world.single, reverse=True)[:6]
    table = pd.DataFrame({"ImageID": [*chosen, "0" * 16], "DisplayName": [*(world.single[i] for i in chosen), "Cat"]})
    table.to_csv(tmp_path / "list.csv", index=False)
    with says("list.csv has no column URL; give Open Images' file of image addresses"):
        rebuild(tmp_path / "list.csv", tmp_path / "out")
    assert rebuild(tmp_path / "list.csv", tmp_path / "out", images_csv=world.csvs[0]) == [f"{'0' * 16}: not in {world.csvs[0]}"]
    split = json.loads((tmp_path / "out" / "split_open_images.json").read_text())
    assert [Path(path).stem for path, _, _ in split["train"]] == chosen and not split["val"]
    # labels count the classes in the order in which the list names them
    assert [name for _, _, name in split["train"]] == [world.single[i] for i in chosen] and split["train"][0][1] == 0


def test_listed_images_are_never_replaced(world, tmp_path):
    build(world, tmp_path / "one")
    listed = pd.read_csv(tmp_path / "one" / "open_images.csv", dtype=str)
    gone, other = listed["ImageID"][0], listed["ImageID"][1]
    for kind in "so":
        world.files.pop(f"/{kind}/{gone}.jpg")
        world.files[f"/{kind}/{other}.jpg"] = jpeg(10**6)  # another picture under the same address
    problems = rebuild(tmp_path / "one" / "open_images.csv", tmp_path / "two")
    assert len(problems) == 2 and problems[0].startswith(gone) and problems[1].startswith(other) and "sha256" in problems[1]
    again = pd.read_csv(tmp_path / "two" / "open_images.csv", dtype=str)
    assert again["ImageID"].tolist() == listed["ImageID"].tolist()[2:]


@pytest.mark.parametrize(
    "text, message",
    [
        ("ImageID,DisplayName,URL\n../../evil,Cat,http://a\n", "Image id '../../evil'"),
        ("ImageID,DisplayName,URL,Split\n0000000000000001,Cat,http://a,all\n", "has the split 'all'; splits are train, val"),
        ("ImageID,Name\n0000000000000001,Cat\n", "list.csv has no column DisplayName; a list of images needs both"),
        ("ImageID,DisplayName,URL\n/etc/passwd00000,Cat,http://a\n", "Image id '/etc/passwd00000'"),
        ("ImageID,DisplayName,URL\n00 00 00 0000 01,Cat,http://a\n", "Image id '00 00 00 0000 01'"),
        ("ImageID,DisplayName,URL\n0000000000000001,,http://a\n,Cat,http://a\n",
         "no DisplayName in 2 rows, the first of which is row 1"),
        ("ImageID,DisplayName,URL\n000000000000000a,Cat,http://a\n000000000000000A,Dog,http://a\n",
         "names 1 images twice with different classes, splits or addresses, such as 000000000000000a; keep one row of each"),
        ("ImageID,DisplayName,URL,Split\n0000000000000001,Cat,http://a,train\n0000000000000001,Cat,http://a,val\n",
         "names 1 images"),
        ("<!DOCTYPE html><html>Log in</html>", "list.csv cannot be read .*it is a web page"),
        ("", "list.csv cannot be read as this file of Open Images .it is an empty file"),
        ("ImageID,DisplayName\n\"0000", "list.csv cannot be read|no DisplayName in 1 rows"),
    ],
)
def test_lists_that_are_none(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with says(message):
        rebuild(tmp_path / "list.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_there_already_must_be_the_listed_image(world, tmp_path):
    build(world, tmp_path / "one")
    list_csv, two = tmp_path / "one" / "open_images.csv", tmp_path / "two"
    listed = pd.read_csv(list_csv, dtype=str)
    whole, other = (two / "images" / image_path(row) for row in listed.head(2).to_dict("records"))
    assert rebuild(list_csv, two) == []
    right = whole.read_bytes()
    other.write_bytes(jpeg(10**6))
    whole.write_bytes(right[:-50])
    problems = rebuild(list_csv, two)
    assert len(problems) == 1 and "has sha256" in problems[0] and str(other) in problems[0] and "remove it" in problems[0]
    assert whole.read_bytes() == right  # fetched again


def test_rows_without_a_checksum_or_with_a_bad_address(world, tmp_path):
    chosen = sorted(world.single)[:4]
    urls = [f"{world.address}/o/{chosen[0]}.jpg", "file:///etc/passwd", None, f"{world.address}/o/{chosen[3]}.jpg"]
    table = pd.DataFrame({"ImageID": chosen, "DisplayName": "Cat " + "x" * 400, "URL": urls,
                          "SHA256": [None, None, None, "no"]})
    table.to_csv(tmp_path / "list.csv", index=False)
    problems = rebuild(tmp_path / "list.csv", tmp_path / "out")
    assert len(problems) == 3 and [sentence.split()[0] for sentence in problems] == chosen[1:]
    assert "Address 'file:///etc/passwd' cannot be fetched" in problems[0] and "Address 'nan'" in problems[1]
    assert pd.read_csv(tmp_path / "out" / "open_images.csv")["ImageID"].tolist() == [chosen[0]]


def test_a_label_of_two_names_is_refused(world, tmp_path):
    with open(world.csvs[2], "a") as file:
        file.write("/m/00,Tiger\n")
    with says("classes.csv names label /m/00 twice, as 'Cat' and 'Tiger'; keep one"):
        build(world, tmp_path / "out")


def test_a_folder_without_a_name_is_refused(world, tmp_path, monkeypatch):
    with says("out = / is no folder that can be made"):
        build(world, "/")
    (tmp_path / "open" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "open" / "below")
    build(world, "..")
    assert yaml.safe_load((tmp_path / "open" / "open_images.yaml").read_text())["source"]["images"] == "open/images"


def test_an_impossible_place_is_one_sentence(world, tmp_path, capsys):
    (tmp_path / "file").touch()
    images, labels, classes = world.csvs
    for out in (tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        code, _, err = cli(capsys, "open-images", "--images-csv", images, "--labels-csv", labels, "--classes-csv", classes,
                           "--n-classes", 2, "--per-class", 4, "--out", out)
        assert code in (1, 2) and "Traceback" not in err and err.splitlines()[-1].count(": ") >= 1, err


def test_no_class_name_leaves_the_folder():
    for name in ("../..", "/etc", "a/b", "..", "Zebra, plains", "C:\\x", "x" * 1000):
        path = Path(image_path({"DisplayName": name, "ImageID": "0" * 16}))
        assert len(path.parts) == 2 and len(path.parts[0]) <= 100 and ".." not in path.parts and not path.is_absolute()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--images-csv", "a", "--n-classes", 2], "--labels-csv, --classes-csv, --per-class is missing; give all of"),
        (["--from", "a", "--n-classes", 2], "--n-classes has no meaning with --from"),
    ],
)
def test_options_that_do_not_go_together(capsys, arguments, message):
    code, _, err = cli(capsys, "open-images", "--out", "x", *arguments)
    assert code == 2 and message in err

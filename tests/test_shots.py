"""Few-shot index files: a published draw gives exactly its images."""

import json

import pytest
from conftest import says
from layouts import write_layout

from clipnotes.data import load_task, read_few_shot, use_few_shot, write_few_shot


@pytest.fixture(scope="module")
def dtd(tmp_path_factory):
    """(manifest, data root, task): DTD with ten images a class, of which five train and two validate."""
    root = tmp_path_factory.mktemp("dtd")
    manifest = write_layout("dtd", root)[1]
    return manifest, root, load_task(manifest, data_root=root)


def published(task, split, rows, prefix="./data/dtd/images/"):
    """Entries as in the public draws, which were made on another machine."""
    part = getattr(task, split)
    return [{"impath": prefix + "/".join(part.images[row].parts[-2:]), "label": int(part.labels[row]),
             "classname": task.classnames[part.labels[row]]} for row in rows]


def test_a_draw_is_written_and_read_back(dtd, tmp_path):
    manifest, root, task = dtd
    few = load_task(manifest, shots=2, seed=5, data_root=root)
    write_few_shot(tmp_path / "draw.json", few)
    again = use_few_shot(task, tmp_path / "draw.json")
    assert again.train.images == few.train.images and again.train.labels.tolist() == few.train.labels.tolist()
    assert again.shots == 2 and len(again.val) == len(task.val) and again.test is task.test
    assert again.split_source == f"{task.split_source}; few-shot file draw.json"
    (tmp_path / "draw.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "draw.json").read_bytes())  # as some editors save it
    read = read_few_shot(tmp_path / "draw.json")
    assert read["train"][0] == (few.train.images[0].as_posix(), 0) and len(read["val"]) == len(task.val)


@pytest.mark.parametrize("form", [lambda rows: rows, lambda rows: {"data": rows, "indices": [0] * len(rows)}])
def test_a_draw_of_another_machine_is_found_by_the_ends_of_its_paths(form, dtd, tmp_path):
    task = dtd[2]
    content = {"train": form(published(task, "train", [7, 200, 3])), "val": form(published(task, "val", [90]))}
    (tmp_path / "draw.json").write_text(json.dumps(content))
    few = use_few_shot(task, tmp_path / "draw.json")
    assert few.train.images == [task.train.images[row] for row in (7, 200, 3)] and few.train.rows.tolist() == [7, 200, 3]
    assert few.val.images == [task.val.images[90]]
    (tmp_path / "draw.json").write_text(json.dumps({"train": published(task, "train", [7])}))
    assert use_few_shot(task, tmp_path / "draw.json").val is task.val


def test_images_of_the_same_name_are_told_apart_by_more_of_their_path(dtd, tmp_path):
    from dataclasses import replace

    from clipnotes.data.tasks import Split

    root = dtd[1]
    paths = [root / place / "cat" / "1.jpg" for place in ("left", "right")]
    task = replace(dtd[2], train=Split([0, 0], lambda: paths, "twins"))
    (tmp_path / "draw.json").write_text(json.dumps({"train": [{"impath": "x/right/cat/1.jpg", "label": 0}]}))
    assert use_few_shot(task, tmp_path / "draw.json").train.images == [paths[1]]


def test_a_draw_that_does_not_fit(dtd, tmp_path):
    task, path = dtd[2], tmp_path / "draw.json"
    path.write_text(json.dumps({"train": published(task, "train", [0]) + [{"impath": "dtd/images/banded/99.jpg", "label": 0}]}))
    with says(r"^Image dtd/images/banded/99.jpg of few-shot file .*draw.json is not in the train split of dtd \(equivalent "):
        use_few_shot(task, path)
    path.write_text(json.dumps({"train": published(task, "test", [0])}))
    with says(r"^Image ./data/dtd/images/banded/\d.jpg of .* is not in the train split .*; the draw belongs to another data "):
        use_few_shot(task, path)
    wrong = published(task, "train", [0])
    wrong[0]["label"] = 5
    path.write_text(json.dumps({"train": wrong}))
    with says(r"^Image .* has label 5 in few-shot file .*, but 0 \(banded\) in dtd; the file has another order of classes.$"):
        use_few_shot(task, path)


@pytest.mark.parametrize(
    "content", ["[", "[]", '{"train": [["a", 0]]}', '{"train": [{"impath": "a"}]}', '{"train": {"rows": []}}']
)
def test_not_an_index_file(content, tmp_path):
    (tmp_path / "draw.json").write_text(content)
    with says(r"^Few-shot file .*draw.json cannot be read \(.*\); it must hold lists train and val of {impath, label, classn"):
        read_few_shot(tmp_path / "draw.json")


def test_no_file_no_training_images_and_no_image_files(dtd, tmp_path):
    with says("^Few-shot file gone.json does not exist; check the path, or write one with write_few_shot.$"):
        read_few_shot("gone.json")
    (tmp_path / "draw.json").write_text('{"train": [], "val": []}')
    with says("^Few-shot file .*draw.json lists no training images; give one that does.$"):
        use_few_shot(dtd[2], tmp_path / "draw.json")
    with says("^digits has its images in memory, not in files that an index could name; "):
        write_few_shot(tmp_path / "draw.json", load_task("digits", shots=1))
    assert (tmp_path / "draw.json").read_text() == '{"train": [], "val": []}'

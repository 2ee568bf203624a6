"""Encodings that were broken off: they go on where they were, come out the same bit for bit, and need little memory."""

import os
import shutil
import signal
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from clipnotes.backbone import attach, load_clip
from clipnotes.backbone import clip as backbone
from clipnotes.backbone.clip import Clip, default_workers
from clipnotes.backbone.pictures import ImageReader
from clipnotes.cli.main import main
from clipnotes.data import FeatureBank, cache, encode_task, load_task
from clipnotes.data.features import encode_split
from clipnotes.data.tasks import Split


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own, where a part is kept after every batch."""
    monkeypatch.setenv("CLIPNOTES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "PART_SECONDS", 0)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder of image files: two classes of forty."""
    folder, rng = tmp_path_factory.mktemp("own") / "shapes", np.random.default_rng(0)
    for name in ("round", "square"):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def split():
    pixels = np.random.default_rng(1).integers(0, 256, (50, 40, 40, 3), dtype=np.uint8)
    return Split(np.zeros(50), lambda: pixels, "noise")


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


class Stop(BaseException):
    """As abrupt as Ctrl-C."""


@pytest.fixture
def seen(monkeypatch):
    """Counts the images that are encoded, as `seen.images`; with `seen.stop_after` batches, Stop comes."""
    counter, encode = SimpleNamespace(images=0, batches=0, stop_after=None), Clip.encode_batches

    def encode_batches(self, *data, **options):
        for batch in encode(self, *data, **options):
            if counter.batches == counter.stop_after:
                raise Stop
            counter.images, counter.batches = counter.images + len(batch), counter.batches + 1
            yield batch

    monkeypatch.setattr(Clip, "encode_batches", encode_batches)
    return counter


def broken_off(seen, batches, *arguments, **options):
    """What `encode_split` had done when it was stopped after so many batches: images encoded."""
    seen.images, seen.batches, seen.stop_after = 0, 0, batches
    with pytest.raises(Stop):
        encode_split(*arguments, **options, progress=False)
    done, seen.images, seen.stop_after = seen.images, 0, None
    return done


KILLED = """
import os, signal, sys
from clipnotes.backbone.clip import Clip
from clipnotes.data import cache
from clipnotes.cli.main import main

cache.PART_SECONDS, encode, left = 0, Clip.encode_batches, iter(range(int(sys.argv[1])))

def encode_batches(self, *data, **options):
    for batch in encode(self, *data, **options):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

Clip.encode_batches = encode_batches
main(sys.argv[2:])
"""


def test_the_command_goes_on_after_a_kill_and_its_bank_is_the_same(shapes, tmp_path, monkeypatch, capsys, seen, own_cache):
    clip = load_clip("pocket-vit")
    out = tmp_path / "shapes.npz"
    arguments = ["features", "--dataset", f"folder:{shapes}", "--out", str(out), "--batch-size", "8"]
    killed = subprocess.run([sys.executable, "-c", KILLED, "3", *arguments], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists() and files(own_cache)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0 and capsys.readouterr().out == f"{out}: train 40x128, val 16x128, test 24x128, 2 classes\n"
    assert seen.images == 80 - 24
    assert len(files(own_cache)) == 3, "three splits, and no part is left"

    monkeypatch.setenv("CLIPNOTES_CACHE", str(tmp_path / "other"))
    task, bank = load_task(f"folder:{shapes}"), FeatureBank.load(out)
    unbroken = encode_task(clip, task, batch_size=8, progress=False)
    for split in ("train", "val", "test"):
        ours, theirs = getattr(bank, split), getattr(unbroken, split)
        assert torch.equal(ours.x, theirs.x) and torch.equal(ours.y, theirs.y), split
    assert torch.equal(bank.text, unbroken.text)
    assert bank.classnames == ["round", "square"]
    assert torch.equal(bank.train.x, clip.encode_images(task.train.images, batch_size=8, progress=False))


@pytest.mark.parametrize("batches", [0, 1, 4, 6])
def test_rows_are_the_same_wherever_it_was_stopped(batches, split, seen, clip):
    whole = clip.encode_images(split.images, batch_size=8, progress=False)
    assert broken_off(seen, batches, clip, split, batch_size=8) == 8 * batches
    assert torch.equal(encode_split(clip, split, batch_size=8, progress=False), whole)
    assert seen.images == 50 - 8 * batches


@pytest.mark.parametrize("batches", [2, 7, 8, 13])  # of 7 a view
def test_views_go_on_too(batches, split, seen, clip):
    views = clip.encode_views(split.images, 2, seed=3, batch_size=8, progress=False)
    done = broken_off(seen, batches, clip, split, views=2, view_seed=3, batch_size=8)
    assert torch.equal(encode_split(clip, split, views=2, view_seed=3, batch_size=8, progress=False), views)
    assert seen.images == 100 - done


def test_it_may_be_stopped_again_and_again(split, seen, clip, own_cache):
    done = [broken_off(seen, 2, clip, split, batch_size=8) for _ in range(3)]
    assert done == [16, 16, 16] and len(files(own_cache)) == 6
    assert torch.equal(encode_split(clip, split, batch_size=8, progress=False), clip.encode_images(split.images, 8, False))
    (kept,) = files(own_cache)
    assert kept.parent == own_cache / "features"


def test_parts_of_other_batches_or_damaged_ones_are_not_taken(split, seen, clip, own_cache):
    broken_off(seen, 4, clip, split, batch_size=8)
    parts = sorted(files(own_cache), key=os.path.getmtime)
    encode_split(clip, Split(split.labels, lambda: split.images, "other"), batch_size=8, progress=False)
    assert seen.images == 50
    broken_off(seen, 1, clip, split, batch_size=16)
    damaged = bytearray(parts[1].read_bytes())
    damaged[-1] ^= 1
    parts[1].write_bytes(damaged)
    assert torch.equal(encode_split(clip, split, batch_size=8, progress=False), clip.encode_images(split.images, 8, False))
    assert seen.images == 50 - 8 + 50  # all but the first part, and the comparison's


def test_parts_are_kept_after_some_time_only(split, seen, clip, own_cache, monkeypatch):
    monkeypatch.setattr(cache, "PART_SECONDS", 3600)
    broken_off(seen, 6, clip, split, batch_size=8)
    assert not files(own_cache)


def test_a_stopped_encoding_leaves_adapters_off(split, seen, clip):
    adapted, before = attach(clip, width=4), clip.encode_images(split.images[:8], progress=False)
    torch.nn.init.normal_(adapted.adapters.blocks["0"].up.weight)
    assert broken_off(seen, 2, adapted, split, batch_size=8) == 16
    assert torch.equal(clip.encode_images(split.images[:8], progress=False), before)
    rows = encode_split(adapted, split, batch_size=8, progress=False)
    assert torch.equal(rows, adapted.encode_images(split.images, 8, False)) and not torch.equal(rows[:8], before)


def test_where_nothing_can_be_kept_there_is_still_a_result(split, clip, monkeypatch, own_cache):
    own_cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="features could not be kept in .*; set CLIPNOTES_CACHE to another folder"):
        rows = encode_split(clip, split, batch_size=8, progress=False)
    assert torch.equal(rows, clip.encode_images(split.images, 8, False))


# --- memory and workers -------------------------------------------------------------------------------------------


def test_the_pixels_of_a_few_batches_are_in_memory_at_a_time(split, clip, monkeypatch):
    alive, most = set(), 0

    def preprocess(image):
        nonlocal most
        pixels = prepare(image)
        alive.add(id(pixels))
        weakref.finalize(pixels, alive.discard, id(pixels))
        most = max(most, len(alive))
        return pixels

    prepare = clip.preprocess
    monkeypatch.setattr(clip, "preprocess", preprocess)
    clip.encode_images(split.images, batch_size=5, progress=False)
    assert 5 <= most <= 10, "50 images went through"


def test_the_last_rows_can_be_had_alone_and_workers_change_nothing(shapes, clip):
    paths = sorted(shapes.rglob("*.png"))
    data, whole = ImageReader(paths, clip.preprocess), clip.encode_images(paths, 8, False, workers=0)
    for start in (0, 24, 72):
        assert torch.equal(torch.cat(list(clip.encode_batches(data, start, 8, False, 1))), whole[start:])
    assert [batch.shape for batch in clip.encode_batches(data, 80, 8)] == [(0, clip.dim)]


@pytest.mark.parametrize("n, device, cores, workers", [
    (1000, "cpu", 2, 1), (1000, "cpu", 16, 1), (1000, "cpu", 1, 0), (1000, "cpu", None, 0), (1000, "cuda", 16, 15),
    (100, "cuda", 16, 0),
])
def test_files_are_read_beside_the_encoder(n, device, cores, workers, monkeypatch):
    monkeypatch.setattr(backbone.os, "cpu_count", lambda: cores)
    for images, expected in ((["a.jpg"] * n, workers), (np.zeros((n, 2, 2, 3), np.uint8), 0)):
        assert default_workers(ImageReader(images, None).images, n, 64, device) == expected


# --- the command's other options ----------------------------------------------------------------------------------


def test_the_command_passes_shots_views_and_format_on(shapes, tmp_path, clip, capsys):
    out = tmp_path / "shapes.safetensors"
    with pytest.raises(SystemExit) as caught:
        main(["features", "--dataset", f"folder:{shapes}", "--out", str(out), "--shots", "3", "--seed", "5", "--views", "2",
              "--workers", "0", "--device", "cpu", "--model", "pocket-vit"])
    assert caught.value.code == 0 and "train 2x6x128" in capsys.readouterr().out
    task = load_task(f"folder:{shapes}", shots=3, seed=5)
    assert torch.equal(FeatureBank.load(out).train.x, clip.encode_views(task.train.images, 2, seed=5, progress=False))


@pytest.mark.parametrize("arguments, message", [
    (["--dataset", "digits", "--out", "x.csv"], "Error: Cannot save a bank as x.csv; the name must end in .npz"),
    (["--dataset", "nothing", "--out", "x.npz"], "Error: Unknown data set 'nothing'; choose one of "),
    (["--dataset", "folder:gone", "--out", "x.npz"], "Error: Image folder "),
    (["--dataset", "digits", "--out", "x.npz", "--model", "pocket-xl"], "Error: Unknown model 'pocket-xl'"),
    (["--dataset", "digits", "--out", "x.npz", "--shots", "999"], "Error: Class 0 (zero) has "),
    (["--dataset", "digits", "--out", "x.npz", "--device", "abacus"], "Error: device = 'abacus' cannot be used"),
])
def test_the_command_s_mistakes_are_one_line_and_leave_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["features", *arguments])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith(message) and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_unreadable_file_ends_the_command_with_its_name(shapes, tmp_path, capsys):
    copy = shutil.copytree(shapes, tmp_path / "copy")
    (copy / "round" / "3.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit) as caught:
        main(["features", "--dataset", f"folder:{copy}", "--out", str(tmp_path / "x.npz"), "--batch-size", "4"])
    last = capsys.readouterr().err.splitlines()[-1]  # the progress bar stands before it
    assert caught.value.code == 2 and f"Error: Image {copy / 'round' / '3.png'} cannot be read" in last
    assert not (tmp_path / "x.npz").exists()

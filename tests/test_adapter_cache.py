"""Trained adapters in the cache: whatever happens to the files there, the adapters are the same."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from clipnotes.analysis import corrected
from clipnotes.analysis.corrected import generic_adapters
from clipnotes.backbone import AdaptedClip, adapter_training
from clipnotes.backbone.adapter_training import train_supervised
from clipnotes.errors import ClipnotesError

SMALL = adapter_training.SupervisedConfig(epochs=2, batch_size=4, width=4)


@pytest.fixture(scope="module")
def pictures():
    labels = np.arange(12) % 3
    return np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), dtype=np.uint8), labels


@pytest.fixture
def cache(tmp_path, monkeypatch, clip, pictures):
    """`adapters()`: from the cache or trained anew; `folder`: of the cache; `trainings`: how often one was begun."""
    monkeypatch.setenv("CLIPNOTES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(adapter_training.SUPERVISED_RECIPES, "pocket", SMALL)
    images, labels = pictures
    task = SimpleNamespace(train=SimpleNamespace(images=images, labels=labels, fingerprint="f"))
    cache = SimpleNamespace(folder=tmp_path / "cache" / "adapters", trainings=0)
    trained = corrected.trained_adapters

    def counted(*arguments):
        cache.trainings += 1
        return trained(*arguments)

    monkeypatch.setattr(corrected, "trained_adapters", counted)
    cache.adapters = lambda fingerprint="f": generic_adapters(
        clip, SimpleNamespace(train=SimpleNamespace(**vars(task.train) | {"fingerprint": fingerprint})), "supervised adapters",
        progress=False)
    return cache


def file_of(cache):
    (path,) = cache.folder.glob("*.safetensors")
    return path


def test_adapters_are_trained_once(cache):
    first, again = cache.adapters(), cache.adapters()
    assert cache.trainings == 1 and first.fingerprint == again.fingerprint and first.losses == again.losses
    assert [path.suffix for path in sorted(cache.folder.iterdir()) if not path.name.startswith(".")] == [".safetensors"]


def flipped(content, at):
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


DAMAGES = {
    "a bit of the weights": lambda b: flipped(b, -1), "a bit of the facts": lambda b: flipped(b, b.index(b"supervised")),
    "cut": lambda b: b[:-9], "empty": lambda b: b"", "a web page": lambda b: b"<html>", "longer": lambda b: b + bytes(8),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_made_anew(cache, damage):
    first = cache.adapters()
    path = file_of(cache)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.adapters().fingerprint == first.fingerprint and cache.trainings == 2
    cache.adapters()
    assert cache.trainings == 2


def test_a_file_of_other_adapters_is_not_taken(cache):
    cache.adapters()
    mine = file_of(cache)
    content = mine.read_bytes()
    mine.unlink()
    cache.adapters("g")
    other = file_of(cache)
    other.write_bytes(content)  # whole, for the same CLIP, from other images
    cache.adapters("g")
    assert cache.trainings == 3


@pytest.mark.parametrize("what", ["folder", "dangling link", "loop"])
def test_other_things_in_the_files_place_make_way(cache, what, tmp_path):
    first = cache.adapters()
    path = file_of(cache)
    path.unlink()
    if what == "folder":
        path.mkdir()
        (path / "note.txt").write_text("mine")
    else:
        path.symlink_to(path if what == "loop" else tmp_path / "gone")
    for _ in range(2):
        assert cache.adapters().fingerprint == first.fingerprint
    assert cache.trainings == 2 and path.is_file() and not path.is_symlink()
    assert what != "folder" or path.with_name(f"{path.name}.folder").joinpath("note.txt").read_text() == "mine"


def test_where_nothing_can_be_kept_the_adapters_come_all_the_same(cache, tmp_path):
    first = cache.adapters()
    (tmp_path / "cache").rename(tmp_path / "old")
    (tmp_path / "cache").write_text("a file where the cache should be")
    with pytest.warns(UserWarning, match="adapters could not be kept in .*; set CLIPNOTES_CACHE to another folder"), \
            pytest.warns(UserWarning, match="the checkpoint .* cannot be written .*; the training goes on"):
        assert cache.adapters().fingerprint == first.fingerprint


@pytest.mark.parametrize("content", [b"half", b"", lambda b: flipped(b, -100), lambda b: b[:-1]])
def test_a_damaged_checkpoint_in_the_cache_is_made_anew(cache, content, monkeypatch):
    first, forward, calls = cache.adapters(), AdaptedClip.forward, []
    path = file_of(cache)
    path.unlink()

    def dies(self, batch):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(AdaptedClip, "forward", dies)
    options = adapter_training.Checkpoint
    monkeypatch.setattr(adapter_training, "Checkpoint", lambda path, every, *rest: options(path, 1, *rest))
    with pytest.raises(KeyboardInterrupt):
        cache.adapters()
    checkpoint = path.with_suffix(".pt")
    checkpoint.write_bytes(content(checkpoint.read_bytes()) if callable(content) else content)
    assert cache.adapters().fingerprint == first.fingerprint
    assert not checkpoint.exists() and path.is_file()


# --- checkpoints that a user names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage, reason",
    [(lambda b: flipped(b, -100), "it was changed since it was written: its checksum is another"),
     (lambda b: b[:-1], "it was changed since it was written"),
     (lambda b: b"x", "it was not written as the state of a training"),
     (lambda b: b"<html>", "it is a web page")],
)
def test_a_damaged_checkpoint_is_refused_with_its_reason(clip, pictures, tmp_path, damage, reason):
    path = tmp_path / "checkpoint.pt"
    train_supervised(clip, *pictures, **asdict(SMALL), checkpoint=path, progress=False)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ClipnotesError, match=rf"^Checkpoint .*checkpoint.pt cannot be read \({reason}.*; delete it to start"):
        train_supervised(clip, *pictures, **asdict(SMALL), checkpoint=path, progress=False)


def test_a_checkpoint_that_cannot_be_written_does_not_stop_the_training(clip, pictures, tmp_path):
    (tmp_path / "file").touch()
    expected = train_supervised(clip, *pictures, **asdict(SMALL), progress=False)
    for path in (tmp_path / "file" / "checkpoint.pt", tmp_path):
        with pytest.warns(UserWarning, match="the checkpoint .* cannot be written"):
            adapted = train_supervised(clip, *pictures, **asdict(SMALL), checkpoint=path, progress=False)
        assert adapted.fingerprint == expected.fingerprint

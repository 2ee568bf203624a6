"""Feature banks in memory, in files, and in the disk cache."""

import pickle
import re
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from conftest import says

from clipnotes.data import FeatureBank, FeatureSplit, Task, encode_task, few_shot
from clipnotes.data.cache import cache_dir, cached
from clipnotes.data.tasks import Split

NAMES = ["cat", "größer als drei", "ice cream"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own: the user's is never touched."""
    monkeypatch.setenv("CLIPNOTES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def parts(views=None, seed=0):
    rng = np.random.default_rng(seed)
    shape = (12, 8) if views is None else (views, 12, 8)
    return {
        "train_x": rng.normal(size=shape).astype(np.float32),
        "train_y": np.arange(12) % 3,
        "test_x": rng.normal(size=(5, 8)).astype(np.float32),
        "test_y": np.array([0, 1, 2, 0, 1]),
    }


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("views", [None, 4])
def test_a_bank_comes_back_from_a_file(suffix, views, tmp_path):
    text = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    paths = [f"ü/{i}.jpg" for i in range(12)]
    bank = FeatureBank.from_arrays("toy", parts(views) | {"classnames": NAMES, "text": text, "train_path": paths})
    path = tmp_path / "new" / f"toy.{suffix}"
    bank.save(path)
    loaded = FeatureBank.load(str(path))
    assert loaded.name == "toy" and loaded.classnames == NAMES and loaded.train.path == paths
    pairs = [(bank.train.x, loaded.train.x), (bank.train.y, loaded.train.y), (bank.test.x, loaded.test.x),
             (bank.test.y, loaded.test.y), (bank.text, loaded.text)]
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
    assert loaded.train.x.dtype == torch.float32 and loaded.train.y.dtype == torch.int64
    assert list(loaded.splits) == ["train", "test"] and loaded.n_classes == 3 and loaded.dim == 8
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file stays


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_bank_may_be_no_more_than_one_split(suffix, tmp_path):
    path = tmp_path / f"b.{suffix}"
    FeatureBank("b", {"val": FeatureSplit(torch.eye(4), [0, 0, 1, 5])}).save(path)
    loaded = FeatureBank.load(path)
    assert loaded.classnames is None and loaded.text is None and loaded.n_classes == 6
    assert list(loaded.splits) == ["val"]


def test_banks_of_others_half_precision_short_labels_and_further_keys(tmp_path):
    content = parts()
    np.savez(
        tmp_path / "b.npz",
        train_x=content["train_x"].astype(np.float16),
        train_y=content["train_y"].astype(np.int16),
        classnames=np.array(NAMES),
        model=np.array("ViT-B/32"),
    )
    bank = FeatureBank.load(tmp_path / "b.npz")
    assert bank.train.x.dtype == torch.float32 and bank.train.y.dtype == torch.int64 and bank.classnames == NAMES
    assert np.array_equal(bank.train.x, content["train_x"].astype(np.float16))


class Harmful:
    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return open, (self.trace, "w")


def test_pickles_and_damaged_files_are_refused(tmp_path):
    trace = tmp_path / "trace"
    np.savez(tmp_path / "object.npz", train_x=np.array([Harmful(trace)], dtype=object), train_y=[0])
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Harmful(trace)))
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps(Harmful(trace)))
    FeatureBank.from_arrays("b", parts()).save(tmp_path / "cut.npz")
    FeatureBank.from_arrays("b", parts()).save(tmp_path / "cut.safetensors")
    for path in tmp_path.glob("cut.*"):
        path.write_bytes(path.read_bytes()[:-30])
    for name, problem in (
        ("object.npz", "has Python objects in train_x, which are never read"), ("pickle.npz", "is a Python pickle"),
        ("pickle.safetensors", "is a Python pickle"), ("cut.npz", "is damaged or was written by something else"),
        ("cut.safetensors", "is damaged or was written by something else"),
    ):
        with says(f"^Feature file {re.escape(str(tmp_path / name))} {problem}; a feature file is .npz or .safetensors with"):
            FeatureBank.load(tmp_path / name)
    assert not trace.exists()


@pytest.mark.parametrize("name, content, problem", [
    ("b.npy", b"\x93NUMPY\x01", "is a NumPy array"), ("b.pt", b"PK\x03\x04", "is a zip archive .*PyTorch"),
    ("b.npz", b"<!DOCTYPE html><p>404", "is a web page"), ("b.safetensors", b"<html>", "is a web page"),
    ("b.npz", b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
    ("b.npz", b"", "is an empty file"), ("b.npz", b"1,2", "is damaged or was written"),
    ("b.csv", b"1,2", "is of the type .csv"), ("b", b"1,2", "is of no known type"),
])  # fmt: skip
def test_a_file_of_another_kind_is_named(name, content, problem, tmp_path):
    (tmp_path / name).write_bytes(content)
    with says(f"^Feature file .* {problem}") as caught:
        FeatureBank.load(tmp_path / name)
    assert "pickle" not in str(caught.value) and "\n" not in str(caught.value)


def test_files_of_other_programs(tmp_path):
    from safetensors.torch import save_file

    content = {key: torch.as_tensor(value) for key, value in parts().items()}
    save_file(content | {"logits": torch.zeros(3)}, tmp_path / "b.safetensors", metadata={"format": "pt"})
    assert torch.equal(FeatureBank.load(tmp_path / "b.safetensors").train.x, content["train_x"])
    np.savez(tmp_path / "b.npz", **parts())
    (tmp_path / "b.npz").rename(tmp_path / "B.NPZ")
    assert list(FeatureBank.load(tmp_path / "B.NPZ").splits) == ["train", "test"]
    np.savez(tmp_path / "c.npz", **(parts() | {"train_x": parts()["train_x"] + 1j}))
    with says("^train_x of bank c holds values of type complex64; features are real numbers.$"):
        FeatureBank.load(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", features=np.zeros(3))
    with says("d.npz holds none of these arrays; a feature file is"):
        FeatureBank.load(tmp_path / "d.npz")
    save_file(content, tmp_path / "e.safetensors", metadata={"classnames": "cat, dog"})
    with says("e.safetensors has metadata classnames that are no JSON lists of texts"):
        FeatureBank.load(tmp_path / "e.safetensors")
    np.savez(tmp_path / "f.npz", **parts(), val_x=np.zeros((0, 8)), val_y=np.zeros(0, int))  # written by older versions
    assert "val" not in FeatureBank.load(tmp_path / "f.npz").splits


def test_file_names(tmp_path):
    with says("^Feature file gone.npz does not exist; check the path, or make it with `clipnotes features`.$"):
        FeatureBank.load("gone.npz")
    with says("^Cannot save a bank as b.csv; the name must end in .npz or .safetensors.$"):
        FeatureBank.from_arrays("b", parts()).save(tmp_path / "b.csv")


# --- what a bank must be ------------------------------------------------------------------------------------------


def test_one_view_is_the_image_itself():
    plain = parts()
    bank = FeatureBank.from_arrays("toy", plain | {"train_x": plain["train_x"][None], "test_x": plain["test_x"][None]})
    assert np.allclose(bank.train.x, plain["train_x"]) and np.allclose(bank.test.x, plain["test_x"])


def with_nan():
    x = parts()["train_x"]
    x[3, 2], x[7, 0], x[7, 1] = np.nan, np.inf, np.nan
    return x


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train_x": with_nan()}, "2 rows of train_x of bank toy hold NaN or infinite values; encode them again"),
        ({"train_x": np.zeros(12)}, r"train_x of bank toy has shape \[12\], but must be \[N, d\] or, with"),
        ({"train_x": "many"}, "train_x of bank toy = 'many' is no array of numbers"),
        ({"test_x": np.zeros((5, 9))}, r"Bank toy: features of sizes \[8, 9\]; one bank holds one model"),
        ({"train_y": np.zeros(11, int)}, r"train_y of bank toy has shape \[11\], but there are 12 rows of features"),
        ({"train_y": np.zeros((12, 1), int)}, r"train_y of bank toy has shape \[12, 1\], but there are 12 rows"),
        ({"train_y": np.arange(12) / 4}, "train_y of bank toy holds values of type float64; labels must be whole numbers"),
        ({"train_x": np.zeros((12, 2, 8))}, r"train_y of bank toy has shape \[12\], but there are 2 rows"),  # views come first
        ({"test_y": [0, 1, 2, 3, 0]}, "Label 3 in test_y of bank toy is out of range; labels must be 0 to 2"),
        ({"test_y": [0, -1, 2, 2, 0]}, "Label -1 in test_y of bank toy is out of range; labels must be 0 to 2"),
        ({"test_y": [0, 10**15, 2, 2, 0], "classnames": None}, "Label 1000000000000000 in test_y of bank toy is out of range"),
        ({"test_y": None}, "Bank toy: test_x and test_y must come together, one is missing"),
        ({"text": np.ones((2, 8))}, r"Text of bank toy has shape \[2, 8\], but must be \[3, d\], one row a class"),
        ({"text": np.ones((3, 1, 8))}, r"Text of bank toy has shape \[3, 1, 8\], but must be \[3, d\]"),
        ({"text": np.ones((3, 9))}, r"Bank toy: features of sizes \[8, 9\]"),
        ({"text": np.full((3, 8), np.nan)}, "3 rows of text of bank toy hold NaN"),
        ({"classnames": "abc"}, "classnames of bank toy = 'abc' is no list of names"),
        ({"classnames": ["cat", "dog", 3]}, r"classnames of bank toy\[2\] = 3 is no class name"),
        ({"classnames": ["cat", " ", "cow"]}, r"classnames of bank toy\[1\] = ' ' is no class name"),
        ({"classnames": ["cat", ["dog"], "cow"]}, r"classnames of bank toy\[1\] = \['dog'\] is no class name"),
        ({"train_path": ["a.jpg"]}, "train_path of bank toy has 1 entries, but there are 12 images"),
    ],
)
def test_bad_content(change, message):
    with says(f"^{message}"):
        FeatureBank.from_arrays("toy", parts() | {"classnames": NAMES} | change)


def test_a_bank_needs_a_split():
    with says("^Bank toy has no split; give at least one of train, val and test.$"):
        FeatureBank("toy", classnames=NAMES)
    with says("^Label -2 in train_y of bank toy is out of range; labels must be 0 or more.$"):
        FeatureBank("toy", {"train": FeatureSplit(np.zeros((1, 8)), [-2])})


def test_features_are_raw_and_unit_only_where_asked_for():
    content = parts(views=4)
    bank = FeatureBank.from_arrays("toy", content)
    assert np.array_equal(bank.test.x, content["test_x"]) and np.array_equal(bank.test.y, content["test_y"])
    for part, plain in ((bank.test, content["test_x"]), (bank.train, content["train_x"].mean(0))):
        assert np.allclose(part.unit(), plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)
        assert part.unit().shape == (len(part), 8)
    with says("^Bank toy has no val split; it has train, test.$"):
        bank.val  # noqa: B018


@pytest.mark.parametrize("views", [None, 4])
def test_few_shots_of_a_bank(views):
    paths = [f"{i}.jpg" for i in range(12)]
    bank = FeatureBank.from_arrays("toy", parts(views) | {"classnames": NAMES, "train_path": paths})
    few, rows = bank.few_shot(2, seed=5), few_shot(parts()["train_y"], 2, 5)
    assert torch.equal(few.train.x, bank.train.x[..., rows, :]) and few.train.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert few.train.path == [paths[row] for row in rows]
    assert few.test.x.data_ptr() == bank.test.x.data_ptr() and len(bank.train.y) == 12
    with says(r"^Class 0 \(cat\) has 4 training images, fewer than shots=5; ask for at most 4 shots.$"):
        bank.few_shot(5, seed=1)


@pytest.mark.parametrize("shots", [0, -1, 2.0, True, "two"])
def test_shots_are_whole_numbers(shots):
    with says("^shots = .*; it must be a whole number of 1 or more.$"):
        FeatureBank.from_arrays("toy", parts()).few_shot(shots, seed=1)


def test_few_shots_need_a_training_split():
    with says("^Bank toy has no train split; it has val.$"):
        FeatureBank("toy", {"val": FeatureSplit(torch.eye(2), [0, 1])}).few_shot(1, seed=1)


# --- the disk cache -----------------------------------------------------------------------------------------------


def test_the_cache_lies_where_the_user_says(own_cache, monkeypatch, tmp_path):
    assert cache_dir() == own_cache
    monkeypatch.delenv("CLIPNOTES_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "clipnotes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "clipnotes"


@dataclass
class Counting:
    """Computes a tensor and counts how often it had to."""

    value: torch.Tensor = field(default_factory=lambda: torch.arange(6.0).reshape(2, 3))
    calls: int = 0

    def __call__(self):
        self.calls += 1
        return self.value


def never():
    raise AssertionError("computed in spite of a good file")


KEY = {"model": "a", "images": "b"}


def test_a_hit_computes_nothing_and_another_key_misses(own_cache):
    compute = Counting()
    for _ in range(3):
        assert torch.equal(cached(KEY, compute), compute.value)
    assert torch.equal(cached(dict(reversed(KEY.items())), compute), compute.value)  # the order of a key is nothing
    assert compute.calls == 1
    cached(KEY | {"model": "c"}, compute)
    assert compute.calls == 2 and len(list(own_cache.rglob("*.safetensors"))) == 2


def test_every_flipped_byte_is_noticed(own_cache):
    cached(KEY, Counting())
    (path,) = own_cache.rglob("*.safetensors")
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x01
        path.write_bytes(damaged)
        compute = Counting()
        x = cached(KEY, compute)
        assert torch.equal(x, compute.value) and x.dtype == torch.float32, f"byte {position}"
        cached(KEY, never)  # replaced by a good one
    assert compute.calls == 1  # the last byte is data


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:7], lambda b: b"", lambda b: b + b"\0", lambda b: pickle.dumps([1])]
)
def test_truncated_or_foreign_content_is_replaced(damage, own_cache):
    cached(KEY, Counting())
    (path,) = own_cache.rglob("*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    compute = Counting()
    assert torch.equal(cached(KEY, compute), compute.value)
    assert compute.calls == 1 and torch.equal(cached(KEY, never), compute.value)


def test_a_file_of_another_key_is_not_taken(own_cache):
    cached(KEY, Counting(torch.zeros(2)))
    (mine,) = own_cache.rglob("*.safetensors")
    cached(KEY | {"model": "c"}, Counting(torch.ones(2)))
    (other,) = set(own_cache.rglob("*.safetensors")) - {mine}
    mine.write_bytes(other.read_bytes())
    assert cached(KEY, Counting(torch.zeros(2))).tolist() == [0, 0]


@pytest.mark.parametrize("old, new", [(b"[2,3]", b"[3,2]"), (b'"F32"', b'"I32"')])
def test_another_shape_or_type_of_the_same_bytes_is_not_taken(old, new, own_cache):
    cached(KEY, Counting())
    (path,) = own_cache.rglob("*.safetensors")
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    compute = Counting()
    assert torch.equal(cached(KEY, compute), compute.value) and compute.calls == 1


@pytest.mark.parametrize("what", ["folder", "dangling link", "loop"])
def test_other_things_in_a_files_place_make_way(what, own_cache, tmp_path):
    cached(KEY, Counting())
    (path,) = own_cache.rglob("*.safetensors")
    path.unlink()
    if what == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if what == "loop" else tmp_path / "gone")
    compute = Counting()
    assert torch.equal(cached(KEY, compute), compute.value) and compute.calls == 1
    assert torch.equal(cached(KEY, never), compute.value) and path.is_file() and not path.is_symlink()


def test_a_failed_computation_leaves_nothing(own_cache):
    with pytest.raises(ZeroDivisionError):
        cached(KEY, lambda: 1 / 0)
    assert not [p for p in own_cache.rglob("*") if p.is_file() and p.suffix != ".lock"]


class FakeClip:
    """Features are mean colours; counts the images it was shown."""

    def __init__(self, fingerprint="one"):
        self.fingerprint, self.seen = fingerprint, 0

    def preprocess(self, image):
        return torch.from_numpy(np.asarray(image, dtype=np.float32)).mean((0, 1))

    def encode_batches(self, data, start, batch_size, progress=True, workers=None):
        for row in range(start, len(data), batch_size):
            batch = torch.stack([data[i] for i in range(row, min(row + batch_size, len(data)))])
            self.seen += len(batch)
            yield batch

    def classifier(self, classnames, templates):
        return torch.eye(3)[: len(classnames)]


def toy_task(seed=0, sizes=(6, 4, 2)):
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (n, 2, 2, 3), dtype=np.uint8) for n in sizes]
    splits = [Split(np.arange(len(x)) % 2, lambda x=x: x, f"toy {seed} {i}") for i, x in enumerate(images)]
    return Task("toy", *splits, classnames=["a", "b"], templates=["{}"])


def test_a_task_is_encoded_once():
    clip, task = FakeClip(), toy_task()
    bank = encode_task(clip, task)
    assert clip.seen == 12 and torch.equal(bank.text, torch.eye(3)[:2]) and bank.classnames == ["a", "b"]
    for split in ("train", "val", "test"):
        part = getattr(task, split)
        assert np.allclose(getattr(bank, split).x, part.images.mean((1, 2)))
        assert torch.equal(getattr(bank, split).y, part.labels)
    again = encode_task(clip, toy_task())
    assert clip.seen == 12 and torch.equal(again.train.x, bank.train.x)


@pytest.mark.parametrize(
    "clip, task, new",
    [
        (FakeClip("two"), toy_task(), 12),  # other weights
        (FakeClip(), toy_task(seed=1), 12),  # other images
        (FakeClip(), toy_task(sizes=(6, 4, 3)), 3),  # one split of another size
    ],
)
def test_whatever_shapes_the_features_is_in_the_key(clip, task, new):
    encode_task(FakeClip(), toy_task())
    clip.seen = 0
    encode_task(clip, task)
    assert clip.seen == new


def test_a_subset_of_a_split_is_not_the_split():
    task = toy_task()
    encode_task(FakeClip(), task)
    few = Task("toy", task.train.take([4, 1]), task.val, task.test, ["a", "b"], ["{}"])
    clip = FakeClip()
    bank = encode_task(clip, few)
    assert clip.seen == 2 and np.allclose(bank.train.x, task.train.images[[4, 1]].mean((1, 2)))

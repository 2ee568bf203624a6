"""Label noise: exact counts, whatever the draw; the released sampler against the published statistics; files; bad input."""

import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN, says
from hypothesis import given, settings
from hypothesis import strategies as st

from clipnotes.data.noise import corrupt_labels, ptnl_sample, read_labels
from clipnotes.errors import ClipnotesError

FLIPS = ["uniform", "pairflip", "confusion"]


def logits_for(y, n_classes):
    return torch.randn(len(y), n_classes, generator=torch.Generator().manual_seed(0))


def corrupt(y, rate, kind, n_classes, seed=1):
    return corrupt_labels(y, rate, kind, n_classes, seed, logits=logits_for(y, n_classes) if kind == "confusion" else None)


# --- flips --------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw):
    """Labels of up to 6 classes in any order, a class without rows included, and a seed."""
    n_classes = draw(st.integers(2, 6))
    y = draw(st.lists(st.integers(0, n_classes - 1), min_size=1, max_size=60))
    return np.array(y), n_classes, draw(st.integers(0, 2**31))


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(FLIPS), st.sampled_from([0, 0.125, 0.25, 0.5, 0.8, 1]))
def test_flips_are_exact(problem, kind, rate):
    y, n_classes, seed = problem
    expected = [round(rate * np.sum(y == c)) for c in range(n_classes)]
    if rate and not sum(expected):
        with says("rounds to no wrong label at all"):
            corrupt(y, rate, kind, n_classes, seed)
        return
    noisy = corrupt(y, rate, kind, n_classes, seed)
    assert noisy.labels.dtype == noisy.indices.dtype == torch.int64 and noisy.is_noisy.dtype == torch.bool
    assert np.array_equal(noisy.indices, np.arange(len(y)))
    assert 0 <= noisy.labels.min() and noisy.labels.max() < n_classes
    assert np.array_equal(noisy.is_noisy, noisy.labels.numpy() != y)  # so a flip never leads back to the right class
    assert [int(noisy.is_noisy[y == c].sum()) for c in range(n_classes)] == expected
    assert noisy.rate == sum(expected) / len(y)
    again = corrupt(y, rate, kind, n_classes, seed)
    assert torch.equal(again.labels, noisy.labels)
    if rate == 0:
        assert np.array_equal(noisy.labels, y)


@settings(max_examples=30, deadline=None)
@given(problems(), st.randoms())
def test_order_across_classes_does_not_matter(problem, random):
    y, n_classes, seed = problem
    order = np.argsort(y, kind="stable")  # rows of one class keep their order
    try:
        noisy = corrupt(y, 0.5, "uniform", n_classes, seed)
    except ClipnotesError:
        return
    assert torch.equal(corrupt(y[order], 0.5, "uniform", n_classes, seed).labels, noisy.labels[order])


def test_noise_grows_with_the_rate_and_changes_with_the_seed():
    y = np.repeat(np.arange(5), 16)
    labels = {rate: corrupt(y, rate, "uniform", 5).labels for rate in (0.125, 0.5)}
    few = torch.from_numpy(y) != labels[0.125]
    assert torch.equal(labels[0.125][few], labels[0.5][few])
    assert not torch.equal(labels[0.5], corrupt(y, 0.5, "uniform", 5, seed=2).labels)


def test_uniform_flips_are_uniform():
    y = np.zeros(8000, int)
    counts = torch.bincount(corrupt_labels(y, 1, n_classes=5).labels, minlength=5)
    assert counts[0] == 0 and (counts[1:] - 2000).abs().max() < 4 * (8000 * 0.25 * 0.75) ** 0.5


def test_pairflip_and_confusion_by_hand():
    y = np.array([0, 1, 2])
    assert corrupt_labels(y, 1, "pairflip").labels.tolist() == [1, 2, 0]
    logits = [[9, 1, 2], [3, 9, 1], [1, 2, 0]]  # the last image is misjudged: the class it is taken for is wrong
    assert corrupt_labels(y, 1, "confusion", logits=logits).labels.tolist() == [2, 0, 1]


# --- the released sampler -----------------------------------------------------------------------------------------


def listed(sizes):
    """Labels of a list sorted by rank inside the class, then class, as that of the published statistics."""
    rows = sorted((rank, c) for c, size in enumerate(sizes) for rank in range(size))
    return np.array([c for _, c in rows]), np.array([rank for rank, _ in rows])


@pytest.mark.parametrize("name", ["even", "small"])
def test_released_sampler_against_published_statistics(name):
    record = json.loads((GOLDEN / "ptnl_noise.json").read_text())[name]
    sizes, k = record["class_sizes"], record["K"]
    y, rank = listed(sizes)
    half = np.array([(size + 1) // 2 for size in sizes])
    for run in record["runs"].values():
        ours, wrong = [], run["F"]
        for seed in range(40):
            noisy = corrupt_labels(y, wrong / k, "ptnl", seed=seed, shots=k)
            true, given_label, i = y[noisy.indices], noisy.labels.numpy(), noisy.indices.numpy()
            assert np.array_equal(noisy.is_noisy, true != given_label) and (np.diff(i) > 0).all()  # each image once
            assert np.array_equal(rank[i] >= half[true], noisy.is_noisy)  # right ones from first halves, else second
            right = np.bincount(given_label[true == given_label], minlength=len(sizes))
            assert (right[half >= k] == k - wrong).all() and (right <= k - wrong).all()
            assert (np.bincount(given_label[true != given_label], minlength=len(sizes)) <= wrong).all()
            ours.append((len(noisy), noisy.rate))
        theirs = [(seed["kept"], seed["actual_noise_rate"]) for seed in run["seeds"]]
        error = np.sqrt(np.var(ours, 0) / len(ours) + np.var(theirs, 0) / len(theirs))
        assert (np.abs(np.mean(ours, 0) - np.mean(theirs, 0)) <= 4 * error + 1e-9).all()


@pytest.mark.parametrize("name, rate, kept, noise", [
    ("Caltech101", 0.125, (1270, 1292), 0.156), ("Caltech101", 0.5, (1466, 1496), 0.539),
    ("DescribableTextures", 0.25, (750, 752), 0.25), ("OxfordPets", 0.5, (590, 592), 0.5)])
def test_released_sampler_on_published_splits(shared, name, rate, kept, noise):
    rows = json.loads((shared / "data" / "splits" / f"split_zhou_{name}.json").read_text())["train"]
    for seed in (1, 2, 3, 4):
        noisy = ptnl_sample([label for _, label, _ in rows], 16, rate, seed=seed)
        assert kept[0] <= len(noisy) <= kept[1] and noisy.rate == pytest.approx(noise, abs=0.004)


def test_released_sampler_is_seeded():
    y, _ = listed([40] * 4)
    first = ptnl_sample(y, 16, 0.5)
    assert torch.equal(ptnl_sample(y, 16, 0.5).indices, first.indices)
    assert not torch.equal(ptnl_sample(y, 16, 0.5, seed=2).indices, first.indices)


# --- human labels -------------------------------------------------------------------------------------------------

Y, HUMAN = np.array([0, 1, 2, 1]), np.array([0, 2, 2, 1])


@pytest.mark.parametrize("write, name", [
    (lambda path: np.save(path, HUMAN), "a.npy"),
    (lambda path: np.savez(path, clean=Y, worse=HUMAN), "a.npz"),
    (lambda path: path.write_text("0\n2\n2\n1\n", encoding="utf-8-sig"), "a.txt"),  # with a byte order mark
    (lambda path: path.write_text("image,worse\na.jpg,0\nb.jpg,2\nc.jpg,2\nd.jpg,1\n"), "a.csv"),
    (lambda path: torch.save({"clean": Y, "worse": HUMAN}, path), "a.pt"),  # numpy arrays, as CIFAR-10N has them
    (lambda path: torch.save(torch.from_numpy(HUMAN), path), "b.pt"),
])
def test_human_labels(tmp_path, write, name):
    write(tmp_path / name)
    noisy = corrupt_labels(Y, kind="human", path=tmp_path / name, key="worse")
    assert noisy.labels.tolist() == HUMAN.tolist() and noisy.is_noisy.tolist() == [False, True, False, False]
    assert noisy.rate == 0.25


class Malice:
    def __reduce__(self):
        return print, ("a label file must not run code",)


def test_human_label_files_that_do_not_fit(tmp_path, capsys):
    path = tmp_path / "a.npy"
    with says("a.npy does not exist; check the path.$"):
        read_labels(path)
    with says("^Label file a.pkl is of no known type; give one of .npy, .npz, .csv, .pt, .txt.$"):
        read_labels(tmp_path / "a.pkl")
    np.save(path, np.array([Malice()]), allow_pickle=True)
    torch.save(Malice(), tmp_path / "a.pt")
    for bad in (path, tmp_path / "a.pt"):
        with says("cannot be read .*; it must hold whole numbers and nothing pickled but"):
            read_labels(bad)
    assert not capsys.readouterr().out
    np.savez(tmp_path / "a.npz", clean=Y, worse=HUMAN)
    for key in (None, "random"):
        with says(f"^Label file a.npz has no entry {key!r}; give key= one of clean, worse.$"):
            read_labels(tmp_path / "a.npz", key)
    np.save(path, Y / 2)
    with says(r"^a.npy holds values of type float64; labels must be whole numbers \(integers\).$"):
        read_labels(path)
    np.save(path, Y[1:])
    with says(r"holds labels of shape \[3\] for 4 images; give one label an image"):
        corrupt_labels(Y, kind="human", path=path)
    np.save(path, Y + 1)
    for row in (-1, 4):
        with says(f"a.npy holds 4 labels, but row {row} was asked for; give rows= of the data set"):
            corrupt_labels(Y[1:2], kind="human", path=path, rows=[row])
    with says("^Label 3 in a.npy is out of range; labels must be 0 to 2, as there are 3 classes.$"):
        corrupt_labels(Y, kind="human", path=path)
    with says('^Noise kind "human" needs the file with the given labels; give path=.$'):
        corrupt_labels(Y, kind="human")
    with says('^Noise kind "human" has the noise rate of its file, but rate = 0.5 was given; leave it out.$'):
        corrupt_labels(Y, 0.5, "human", path=path)


# --- bad input ----------------------------------------------------------------------------------------------------


def test_bad_input():
    for rate in (-0.1, 1.5, float("nan"), None):
        with says(f"^rate = {rate} is (out of range|no number); it must be a number from 0 to 1.$"):
            corrupt_labels(Y, rate)
    with says("^kind = 'random' is unknown; choose 'uniform', 'pairflip', 'confusion', 'annotator', 'human' or 'ptnl'.$"):
        corrupt_labels(Y, 0.5, "random")
    with says("^Label 2 in y is out of range; labels must be 0 to 1, as there are 2 classes.$"):
        corrupt_labels(Y, 0.5, n_classes=2)
    with says("^Label -1 in y is out of range"):
        corrupt_labels(Y - 1, 0.5)
    with says(r"^y holds values of type float64; labels must be whole numbers \(integers\).$"):
        corrupt_labels(Y / 2, 0.5)
    with says(r"^y has shape \[2, 2\]"):
        corrupt_labels(Y.reshape(2, 2), 0.5)
    with says("^n_classes = 1 is out of range; it must be a whole number of 2 or more.$"):
        corrupt_labels([0, 0], 0.5)
    with says("^Noise rate 0.125 of classes with at most 2 images rounds to no wrong label at all; raise the rate"):
        corrupt_labels(Y, 0.125)
    with says('^Noise kind "confusion" needs zero-shot logits'):
        corrupt_labels(Y, 0.5, "confusion")
    with says(r"^Logits have shape \[4, 4\], but 4 labels of 3 classes need \[4, 3\].$"):
        corrupt_labels(Y, 0.5, "confusion", logits=np.zeros((4, 4)))
    with says("^4 rows of logits hold NaN or infinite values"):
        corrupt_labels(Y, 0.5, "confusion", logits=np.full((4, 3), np.nan))
    for shots in (None, 0):
        with says(f"^shots = {shots} is (out of range|no whole number); it must be a whole number of 1 or more.$"):
            corrupt_labels(Y, 0.5, "ptnl", shots=shots)
    with says("^Class 1 has no image to draw from; give the full training split.$"):
        ptnl_sample([0, 2], 1, 0)
    with says("^No wrong images are left for class 0: the second halves of the other classes hold too few"):
        ptnl_sample([0, 1], 1, 1.0)


# --- a stand-in for people ----------------------------------------------------------------------------------------


def annotator_case():
    """400 images of 4 classes: the even ones are plain to the annotator, the odd ones ambiguous with the class after theirs."""
    y = torch.arange(400) % 4
    logits = 6.0 * torch.eye(4)[y]
    odd = torch.arange(400) // 4 % 2 == 1
    logits[odd] += 5.5 * torch.eye(4)[(y[odd] + 1) % 4]
    return y, logits, odd


def test_an_annotator_errs_where_another_model_is_in_doubt():
    y, logits, odd = annotator_case()
    noisy = corrupt_labels(y, 0.25, "annotator", logits=logits, seed=1)
    wrong = noisy.is_noisy
    assert noisy.rate == pytest.approx(0.25) and torch.equal(wrong, noisy.labels != y)
    assert odd[wrong].double().mean() > 0.9
    assert (noisy.labels[wrong] == (y[wrong] + 1) % 4).double().mean() > 0.9


def test_an_annotators_errors_are_nested_repeatable_and_counted():
    y, logits, _ = annotator_case()
    low, high, again = (corrupt_labels(y, rate, "annotator", logits=logits, seed=3) for rate in (0.1, 0.4, 0.4))
    assert torch.equal(high.labels, again.labels) and (low.is_noisy <= high.is_noisy).all()
    assert torch.equal(low.labels[low.is_noisy], high.labels[low.is_noisy])
    assert not torch.equal(high.labels, corrupt_labels(y, 0.4, "annotator", logits=logits, seed=4).labels)
    assert corrupt_labels(y, 0.0, "annotator", logits=logits).rate == 0
    assert corrupt_labels(y, 1.0, "annotator", logits=logits).rate == 1
    with says('^Noise kind "annotator" needs zero-shot logits'):
        corrupt_labels(y, 0.5, "annotator")

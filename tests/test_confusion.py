"""Confusion matrices: against counting, random prompts against prompt tuning's own, orders and pairs, bad input."""

import re

import numpy as np
import pytest
import torch
from conftest import says
from scipy.stats import spearmanr
from sklearn.metrics import confusion_matrix

from clipnotes.analysis.confusion import Confusion, averaged_confusion, confusion, kept_words, rank_correlation
from clipnotes.data.noise import corrupt_labels
from clipnotes.methods.prompts import PromptTuning
from clipnotes.seeding import generator

NAMES = ["red_circle", "blue square", "king", "small star", "zigzag", "red square"]


@pytest.fixture(scope="module")
def images(clip):
    """(x, y): 120 noisy features around the texts of their classes."""
    y = torch.arange(120) % len(NAMES)
    text = clip.classifier(NAMES, ["a drawing of a {}."])
    return text[y] + 0.08 * torch.randn(120, clip.dim, generator=torch.Generator().manual_seed(0)), y


def of(matrix, names=None):
    return Confusion(np.asarray(matrix, float), names or [f"c{i}" for i in range(len(matrix))], np.ones(1))


# --- counting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [1, 4])
def test_shares_are_counted(draws):
    rng = np.random.default_rng(0)
    y, predicted = np.concatenate([np.arange(5), rng.integers(5, size=60)]), rng.integers(5, size=(draws, 65))
    found = confusion(predicted if draws > 1 else predicted[0], y, list("abcde"))
    expected = np.mean([confusion_matrix(y, p, normalize="true") for p in predicted], axis=0)
    assert found.matrix == pytest.approx(expected) and found.matrix.dtype == np.float64
    assert found.matrix.sum(1) == pytest.approx(1)
    assert found.accuracies == pytest.approx([(p == y).mean() for p in predicted])
    assert found.classnames == list("abcde")


def test_never_wrong():
    found = confusion(torch.arange(3), torch.arange(3), ["a", "b", "c"])
    assert np.array_equal(found.matrix, np.eye(3)) and not len(found.pairs()) and found.accuracies.tolist() == [1]


# --- random prompts -----------------------------------------------------------------------------------------------


def test_every_draw_is_an_untrained_prompt(clip, images):
    x, y = images
    found = averaged_confusion(clip, x, y, NAMES, draws=11, n_context=4, seed=3, progress=False)
    random, model, matrices = generator(3, "random prompts"), PromptTuning(clip, NAMES, n_context=4).start(), []
    for accuracy in found.accuracies:
        model.learnt_ = model.layout_.start_std() * torch.randn(4, model.learnt_.shape[1], generator=random)
        matrices.append(confusion_matrix(y, model.predict(x), normalize="true"))
        assert accuracy == pytest.approx(model.score(x, y))
    assert found.matrix == pytest.approx(np.mean(matrices, axis=0))
    assert np.ptp(matrices, axis=0).max() > 0 and found.accuracies.mean() > 2 / len(NAMES)


def test_draws_follow_the_seed(clip, images):
    options = {"n_context": 4, "progress": False}
    some = averaged_confusion(clip, *images, NAMES, draws=5, **options)
    assert np.array_equal(some.matrix, averaged_confusion(clip, *images, NAMES, draws=5, **options).matrix)
    assert np.array_equal(some.accuracies, averaged_confusion(clip, *images, NAMES, draws=9, **options).accuracies[:5])
    assert not np.array_equal(some.matrix, averaged_confusion(clip, *images, NAMES, draws=5, seed=2, **options).matrix)


def test_permuted_classes_permute_the_matrix(clip, images):
    x, y = images
    order = np.array([3, 0, 5, 1, 4, 2])
    found = averaged_confusion(clip, x, y, NAMES, draws=6, progress=False)
    permuted = averaged_confusion(clip, 5 * x, np.argsort(order)[y], [NAMES[i] for i in order], draws=6, progress=False)
    assert permuted.matrix == pytest.approx(found.matrix[np.ix_(order, order)])
    renamed = {pair[:2]: pair[2] for pair in permuted.pairs(99).itertuples(index=False, name=None)}
    assert renamed == pytest.approx({pair[:2]: pair[2] for pair in found.pairs(99).itertuples(index=False, name=None)})


# --- order and pairs ----------------------------------------------------------------------------------------------


def test_the_order_finds_groups():
    """Three groups whose members are taken for one another, whatever the order of the classes."""
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], [3, 4, 2])
    for _ in range(5):
        group = rng.permutation(group)
        matrix = rng.uniform(0, 0.1, (9, 9)) + (group[:, None] == group) + 2 * np.eye(9)
        order = of(matrix / matrix.sum(1, keepdims=True)).order()
        assert order.dtype == np.int64 and sorted(order) == list(range(9))
        assert np.count_nonzero(np.diff(group[order])) == 2  # every group in one piece


def test_the_order_puts_neighbours_side_by_side():
    """Classes on a line, each confused mostly with those beside it, come back as the line."""
    place = np.random.default_rng(1).permutation(8)
    matrix = np.exp(-np.abs(place[:, None] - place) * 1.0)
    line = place[of(matrix / matrix.sum(1, keepdims=True)).order()]
    assert abs(np.diff(line)).tolist() == [1] * 7


def test_orders_of_one_and_two():
    assert of([[1.0]]).order().tolist() == [0] and of(np.eye(2)).order().tolist() == [0, 1]


def test_the_most_frequent_pairs():
    table = of([[0.5, 0.3, 0.2], [0.1, 0.9, 0.0], [0.6, 0.3, 0.1]], ["a", "b", "c"]).pairs(4)
    assert list(table) == ["true", "predicted", "share"]
    assert table.to_numpy().tolist() == [["c", "a", 0.6], ["a", "b", 0.3], ["c", "b", 0.3], ["a", "c", 0.2]]
    assert list(table.index) == [(2, 0), (0, 1), (2, 1), (0, 2)]
    assert len(of(np.full((3, 3), 1 / 3)).pairs(99)) == 6  # no class with itself


def test_pairs_of_classes_of_one_name_are_told_apart_by_their_labels():
    found = of([[0.9, 0.0, 0.1], [0.0, 1.0, 0.0], [0.0, 0.3, 0.7]], ["missile", "dog", "missile"])  # as ImageNet has them
    table = found.pairs()
    assert table["true"].tolist() == ["missile", "missile"] and table["predicted"].tolist() == ["dog", "missile"]
    assert list(table.index) == [(2, 1), (0, 2)] and [found.matrix[a, b] for a, b in table.index] == table["share"].tolist()
    assert table.iloc[-1].name == (0, 2)


def test_the_matrix_serves_as_noise():
    y = torch.arange(40) % 4
    found = of([[0.6, 0, 0.1, 0.3], [0, 1, 0, 0], [0, 0.2, 0.7, 0.1], [0.1, 0.5, 0.1, 0.3]])
    noisy = corrupt_labels(y, 0.5, "confusion", 4, logits=found.matrix[y])
    assert [noisy.labels[noisy.is_noisy & (y == c)].unique().tolist() for c in range(4)] == [[3], [0], [1], [1]]


# --- structure ----------------------------------------------------------------------------------------------------


def test_kept_words():
    names = ["red star", "red plus", "green star", "green_plus"]
    found = kept_words(of([[0.4, 0.3, 0.2, 0.1], [0.3, 0.7, 0, 0], [0.1, 0, 0.9, 0], [0, 0, 0, 1]], names)).set_index("kept")
    assert found["share"].to_dict() == pytest.approx({"first word": 0.6, "second word": 0.3, "neither": 0.1})
    assert found["chance"].to_dict() == pytest.approx(dict.fromkeys(found.index, 1 / 3))
    assert kept_words(of(np.eye(2), ["red star", "star"])) is None


def test_rank_correlation():
    rng = np.random.default_rng(0)
    a, b = rng.random((7, 7)).round(1), rng.random((7, 7)).round(1)  # with ties
    other = ~np.eye(7, dtype=bool)
    rho, bound = rank_correlation(a, b)
    assert rho == pytest.approx(spearmanr(a[other], b[other]).statistic) and 0 < bound < 1
    assert rank_correlation(a, a**3 + 5 * np.eye(7))[0] == pytest.approx(1) and rank_correlation(a, b) == (rho, bound)
    assert np.isnan(rank_correlation(a, np.ones((7, 7)))).all()


def test_relabelled_classes_rarely_reach_the_bound():
    """Of matrices that have nothing to do with each other, about one in twenty exceeds it."""
    rng = np.random.default_rng(1)
    found = [rank_correlation(rng.random((8, 8)), rng.random((8, 8)), draws=100) for _ in range(100)]
    assert 0 < sum(abs(rho) > bound for rho, bound in found) < 15


# --- bad input ----------------------------------------------------------------------------------------------------


def test_bad_input(clip, images):
    x, y = images
    with says("^draws = 0 is out of range; it must be a whole number of 1 or more.$"):
        averaged_confusion(clip, x, y, NAMES, draws=0)
    with says("^Class 'zigzag' has no image among the 100, so its row has no shares; give images of every class, or only the "
              "names of those that occur.$"):
        averaged_confusion(clip, x[y != 4], y[y != 4], NAMES, draws=1, progress=False)
    with says("^Label 5 in y is out of range; labels must be 0 to 4, as there are 5 classes.$"):
        averaged_confusion(clip, x, y, NAMES[:5], draws=1, progress=False)
    with says("^" + re.escape("x has features of size d = 7, but d = 128 is needed; both must come from one model")):
        averaged_confusion(clip, x[:, :7], y, NAMES)
    with says(r"^y has shape \[119\], but there are 120 rows"):
        averaged_confusion(clip, x, y[1:], NAMES, draws=1, progress=False)
    with says("^The prompt of class 'red circle' with n_context = 40 has"):
        averaged_confusion(clip, x, y, NAMES, n_context=40)
    with says("^Label 6 in predicted is out of range; labels must be 0 to 5"):
        confusion(y + 1, y, NAMES)

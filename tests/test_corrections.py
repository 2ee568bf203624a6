"""Overlap corrections outside the encoder: formulas, invariants, and what they do to real features."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import says

from clipnotes.analysis import overlap
from clipnotes.data import FeatureBank
from clipnotes.methods import Centring, FeatureAdapter, PCAProjection, Whitening, WithinClassWhitening

ALL = {"centring": Centring, "pca": lambda: PCAProjection(5), "whitening": Whitening,
       "within": WithinClassWhitening, "adapter": lambda: FeatureAdapter(width=6)}


def generic(n=300, classes=10, d=12, seed=0, dtype=torch.float32):
    """Unit features with a common part and unequal directions, and their labels."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    x = torch.randn(classes, d, generator=g, dtype=dtype)[y] + torch.randn(n, d, generator=g, dtype=dtype)
    x = x @ torch.randn(d, d, generator=g, dtype=dtype) + 5 * torch.ones(d, dtype=dtype)
    return F.normalize(x, dim=1), y


def gram(x):
    return x @ x.T


# --- formulas -----------------------------------------------------------------------------------------------------


def test_centring_by_hand():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    centring = Centring().fit(x)
    assert centring.mean_.tolist() == [0.5, 0.5]
    assert torch.allclose(centring.transform(x), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) / 2**0.5)


@pytest.mark.parametrize("power, ridge", [(0.5, 0.01), (1.0, 0.0), (0.3, 0.2)])
def test_whitening_against_numpy(power, ridge):
    x, _ = generic(dtype=torch.float64)
    other = generic(20, seed=0, dtype=torch.float64)[0]
    centred = x.numpy() - x.numpy().mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    deviation = (centred @ axes.T).std(0)
    expected = (other.numpy() - x.numpy().mean(0)) @ axes.T / (deviation + ridge) ** power
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    ours = Whitening(power, ridge).fit(x).transform(other).numpy()
    assert np.allclose(np.abs(ours), np.abs(expected), atol=1e-9)  # an axis has no sign
    assert np.allclose(ours @ ours.T, expected @ expected.T, atol=1e-9)


def test_full_whitening_makes_all_directions_alike():
    x, y = generic(dtype=torch.float64)
    whitening = Whitening(1.0, 0.0).fit(x)
    white = whitening.mapped(x - whitening.mean_)  # before unit length
    assert torch.allclose(white.T @ white / len(x), torch.eye(12, dtype=x.dtype), atol=1e-9)
    within = WithinClassWhitening(1.0, 0.0).fit(x, y)
    white = within.mapped(x - within.mean_)
    inner = torch.cat([white[y == c] - white[y == c].mean(0) for c in range(10)])
    assert torch.allclose(inner.T @ inner / (len(x) - 10), torch.eye(12, dtype=x.dtype), atol=1e-9)


def test_within_class_whitening_ignores_classes_of_one_row():
    x, y = generic(dtype=torch.float64)
    alone = torch.cat([x, x[:1]]), torch.cat([y, torch.tensor([77])])
    difference = WithinClassWhitening().spread(alone[0], alone[1])[:300] - WithinClassWhitening().spread(x, y)
    assert len(WithinClassWhitening().spread(*alone)) == 300 and difference.abs().max() < 1e-12


def test_projection_keeps_the_widest_directions():
    x, _ = generic(dtype=torch.float64)
    projection = PCAProjection(12).fit(x)
    assert torch.allclose(gram(projection.transform(x)), gram(Centring().fit(x).transform(x)), atol=1e-9)
    spread = projection.mapped(x - projection.mean_).std(0)
    assert (spread.diff() < 0).all()
    few = PCAProjection(5).fit(x)
    assert few.transform(x).shape == (300, 5)
    assert torch.allclose(few.mapped(x - few.mean_).std(0), spread[:5])


def test_whitening_without_power_is_centring():
    x, _ = generic()
    assert torch.allclose(gram(Whitening(0.0).fit(x).transform(x)), gram(Centring().fit(x).transform(x)), atol=1e-5)


def test_feature_adapter():
    x, y = generic()
    still = FeatureAdapter(epochs=0).fit(x, y)
    assert torch.equal(still.transform(x), Centring().fit(x).transform(x))  # it starts as no change
    adapter = FeatureAdapter(epochs=30).fit(x, y)
    assert adapter.losses_[-1] < adapter.losses_[0] and len(adapter.losses_) == 30
    assert overlap(adapter.transform(x), y, draws=2).area < overlap(still.transform(x), y, draws=2).area - 0.05
    assert torch.equal(FeatureAdapter(epochs=30).fit(x, 3 * y + 1).transform(x), adapter.transform(x))  # names only
    assert not torch.equal(FeatureAdapter(epochs=30, seed=2).fit(x, y).transform(x), adapter.transform(x))
    assert not adapter.transform(x).requires_grad


# --- invariants ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_invariants(name):
    x, y = generic()
    correction = ALL[name]()
    assert correction.fit(x, y) is correction
    out = correction.transform(x[:9])
    assert out.dtype == torch.float32 and torch.allclose(out.norm(dim=1), torch.ones(9), atol=1e-6)
    assert torch.allclose(correction.transform(5 * x[:9]), out, atol=1e-5)  # lengths do not matter
    assert torch.allclose(correction.transform(x[4:5]), out[4:5], atol=1e-5)  # nor the other rows
    assert torch.allclose(correction.transform(torch.stack([x[:9], x[:9]])), out, atol=1e-5)
    assert torch.equal(ALL[name]().fit(x, y).transform(x[:9]), out)
    if name != "adapter":  # which draws batches
        order = torch.randperm(len(x))
        assert torch.allclose(gram(ALL[name]().fit(x[order], y[order]).transform(x[:9])), gram(out), atol=1e-4)


# --- bad input ----------------------------------------------------------------------------------------------------


def test_bad_input():
    x, y = generic()
    with says(r"^generic_x has shape \[12\], but must be \[N, d\] or, with V views, \[V, N, d\].$"):
        Whitening().fit(x[0])
    with says("^1 rows of generic_x hold NaN or infinite values; encode them again.$"):
        Centring().fit(torch.cat([x, torch.full((1, 12), torch.inf)]))
    with says("^x has features of size d = 11, but d = 12 is needed; both must come from one model.$"):
        Whitening().fit(x).transform(x[:, 1:])
    with says(r"^generic_y has shape \[299\], but there are 300 rows of features"):
        WithinClassWhitening().fit(x, y[1:])
    with says("^Label -1 in generic_y is out of range; labels must be 0 or more.$"):
        FeatureAdapter().fit(x, y - 1)
    for make in (WithinClassWhitening, FeatureAdapter):
        with says(f"^{make.__name__} needs the labels of the generic features; give generic_y.$"):
            make().fit(x)
    with says("^None of the 300 generic classes has two rows; give more images a class.$"):
        WithinClassWhitening().fit(x, torch.arange(300))
    with says("^n_components = 13 is out of range; features have 12 dimensions.$"):
        PCAProjection(13).fit(x)
    with says("^power = -1 is out of range"):
        Whitening(power=-1).fit(x)
    with says("^seed = -1 is out of range"):
        FeatureAdapter(seed=-1).fit(x, y)
    with says("^lr = 1e[+]38 is out of range; it must be a number from 0 to 1000.$"):
        FeatureAdapter(lr=1e38).fit(x, y)
    with says("^8 generic rows do not vary in all 12 dimensions; give more of them, or a ridge above 0.$"):
        Whitening(1.0, ridge=0).fit(x[:8])
    with says("^This Whitening has learnt nothing yet; call fit"):
        Whitening().transform(x)


# --- real features ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whitenings(shared):
    """Centring and half and full whitening learnt on generic images of real CLIP, without labels."""
    folder = shared / "data" / "clip_vitb32"
    x = torch.cat([FeatureBank.load(folder / f"{name}.npz").train.x for name in ("imagenet", "food101", "sun397")])
    assert len(x) == 6792
    return {None: None, 0.5: Whitening(0.5).fit(x).transform, 1.0: Whitening(1.0).fit(x).transform}


def nearest_mean(bank, transform, shots, seed):
    """Test accuracy (%) of the nearest class mean of `shots` images a class."""
    train = (bank.few_shot(shots, seed) if shots < 16 else bank).train
    (x, y), (test_x, test_y) = ((part.unit(), part.y) for part in (train, bank.test))
    if transform:
        x, test_x = transform(x), transform(test_x)
    means = F.normalize(torch.zeros(bank.n_classes, x.shape[1]).index_add_(0, y, x), dim=1)
    return 100 * ((test_x @ means.T).argmax(1) == test_y).double().mean().item()


TABLE = {  # overlap area, accuracy for 16 shots: original, half, full
    "caltech101": {None: (0.190, 91.4), 0.5: (0.089, 93.0), 1.0: (0.107, 92.7)},
    "oxford_pets": {None: (0.438, 75.0), 0.5: (0.290, 82.6), 1.0: (0.265, 84.8)},
    "dtd": {None: (0.579, 62.5), 0.5: (0.535, 65.8), 1.0: (0.536, 66.0)},
    "stanford_cars": {None: (0.303, 63.8), 0.5: (0.257, 71.8), 1.0: (0.264, 73.0)},
}


@pytest.mark.parametrize("name", TABLE)
def test_whitening_of_real_features(name, whitenings, shared):
    bank = FeatureBank.load(shared / "data" / "clip_vitb32" / f"{name}.npz")
    test_x, test_y = bank.test.unit(), bank.test.y
    few = {}
    for power, transform in whitenings.items():
        area, accuracy = TABLE[name][power]
        found = overlap(transform(test_x) if transform else test_x, test_y, max_images=2000, draws=2).area
        assert found == pytest.approx(area, abs=0.01)
        assert nearest_mean(bank, transform, 16, 1) == pytest.approx(accuracy, abs=0.3)
        few[power] = np.mean([nearest_mean(bank, transform, 1, seed) for seed in (1, 2, 3)])
    assert few[0.5] > few[None] + 1  # the table's draws are others, its gains there, too

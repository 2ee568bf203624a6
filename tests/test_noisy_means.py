"""Noise-aware class means: the rounds against plain loops, the estimate against known rates, labels that tell nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import says

from clipnotes.data import FeatureBank, corrupt_labels
from clipnotes.methods import NoisyMeans, Whitening
from clipnotes.methods.noisy_means import class_means, estimate_noise, noise_model, relabelled, trusted, without_itself


def blobs(n_classes=6, shots=20, d=12, spread=0.9, seed=0, dtype=torch.float64):
    """(unit features, true labels): images around random class centres."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n_classes).repeat_interleave(shots)
    centres = F.normalize(torch.randn(n_classes, d, generator=g, dtype=dtype), dim=1)
    return F.normalize(centres[y] + spread * torch.randn(len(y), d, generator=g, dtype=dtype) / d**0.5, dim=1), y


def loop(x, y, n_classes, rho, temperature, rounds):
    """Steps 1 and 2 number by number."""
    x, n = x.numpy(), len(y)
    r = np.zeros((n, n_classes))
    for i in range(n):
        r[i, y[i]] = 1
    for round in range(2 * rounds):
        means = np.zeros((n_classes, x.shape[1]))
        for c in range(n_classes):
            for i in range(n):
                means[c] += r[i, c] * x[i]
            means[c] /= np.sqrt((means[c] ** 2).sum())
        for i in range(n):
            e = [np.exp(sum(x[i] * means[c]) / temperature) for c in range(n_classes)]
            if round < rounds:
                r[i] = 0
                r[i, y[i]] = e[y[i]] / sum(e)
            else:
                e = [e[c] * (1 - rho if c == y[i] else rho / (n_classes - 1)) for c in range(n_classes)]
                r[i] = np.array(e) / sum(e)
    return r


def test_an_image_alone_in_its_class_is_minus_one():
    x = F.normalize(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    assert (without_itself(x, torch.arange(10), 10).diagonal() == -1).all()


def test_both_steps_are_what_a_plain_loop_computes():
    x, true = blobs(4, 6)
    y = corrupt_labels(true, 0.34, seed=3).labels
    ours = relabelled(x, y, trusted(x, y, 4, 0.05, 3), 0.3, 0.05, 3)
    np.testing.assert_allclose(ours.numpy(), loop(x, y, 4, 0.3, 0.05, 3), atol=1e-10)
    model = NoisyMeans(rho=0.3, trust_rounds=3, relabel_rounds=3).fit(x, y)
    torch.testing.assert_close(model.labels_, ours)
    torch.testing.assert_close(model.means_, F.normalize(ours.T @ x, dim=1))


def test_relabelling_never_lowers_the_likelihood_of_the_mixture():
    """EM of directions m_c with equal weights and known width: its likelihood must rise round by round."""
    x, true = blobs(spread=1.5)
    y = corrupt_labels(true, 0.4, seed=1).labels
    prior, weights, values = noise_model(y, 0.4, 6).double(), F.one_hot(y, 6).double(), []
    for _ in range(8):
        values.append((prior * (x @ class_means(x, weights).T / 0.05).exp()).sum(1).log().sum().item())
        weights = relabelled(x, y, weights, 0.4, 0.05, 1)
    assert np.diff(values).min() > -1e-9 and values[-1] > values[0]


def test_no_noise_is_plain_class_means():
    x, y = blobs()
    model = NoisyMeans(rho=0).fit(x, y)
    assert torch.equal(model.labels_, F.one_hot(y, 6).to(x))
    torch.testing.assert_close(model.means_, class_means(x, F.one_hot(y, 6).to(x)))
    assert torch.equal(NoisyMeans(rho=0.5, trust_rounds=0, relabel_rounds=0).fit(x, y).means_, model.means_)


def test_wrong_labels_are_distrusted_and_accuracy_returns():
    x, true = blobs(10, 20)
    noisy = corrupt_labels(true, 0.5, seed=2)
    plain = NoisyMeans(rho=0, trust_rounds=0).fit(x, noisy.labels)
    model = NoisyMeans().fit(x, noisy.labels)
    assert model.score(x, true) > plain.score(x, true) + 0.05
    assert model.trust_[noisy.is_noisy].mean() < 0.1 < 0.9 < model.trust_[~noisy.is_noisy].mean()
    torch.testing.assert_close(model.labels_.sum(1), torch.ones(len(x)).double())
    assert abs(model.rho_ - 0.5) < 0.07 and model.support_.sum() == pytest.approx(len(x))


def test_cosines_without_the_image_itself():
    x, y = blobs(3, 4)
    y = torch.cat([y[:-1], torch.tensor([3])])  # class 3 has one image
    ours = without_itself(x, y, 5)
    for i in range(len(y)):
        for c in range(5):
            others = [j for j in range(len(y)) if y[j] == c and j != i]
            expected = F.cosine_similarity(x[i], x[others].sum(0), dim=0) if others else torch.tensor(-1.0)
            assert ours[i, c].item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5])
def test_the_noise_rate_is_found_without_a_right_label(rate):
    """Over twelve draws of overlapping classes: right on average to 0.05, its error of the size of its scatter."""
    found = []
    for seed in range(12):
        x, true = blobs(8, 25, seed=seed, spread=1.2)
        found.append(estimate_noise(x, corrupt_labels(true, rate, seed=seed).labels, 8))
    rho, error = (np.array([getattr(each, name) for each in found]) for name in ("rho", "error"))
    assert abs(rho.mean() - rate) < 0.05
    if rate:
        assert 0.3 < error.mean() / (rho.std(ddof=1) + 1e-9) < 3


def test_a_class_without_an_image_is_never_predicted():
    x, y = blobs(4, 10)
    model = NoisyMeans(rho=0.1).fit(x, y, n_classes=6)
    assert (model.logits(x)[:, 4:] == -torch.inf).all() and not model.support_[4:].any()
    assert torch.isfinite(model.labels_).all() and model.score(x, y) > 0.9


def test_a_class_without_a_trusted_image_keeps_its_mean():
    """All images of class 2 lie where class 0 lies, so the posterior of label 2 vanishes; nothing becomes NaN."""
    x, y = blobs(3, 10, spread=0.2)
    y = y.clone()
    y[:4] = 2                       # labels of class 2 on images of class 0 ...
    x, y = x[:20], y[:20]           # ... and on nothing else
    model = NoisyMeans(rho=0.2, temperature=0.0005).fit(x, y, n_classes=3)
    assert torch.isfinite(model.means_).all() and model.means_.norm(dim=1) == pytest.approx(np.ones(3))
    weights = torch.zeros(len(x), 3).double()
    before = F.normalize(torch.randn(3, 12), dim=1).double()
    assert torch.equal(class_means(x, weights, before), before)


def test_all_labels_of_one_class_wrong():
    """Such a class cannot be known; the others stay right and `support_` tells which one it is."""
    x, true = blobs(6, 20, spread=0.6)
    y = torch.where(true == 5, torch.arange(len(true)) % 5, true)  # images of class 5 are called anything else ...
    y[torch.arange(0, 100, 10)] = 5                                # ... and label 5 stands on images of the others
    model = NoisyMeans().fit(x, y)
    known = true < 5
    assert model.score(x[known], true[known]) > 0.9
    assert model.support_.argmin() == 5


def test_two_classes():
    x, true = blobs(2, 40, spread=0.6)
    noisy = corrupt_labels(true, 0.3, seed=4)
    model = NoisyMeans().fit(x, noisy.labels)
    assert model.score(x, true) > 0.95 and abs(model.rho_ - 0.3) < 0.08
    with says(r"rho = 0.5 with 2 classes .* below 1 - 1/2 = 0.5"):
        NoisyMeans(rho=0.5).fit(x, noisy.labels)


@pytest.mark.parametrize("settings, message", [
    ({"rho": -0.1}, "rho = -0.1 is out of range"), ({"rho": 1.2}, "rho = 1.2 is out of range"),
    ({"rho": 0.9}, "rho = 0.9 with 6 classes"), ({"rho": float("nan")}, "rho = nan is out of range"),
    ({"temperature": 0}, "temperature = 0 is out of range"), ({"trust_rounds": -1}, "trust_rounds = -1 is out of range"),
])
def test_bad_settings(settings, message):
    with says(message):
        NoisyMeans(**settings).fit(*blobs())


def test_bad_data():
    x, y = blobs()
    with says("1 class, but a wrong label needs another one"):
        NoisyMeans().fit(x, torch.zeros(len(x), dtype=torch.int64))
    with says("Label 5 in y is out of range"):
        NoisyMeans().fit(x, y, n_classes=5)
    with says("give one label each"):
        NoisyMeans().fit(x, y[1:])
    with says("call fit first"):
        NoisyMeans().logits(x)
    with says("size d = 3, but d = 12 is needed"):
        NoisyMeans(rho=0).fit(x, y).logits(x[:, :3])


def test_labels_that_tell_nothing_are_estimated_at_the_limit():
    x, y = blobs(5, 30)
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    assert estimate_noise(x, shuffled, 5).rho > 0.6 and NoisyMeans().fit(x, shuffled).rho_ <= 0.99 * 0.8


@pytest.mark.parametrize("name, plain, soft", [("oxford_pets", 0.557, 0.769), ("caltech101", 0.871, 0.913)])
def test_real_clip_features_at_half_the_labels_wrong(shared, name, plain, soft):
    """Mean over three draws; plain: raw class means, soft: half-whitened with generic rows, noise-aware."""
    folder = shared / "data/clip_vitb32"
    generic = torch.cat([FeatureBank.load(folder / f"{n}.npz").train.x for n in ("imagenet", "food101", "sun397")])
    bank, whitening = FeatureBank.load(folder / f"{name}.npz"), Whitening().fit(generic)
    (x, y), (test_x, test_y) = (bank.train.x, bank.train.y), (bank.test.x, bank.test.y)
    found = []
    for seed in (1, 2, 3):
        given = corrupt_labels(y, 0.5, n_classes=bank.n_classes, seed=seed).labels
        raw = NoisyMeans(0, trust_rounds=0).fit(x, given, bank.n_classes)
        aware = NoisyMeans(0.5).fit(whitening.transform(x), given, bank.n_classes)
        found.append([raw.score(test_x, test_y), aware.score(whitening.transform(test_x), test_y)])
    assert np.mean(found, 0) == pytest.approx([plain, soft], abs=0.015)

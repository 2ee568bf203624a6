"""Feature variance, effective rank and proxy A-distance on clouds whose answers are known."""

import numpy as np
import pytest
import torch
from conftest import says

from clipnotes.analysis.variance import effective_rank, feature_variance, proxy_a_distance, wide_axes_signal


@pytest.fixture
def cloud():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(60, 8)) + 0.5)


def test_variance_is_one_minus_the_squared_length_of_the_mean(cloud):
    unit = cloud / cloud.norm(dim=1, keepdim=True)
    found = feature_variance(3 * cloud)
    assert found.total == pytest.approx(1 - unit.mean(0).norm().item() ** 2)
    assert np.allclose(found.per_dimension, [((unit[:, k] - unit[:, k].mean()) ** 2).mean() for k in range(8)])
    assert found.mean == pytest.approx(found.total / 8)


def test_variance_goes_with_the_mean_cosine(cloud):
    """The total is 1 minus the mean cosine of two rows, rows with themselves included."""
    unit = cloud / cloud.norm(dim=1, keepdim=True)
    assert feature_variance(cloud).total == pytest.approx(1 - (unit @ unit.T).mean().item())


def test_the_ends_of_the_variance():
    assert feature_variance(torch.ones(5, 3)).total == pytest.approx(0, abs=1e-12)
    assert feature_variance(torch.cat([torch.eye(4), -torch.eye(4)])).total == pytest.approx(1)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_effective_rank_counts_equal_directions(k):
    axes = torch.eye(9)[:k]
    assert effective_rank(torch.cat([axes, -axes])) == pytest.approx(k)


def test_effective_rank_against_the_covariance(cloud):
    unit = (cloud / cloud.norm(dim=1, keepdim=True)).numpy()
    shares = np.linalg.eigvalsh(np.cov(unit.T))
    shares /= shares.sum()
    assert effective_rank(cloud) == pytest.approx(np.prod(shares ** -shares))
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    assert effective_rank(cloud @ rotation) == pytest.approx(effective_rank(cloud))
    assert 1 < effective_rank(cloud * torch.tensor([9.0, 1, 1, 1, 1, 1, 1, 1])) < effective_rank(cloud)


@pytest.mark.parametrize("axis", [0, 3])
def test_wide_axes_tell_classes_apart_where_the_class_means_lie_along_them(axis):
    """Generic features are widest along axis 0; the classes are apart along `axis`."""
    rng = np.random.default_rng(0)
    common = np.eye(6)[5] * 50  # far from the origin, so that unit length changes little
    generic = common + rng.normal(size=(500, 6)) * [5, 1, 1, 1, 1, 1]
    y = np.arange(400) % 2
    x = common + rng.normal(size=(400, 6)) + np.eye(6)[axis] * 4 * y[:, None]
    signal = wide_axes_signal(torch.from_numpy(x), y, torch.from_numpy(generic), share=1 / 6)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    between = np.stack([unit[y == c].mean(0) for c in (0, 1)]).var(0)
    within = np.mean([unit[y == c].var(0) for c in (0, 1)], axis=0)
    assert signal == pytest.approx((between[0] / within[0]) / (between[1:].sum() / within[1:].sum()), rel=0.1, abs=0.01)
    assert signal > 10 if axis == 0 else signal < 0.1


def test_proxy_a_distance_of_clouds_apart_and_alike():
    rng = np.random.default_rng(0)
    x, alike = (torch.from_numpy(rng.normal(size=(n, 6))) for n in (1500, 2000))
    apart = alike + torch.tensor([20.0, 0, 0, 0, 0, 0])
    near = alike + torch.tensor([1.0, 0, 0, 0, 0, 0])
    assert proxy_a_distance(x, alike) < 0.15
    assert 0.3 < proxy_a_distance(x, near) < 1.2
    assert proxy_a_distance(x, apart) > 1.9
    assert proxy_a_distance(x, near) == proxy_a_distance(x, near)
    assert proxy_a_distance(x, near) == pytest.approx(proxy_a_distance(near, x), abs=0.2)


def test_proxy_a_distance_is_two_minus_four_errors():
    """One in four of the second set lies where the first does: the best line errs on those, an eighth of all rows."""
    x = torch.tensor([[1.0, 0.01]]).repeat(400, 1)
    other = torch.tensor([[-1.0, 0.01]]).repeat(400, 1)
    other[::4] = x[0]
    assert proxy_a_distance(x, other) == pytest.approx(2 * (1 - 2 / 8))


def test_bad_input(cloud):
    for function in (feature_variance, effective_rank):
        with says("^x has one row of features; give two or more.$"):
            function(cloud[:1])
        with says("^1 rows of x hold NaN or infinite values"):
            function(cloud.clone().index_fill_(0, torch.tensor([2]), float("nan")))
    with says("^All 5 feature rows are alike, so they have no effective rank; give different images.$"):
        effective_rank(torch.ones(5, 3))
    with says("^Features of different sizes d = 8 and 7; both sets must come from one model.$"):
        proxy_a_distance(cloud, cloud[:, :7])
    with says("^folds = 5 do not fit sets of 60 and 4 rows; give 2 to 4.$"):
        proxy_a_distance(cloud, cloud[:4])

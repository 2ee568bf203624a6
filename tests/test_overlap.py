"""Overlap of paired and unpaired cosines, means with intervals, transfer tables."""

import numpy as np
import pytest
import torch
from conftest import says
from hypothesis import given, settings
from hypothesis import strategies as st

from clipnotes.analysis import cross_overlap, linear_probe_accuracy, mean_ci, overlap, transfer, transfer_table
from clipnotes.analysis.overlap import image_histograms, resampled_areas
from clipnotes.data import FeatureBank, FeatureSplit
from clipnotes.methods import ZeroShot


def clouds(n=90, classes=3, d=6, spread=1.0, seed=0):
    """Features around class centres, and labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return (rng.normal(size=(classes, d))[y] + spread * rng.normal(size=(n, d))).astype(np.float32), y


def brute_force(x, y, other_x=None, other_y=None, bins=200):
    """Area, paired and unpaired histogram, pair by pair."""
    paired, unpaired = [], []
    same_set = other_x is None
    other_x, other_y = (x, y) if same_set else (other_x, other_y)
    for i in range(len(x)):
        for j in range(i + 1 if same_set else 0, len(other_x)):
            a, b = x[i].astype(float), other_x[j].astype(float)
            cosine = a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
            (paired if y[i] == other_y[j] else unpaired).append(min(max(cosine, -1), 1))
    p, q = (np.histogram(c, bins, (-1, 1))[0] / len(c) for c in (paired, unpaired))
    return np.minimum(p, q).sum(), p, q


# --- small cases by hand ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_draws_without_pairs_of_one_kind_say_nothing():
    found = overlap(torch.tensor([[1.0, 0], [1, 0.1], [0, 1]]), [0, 0, 1])
    assert found.area == 0 and found.interval == (0, 0)


def test_a_case_by_hand():
    angles = np.radians([0, 50, 100, 165])  # paired 50 and 65 degrees apart, unpaired 100, 165, 50, 115
    x = np.stack([np.cos(angles), np.sin(angles)], 1) * [[1], [2], [3], [4]]
    result = overlap(x, [0, 0, 1, 1], bins=4)
    assert result.edges.tolist() == [-1, -0.5, 0, 0.5, 1] and result.centres.tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert result.paired.tolist() == [0, 0, 0.5, 0.5]
    assert result.unpaired.tolist() == [0.25, 0.5, 0, 0.25]
    assert result.area == 0.25 and result.n == 4


def test_between_two_sets_by_hand():
    images, texts = torch.eye(2)[[0, 0, 1]], torch.tensor([[0.9, 0.1], [0.3, -0.9]])
    # cosines with text 0: .99, .99, .11; with text 1: .32, .32, -.95; labels 0 0 1 against 0 1
    result = cross_overlap(images, [0, 0, 1], texts, [0, 1], bins=4)
    assert np.allclose(result.paired, [1 / 3, 0, 0, 2 / 3])
    assert np.allclose(result.unpaired, [0, 0, 1, 0]) and result.area == 0 and result.n == 3


def test_cosines_of_one_and_minus_one_are_counted():
    x = torch.tensor([[1.0, 0], [2.0, 0], [-3.0, 0], [-0.1, 0]])
    result = overlap(x, [0, 0, 1, 1], bins=10)
    assert result.paired[-1] == 1 and result.unpaired[0] == 1 and result.area == 0


# --- against brute force ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins, spread", [(200, 0.5), (200, 2.0), (37, 1.0)])
def test_against_brute_force(bins, spread):
    x, y = clouds(spread=spread)
    result, (area, p, q) = overlap(x, y, bins=bins), brute_force(x, y, bins=bins)
    # a cosine that float32 puts beyond an edge moves one pair of some 1300: allow for one
    assert np.abs(result.paired - p).sum() <= 2 / 1305 + 1e-9 and np.abs(result.unpaired - q).sum() <= 2 / 2700 + 1e-9
    assert result.area == pytest.approx(area, abs=1e-3)


def test_two_sets_against_brute_force():
    x, y = clouds(60)
    other_x, other_y = clouds(40, seed=1)
    result, (area, p, q) = cross_overlap(x, y, other_x, other_y), brute_force(x, y, other_x, other_y)
    assert np.abs(result.paired - p).sum() <= 2 / 800 + 1e-9 and np.abs(result.unpaired - q).sum() <= 2 / 1600 + 1e-9
    assert result.area == pytest.approx(area, abs=2e-3)


def test_chunks_make_no_difference():
    x, y = (torch.as_tensor(v) for v in clouds(50))
    whole = image_histograms(x, y, x, y, 20, True, rows_at_once=50)
    for rows in (1, 7):
        parts = image_histograms(x, y, x, y, 20, True, rows_at_once=rows)
        assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert (whole[0].sum(1) + whole[1].sum(1) == 49).all()  # every row meets every other one once


# --- meaning ------------------------------------------------------------------------------------------------------


def test_alike_and_apart():
    x, _ = clouds(2000, d=30)
    labels = np.random.default_rng(1).integers(4, size=2000)
    assert overlap(torch.from_numpy(x), labels).area > 0.97
    apart = np.eye(4)[labels] + 0.05 * np.random.default_rng(2).normal(size=(2000, 4))
    assert overlap(apart, labels).area == 0
    assert cross_overlap(apart, labels, np.eye(4), np.arange(4)).area == 0


def test_neither_the_order_nor_the_length_of_features_matters():
    x, y = clouds(120)
    order = np.random.default_rng(0).permutation(120)
    expected = overlap(x, y)
    longer = x * np.exp2(y)[:, None]  # powers of 2 keep every digit
    for other_x, other_y in ((x[order], y[order]), (4 * x, y), (longer, y), (x, 7 - 2 * y)):
        other = overlap(other_x, other_y)
        assert other.area == pytest.approx(expected.area, abs=1e-12)
        assert np.allclose(other.paired, expected.paired, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), spread=st.floats(0.1, 5), fine=st.integers(2, 9), halvings=st.integers(1, 4))
def test_finer_bins_never_show_more_overlap(seed, spread, fine, halvings):
    x, y = clouds(40, spread=spread, seed=seed)
    results = [overlap(x, y, bins=2**power, draws=2) for power in (max(fine - halvings, 0), fine)]
    assert results[1].area <= results[0].area + 1e-12
    nested = results[1].paired.reshape(len(results[0].paired), -1).sum(1)
    assert np.allclose(nested, results[0].paired, atol=1e-12)
    for result in results:
        assert 0 <= result.interval[0] <= result.area <= result.interval[1] <= 1 + 1e-12
        assert result.paired.sum() == pytest.approx(1) and result.unpaired.sum() == pytest.approx(1)


def test_a_random_subset_stands_for_many_images():
    x, y = clouds(3000)
    part, whole = overlap(x, y, max_images=800, draws=10), overlap(x, y, max_images=3000, draws=10)
    assert (part.n, whole.n) == (800, 3000)
    assert part.area == pytest.approx(whole.area, abs=0.03) and part.area != whole.area
    assert overlap(x, y, max_images=800, draws=10).area == part.area


# --- the interval -------------------------------------------------------------------------------------------------


def exact_bootstrap(x, y, draws, seed, bins, other=None):
    """Areas of resampled rows, every pair looked up anew; a row is no pair with its own copies."""
    other_x, other_y = other or (x, y)
    unit, other_unit = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, other_x))
    bin_of = np.clip(((unit @ other_unit.T + 1) * bins / 2).astype(int), 0, bins - 1)
    rng, areas = np.random.default_rng(seed), []
    for _ in range(draws):
        rows = rng.integers(len(x), size=len(x))
        columns = rows if other is None else np.arange(len(other_y))
        pairs = np.ones((len(rows), len(columns)), bool) if other is not None else rows[:, None] != rows[None]
        same = y[rows][:, None] == other_y[columns][None]
        p, q = (np.bincount(bin_of[np.ix_(rows, columns)][pairs & kind], minlength=bins) for kind in (same, ~same))
        areas.append(np.minimum(p / p.sum(), q / q.sum()).sum())
    return np.array(areas)


@pytest.mark.parametrize("n, spread", [(80, 1.0), (150, 1.0), (250, 0.5)])
def test_the_interval_against_an_exact_bootstrap(n, spread):
    x, y = clouds(n, spread=spread)
    exact = exact_bootstrap(x, y, 400, 1, bins=20)
    result = overlap(x, y, bins=20, draws=2000)
    low, high = result.interval
    assert (high - low) / 2 / 1.959964 == pytest.approx(exact.std(ddof=1), rel=0.12)


def test_the_interval_between_two_sets_is_exact():
    x, y = clouds(150)
    other = clouds(3, seed=5)
    sets = [torch.from_numpy(v) for v in (x, y, *other)]
    sets[0], sets[2] = (torch.nn.functional.normalize(v, dim=1) for v in (sets[0], sets[2]))
    histograms = image_histograms(*sets, 20, same_set=False)
    fast = resampled_areas(*histograms, 3000, 0, same_set=False)
    exact = exact_bootstrap(x, y, 1500, 1, bins=20, other=other)
    assert fast.mean() == pytest.approx(exact.mean(), abs=0.2 * exact.std())
    assert fast.std() == pytest.approx(exact.std(), rel=0.08)


def test_the_interval_narrows_with_images_and_widens_with_the_level():
    widths = {n: np.ptp(overlap(*clouds(n), bins=20).interval) for n in (100, 1600)}
    assert widths[100] / widths[1600] == pytest.approx(4, rel=0.5)
    x, y = clouds(100)
    levels = [np.ptp(overlap(x, y, bins=20, level=level).interval) for level in (0.5, 0.95)]
    assert levels[1] / levels[0] == pytest.approx(1.959964 / 0.674490, rel=1e-5)
    assert overlap(x, y).interval == overlap(x, y).interval != overlap(x, y, seed=1).interval


# --- bad input ----------------------------------------------------------------------------------------------------


def test_bad_input():
    x, y = clouds(12)
    with says(r"^y has shape \[11\], but there are 12 rows of features; give one label each.$"):
        overlap(x, y[:11])
    with says("^y holds values of type float64; labels must be whole numbers"):
        overlap(x, y + 0.5)
    with says(r"^x has shape \[2, 12, 6\], but must be \[N, d\].$"):
        overlap(np.stack([x, x]), y)
    broken = x.copy()
    broken[[2, 5], 0] = np.nan, np.inf
    with says("^2 rows of x hold NaN or infinite values; encode them again.$"):
        overlap(broken, y)
    with says("^No two rows of same class among the 12 given; the overlap needs both kinds of pairs.$"):
        overlap(x, np.arange(12))
    with says("^No two rows of a different class among the 12 given"):
        overlap(x, np.zeros(12, int))
    with says("^Features of different sizes d = 6 and 5; both sets must come from one model.$"):
        cross_overlap(x, y, x[:, :5], y)


@pytest.mark.parametrize("options, message", [
    ({"draws": 0}, "^draws = 0 is out of range; it must be a whole number of 2 or more.$"),
    ({"draws": True}, "^draws = True is no"),
    ({"level": 2}, "^level = 2 is out of range; it must be a number above 0 and below 1.$"),
    ({"bins": 0}, "^bins = 0 is out of"),
    ({"max_images": 1.5}, "^max_images = 1.5 is no whole number"), ({"seed": -1}, "^seed = -1 is out of range")])
def test_settings_out_of_range(options, message):
    for measure in (lambda x, y: overlap(x, y, **options), lambda x, y: cross_overlap(x, y, x, y, **options)):
        with says(message):
            measure(*clouds(12))


def test_levels_of_confidence_out_of_range():
    for level in (0, 1, 2, float("nan"), True):
        with says("^level = "):
            mean_ci([1.0, 2.0], level)


# --- real features ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, rows, area", [("caltech101", 2500, 0.188), ("oxford_pets", 2500, 0.445), ("oxford_pets", 2000, 0.438)]
)
def test_areas_of_real_features(name, rows, area, shared):
    bank = FeatureBank.load(shared / "data" / "clip_vitb32" / f"{name}.npz")
    result = overlap(bank.test.x, bank.test.y, max_images=rows, draws=100)
    assert result.area == pytest.approx(area, abs=0.01)
    assert result.interval[0] < result.area < result.interval[1]


@pytest.mark.parametrize("name, accuracy", [("dtd", 44.68), ("stanford_cars", 58.45)])
def test_zero_shot_accuracy_of_real_features(name, accuracy, shared):
    bank = FeatureBank.load(shared / "data" / "clip_vitb32" / f"{name}.npz")
    assert 100 * ZeroShot(bank.text).score(bank.test.x, bank.test.y) == pytest.approx(accuracy, abs=0.06)


# --- means and tables ---------------------------------------------------------------------------------------------


def test_mean_ci_by_hand():
    mean, half = mean_ci([1.0, 2.0, 4.0])  # standard deviation 1.5275, Student's t for 2 degrees of freedom 4.3027
    assert mean == pytest.approx(7 / 3) and half == pytest.approx(4.302653 * 1.527525 / 3**0.5, rel=1e-5)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_mean_ci_against_scipy(level):
    from scipy import stats

    values = np.random.default_rng(0).normal(size=(7, 3))
    mean, half = mean_ci(values, level)
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert np.allclose(mean - half, expected.low) and np.allclose(mean + half, expected.high)


def test_mean_ci_of_one_value_knows_no_width():
    mean, half = mean_ci([3.0])
    assert mean == 3 and np.isnan(half)
    mean, half = mean_ci([[3.0, 4.0]])
    assert mean.tolist() == [3, 4] and np.isnan(half).tolist() == [True, True]


@pytest.fixture
def fake_bank():
    (x, y), centres = clouds(160, classes=4, spread=0.6, seed=3), clouds(4, classes=4, spread=0, seed=3)[0]
    rows = {"train": slice(80), "val": slice(80, 120), "test": slice(120, None)}
    return FeatureBank("toy", {split: FeatureSplit(x[part], y[part]) for split, part in rows.items()}, text=centres)


def test_linear_probe(fake_bank):
    assert linear_probe_accuracy(fake_bank, 8, 1) > 0.85
    assert linear_probe_accuracy(fake_bank, 8, 1) == linear_probe_accuracy(fake_bank, 8, 1)
    fake_bank.test.y = (fake_bank.test.y + 1) % 4
    assert linear_probe_accuracy(fake_bank, 8, 1) < 0.15  # it is the test split that counts


def test_transfer_table(fake_bank, monkeypatch):
    monkeypatch.setattr(transfer, "load_task", lambda name, data_root: (name, data_root))
    monkeypatch.setattr(transfer, "encode_task", lambda clip, task: fake_bank)

    class Scaled:
        logit_scale = 10.0

    table = transfer_table(Scaled(), ["toy", "again"], shots=4, seeds=(1, 2))
    assert table.index.tolist() == ["toy", "again"] and (table.loc["toy"] == table.loc["again"]).all()
    row = table.loc["toy"]
    accuracies = {
        "linear probe": [100 * linear_probe_accuracy(fake_bank, 4, seed) for seed in (1, 2)],
        "Tip-Adapter": [100 * transfer.tip_adapter_accuracy(fake_bank, 4, seed, 10.0) for seed in (1, 2)],
    }
    assert (row["classes"], row["chance"]) == (4, 25)
    assert row["zero-shot"] == pytest.approx(
        100 * ZeroShot(fake_bank.text).score(fake_bank.test.x, fake_bank.test.y), abs=0.05
    )
    for method, values in accuracies.items():
        assert row[method] == pytest.approx(np.mean(values), abs=0.05)
        assert row[f"{method} std"] == pytest.approx(np.std(values, ddof=1), abs=0.05)

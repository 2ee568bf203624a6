"""Figures of real CLIP beside the pocket models: what is drawn is what the shipped tables say."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from clipnotes.exhibits import real_clip
from clipnotes.lab import real_plots
from clipnotes.lab.figures import use_style
from clipnotes.lab.plots import effect_strokes, panels


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        use_style()
        yield
    plt.close("all")


def heights(ax):
    """The y values of every line with a label of its own, by label."""
    return {label: bars.lines[0].get_ydata().astype(float) for bars, label in zip(*ax.get_legend_handles_labels(), strict=True)}


def test_the_independent_grid_has_all_its_cells():
    grid = real_plots.prompt_grid()
    assert len(grid) == 224 and set(grid["loss"]) == {"ce", "gce"}
    cell = grid.query("dataset == 'Oxford Pets' and backbone == 'RN50' and context == 'shared' and loss == 'gce'")
    cell = cell[cell["noise_rate"] == 50]
    assert (cell["mean"].item(), cell["n"].item()) == (87.38, 3)
    assert grid.groupby(["dataset", "backbone", "context", "loss"]).size().eq(4).all()


def test_prompt_curves_of_one_set_and_the_mean_of_several():
    grid = real_plots.prompt_grid().query("context == 'shared'")
    ax = plt.subplots()[1]
    real_plots.prompt_curves(ax, grid.query("dataset == 'DTD' and backbone == 'RN50'"))
    np.testing.assert_allclose(heights(ax)["Prompt Tuning, CE"], [63.14, 59.24, 54.81, 45.65])
    ax = plt.subplots()[1]
    real_plots.prompt_curves(ax, grid.query("backbone == 'ViT-B/16'"))
    np.testing.assert_allclose(heights(ax)["Prompt Tuning, CE"], (np.array([69.27, 63.77, 60.52, 48.78])
                                                                  + [95.70, 92.41, 89.71, 84.65]) / 2)
    ax = plt.subplots()[1]
    real_plots.author_panel(ax)
    np.testing.assert_allclose(heights(ax)["Linear Probe, CE"], [76.5, 65.1, 57.6, 35.8])


def test_real_effects_are_means_of_the_shipped_gains():
    fall, gain = real_plots.real_effects(shots=4)
    rows = real_clip.read("gains").query("dataset == 'oxford_pets' and features == 'whitening' and shots == 4")
    assert len(rows) == 3  # draws
    assert gain.loc["Oxford Pets", "whitening"] == pytest.approx(100 * rows["gain"].mean())
    area = real_clip.read("overlap").set_index(["dataset", "features"])["area"]
    assert fall.loc["DTD", "pca"] == pytest.approx(area["dtd", "original"] - area["dtd", "pca"], abs=1e-5)


def test_shot_curves_average_data_sets_draw_by_draw():
    rows = pd.DataFrame([{"features": "original", "shots": 1, "seed": seed, "accuracy": value}
                         for seed, values in ((1, (0.2, 0.4)), (2, (0.4, 0.8))) for value in values])
    ax = plt.subplots()[1]
    real_plots.shot_curves(ax, rows, ["original", "whitening"])
    np.testing.assert_allclose(heights(ax)["original"], [45])
    (_, low), (_, high) = ax.containers[0].lines[2][0].get_segments()[0]
    assert (high - low) / 2 == pytest.approx(np.std([30, 60], ddof=1))


def test_gain_scatter_writes_the_correlation_and_rings_the_data_set_that_makes_it():
    points = pd.DataFrame({"dataset": ["dtd", "oxford_pets", "pocket-pairs", "digits"], "features": "whitening",
                           "overlap reduction": [0.0, 0.1, 0.2, 0.3], "gain": [0.0, 1.0, 9.0, 3.0]})
    ax = plt.subplots()[1]
    real_plots.gain_scatter(ax, points, "overlap reduction", ["whitening", "pca"])
    r = np.corrcoef(points["overlap reduction"], points["gain"])[0, 1]
    without = [np.corrcoef(part["overlap reduction"], part["gain"])[0, 1] for part in map(points.drop, points.index)]
    name, rest = max(zip(["DTD", "Oxford Pets", "pairs", "digits"], without, strict=True), key=lambda pair: abs(pair[1] - r))
    assert ax.get_title(loc="right") == f"r = {r:.2f}, 4 sets\n{rest:.2f} without {name}"
    (ringed,) = points.index[[real_plots.title_of(each) == name for each in points["dataset"]]]
    assert ax.lines[-1].get_xydata().tolist() == [points.loc[ringed, ["overlap reduction", "gain"]].tolist()]
    assert ax.get_legend_handles_labels()[1] == ["whitening"]
    two = pd.concat([points[:2]] * 3)
    real_plots.gain_scatter(ax, two, "overlap reduction", ["whitening"])
    assert ax.get_title(loc="right") == "2 data sets: no r"


def test_overlap_columns_compare_on_one_scale():
    columns = {kind: {name: real_clip.overlap_of(name, kind) for name in ("dtd", "caltech101")}
               for kind in ("original", "whitening")}
    axes = np.array(real_plots.overlap_columns(columns).axes).reshape(2, 2)
    assert len({ax.get_xlim() for ax in axes.flat}) == 1
    for row, name in zip(axes, ("dtd", "caltech101"), strict=True):
        assert row[0].get_ylim() == row[1].get_ylim()
        assert row[0].get_ylim()[1] > max(columns[kind][name].paired.max() for kind in columns)
    assert [ax.get_title(loc="left") for ax in axes[:, 1]] == ["whitening\ndtd, overlap 0.54", "caltech101, overlap 0.09"]


def test_rates_and_strokes_stand_in_the_row_of_their_name():
    fig, (ax, *others) = panels(3, columns=3)
    table = pd.DataFrame({0.0: {"a": 90.0, "b": 80.0}, 50.0: {"a": 60.0, "b": 40.0}})
    real_plots.dots_by_rate(ax, table, ["b", "missing", "a"])
    assert [list(line.get_xdata())[::2] for line in ax.lines] == [[80, 90], [40, 60]]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b", "missing", "a"]
    values = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [0.0, 0.0, 3.0]})
    effect_strokes(others, {"left": values, "right": 2 * values}, {"y": ("o", "paired"), "x": ("s", "unpaired")})
    means = [container.lines[0].get_xydata()[0].tolist() for container in others[1].containers]
    assert means == [[2.0, 0.0], [4.0, 1.0]]

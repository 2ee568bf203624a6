"""Figures of methods under wrong labels and of their gradients say what they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from clipnotes.lab.gradient_plots import norm_histograms, ratio_lines, ratio_marks
from clipnotes.lab.noisy_plots import gain_points, method_dots, moved_points, name_points, noise_estimates, rate_lines
from clipnotes.lab.plots import count_grid, log_ticks

KINDS = ["original", "whitening"]


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_lines_against_noise_are_means_over_data_sets_and_corrected_ones_share_a_legend_entry(ax):
    rows = [{"dataset": name, "method": method, "features": kind, "noise_rate": rate, "seed": 1, "accuracy": a + rate}
            for name, a in (("a", 0.1), ("b", 0.3)) for method in ("class means", "of no style") for kind in KINDS
            for rate in (0.0, 0.5)]
    rate_lines(ax, pd.DataFrame(rows), "title")
    assert ax.get_legend_handles_labels()[1] == ["class means"] and len(ax.containers) == 2
    for line in (ax.containers[0][0], ax.containers[1][0]):
        np.testing.assert_allclose(line.get_xydata(), [[0, 20], [50, 70]])


def names(ax):
    return {text.get_text(): (text.get_ha(), text.get_va()) for text in ax.texts if text.get_text()}


def test_names_stand_where_the_arrow_is_not(ax):
    table = pd.DataFrame({"dataset": ["left", "left", "right", "right"], "features": KINDS * 2, "x": [2.0, 1.0, 3.0, 4.0],
                          "y": [1.0, 2.0, 1.0, 2.0]})
    moved_points(ax, table, "x", "y")
    name_points(ax, table, "x", "y")
    assert names(ax) == {"left": ("left", "center"), "right": ("right", "center")}


def test_names_keep_out_of_the_way_of_other_arrows_and_of_one_another(ax):
    """a would stand right of its point, where the arrow of b comes down; c, on the edge, has no room on the right."""
    table = pd.DataFrame({"dataset": list("aabbcc"), "features": KINDS * 3, "x": [2.0, 1.0, 2.15, 2.05, 3.7, 3.0],
                          "y": [2.0, 1.0, 3.0, 1.0, 3.0, 3.0]}).replace({"dataset": {"a": "a long name", "c": "by the edge"}})
    moved_points(ax, table, "x", "y")
    ax.set(yscale="log", xlim=(0.5, 4.1))
    name_points(ax, table, "x", "y")
    assert names(ax)["a long name"] == ("right", "center") and names(ax)["by the edge"] == ("center", "bottom")


def test_gains_of_a_data_set_are_joined_and_named_once(ax):
    table = pd.DataFrame({"dataset": ["a", "a"], "features": KINDS, "clean accuracy": [50.0, 60.0], "gain": [-2.0, 4.0]})
    gain_points(ax, table, "title", "paired")
    name_points(ax, table, "clean accuracy", "gain", level=-2)
    assert len(ax.texts) == 1 and names(ax)["a"][1] in ("top", "bottom")  # left and right of the point is the line
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[50, -2], [60, 4]])


def test_methods_are_ranked_by_their_better_features_and_missing_ones_have_no_mark():
    rows = [("low", "original", 0.2), ("low", "whitening", 0.5), ("high", "original", 0.6)]
    table = pd.DataFrame(rows, columns=["method", "features", "accuracy"])
    figure = method_dots({"both": table, "one": table[:2]})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["high", "low"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == KINDS
    np.testing.assert_allclose(figure.axes[1].lines[0].get_xdata(), [np.nan, 20])
    plt.close(figure)


def test_estimates_lie_on_the_diagonal_where_right(ax):
    table = pd.DataFrame({"noise_kind": "uniform", "noise_rate": [0.0, 0.5, 0.5], "true_rate": [0.0, 0.5, 0.5],
                          "rho": [0.0, 0.4, 0.6]})
    noise_estimates(ax, table, "title")
    np.testing.assert_allclose(ax.containers[0][0].get_xydata(), [[0, 0], [50, 50]])


def test_norms_of_a_method_are_counted_in_the_same_bins_after_every_epoch(ax):
    snapshots = {("m", 1): (np.array([0.1, 0.2]), np.array([0.3])), ("m", 2): (np.array([5.0, 5.0]), np.array([9.0]))}
    heights = [norm_histograms([ax], snapshots, ["m"], epoch) for epoch in (1, 2)]
    edges = [patch.get_xy()[:, 0] for patch in ax.patches]
    assert all(np.array_equal(edges[0], other) for other in edges[1:]) and edges[0].max() == pytest.approx(8.94, abs=0.05)
    assert heights == [pytest.approx(2.1), pytest.approx(2.1)]


def test_ratios_are_geometric_means_over_seeds(ax):
    table = pd.DataFrame({"model": "Linear Probe, GCE", "epoch": [1, 1, 2, 2], "seed": [1, 2, 1, 2],
                          "ratio": [1.0, 4.0, 0.5, 0.5]})
    ratio_lines(ax, table, "title")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2, 0.5])
    assert ax.lines[0].get_linestyle() == "--" and ax.get_yscale() == "log"


@pytest.mark.parametrize("limits, ticks", [((0.5, 20_000), [1, 10, 100, 1000, 10_000]), ((0.16, 1.1), [0.2, 0.3, 0.5, 0.7, 1]),
                                           ((0.97, 1.16), [1, 1.04, 1.08, 1.12, 1.16])])
def test_a_logarithmic_axis_has_few_ticks_however_little_of_it_is_needed(ax, limits, ticks):
    ax.set(yscale="log", ylim=limits)
    log_ticks(ax.yaxis)
    np.testing.assert_allclose(ax.get_yticks(), ticks)
    assert not len(ax.get_yticks(minor=True)) and ax.get_ylim() == limits


def test_ratios_have_a_row_a_model(ax):
    typical = pd.DataFrame({"a": [0.4, 2.0], "b": [0.6, 2.5]}, index=["Linear Probe, CE", "Prompt Tuning, GCE"])
    ratio_marks(ax, typical, typical / 2)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(typical.index)
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), [0.2, 0.3])


def test_a_grid_of_counts_names_rows_and_columns(ax):
    count_grid(ax, pd.DataFrame({0.0: [4.0, 3.0], 0.125: [0.0, 4.0]}, index=["x", "y"]))
    assert [text.get_text() for text in ax.texts] == ["4", "0", "3", "4"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.125"]

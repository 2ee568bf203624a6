"""Figures draw text as it is: class names are no formulas, and axes keep plain numbers."""

import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from clipnotes import lab
from clipnotes.lab import diagrams
from clipnotes.lab.display import show_table
from clipnotes.lab.figures import save_figure
from clipnotes.lab.plots import doubling_axis, image_grid, legend_below, noise_panels, outer_labels, ranked_dots
from clipnotes.series.notebooks import series

ODD = [r"$\frac{", "$5", "$5 to $10", r"a\b", "{", "x^2", "a_b", "50 %", "#1", "<b>&", r"\$", "$$", "日本"]


def texts(path):
    """The texts of an SVG, whose characters the style keeps as characters."""
    return ["".join(node.itertext()) for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        lab.use_style()
        yield
    plt.close("all")


@pytest.mark.filterwarnings("ignore:Glyph")
def test_odd_names_are_drawn_as_they_are(tmp_path):
    figure, ax = plt.subplots(figsize=(9, 9))
    ranked_dots(ax, ODD, np.arange(len(ODD)), np.arange(len(ODD)), np.arange(len(ODD)), "black", ODD[0])
    ax.set_title(ODD[2])
    ax.plot([0], [0], label=ODD[0])
    ax.legend()
    save_figure(figure, tmp_path, "dots")
    drawn = texts(tmp_path / "dots.svg")
    assert set(ODD) <= set(drawn) and drawn.count(ODD[0]) == 3
    grid = image_grid([np.zeros((len(ODD), 2, 2, 3))], ["row $"], [ODD])
    save_figure(grid, tmp_path, "grid")
    assert {*ODD, "row $"} <= set(texts(tmp_path / "grid.svg"))


@pytest.mark.parametrize("scale, expected", [("log", {"0.01", "0.1", "1", "10", "100"}), ("symlog", {"0", "1", "10", "100"})])
def test_logarithmic_axes_have_plain_numbers(tmp_path, scale, expected):
    figure, ax = plt.subplots()
    ax.plot([1, 2], [0.01, 100])
    ax.set_yscale(scale)
    save_figure(figure, tmp_path, "log")
    drawn = texts(tmp_path / "log.svg")
    assert expected <= set(drawn) and not any("$" in text for text in drawn)


def test_panels_share_one_legend_and_label_their_margins_alone(tmp_path):
    figure, axes = plt.subplots(2, 2, squeeze=False)
    for ax, names in zip(axes.flat, (["a"], ["a", "b"], ["c"], []), strict=True):
        for name in names:
            ax.plot([1, 2, 16], [0, 1, 2], label=name)
        doubling_axis(ax, [16, 1, 2, 1])
    outer_labels(axes, "shots", "accuracy")
    legend_below(figure)
    save_figure(figure, tmp_path, "panels")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]
    drawn = texts(tmp_path / "panels.svg")
    assert drawn.count("shots") == drawn.count("accuracy") == 2 and drawn.count("16") == 4


def test_every_seed_is_a_point_beside_the_mean_and_panels_have_one_scale():
    table = pd.DataFrame([{"dataset": name, "method": "Prompt Tuning", "loss": loss, "noise_rate": rate, "seed": seed,
                           "accuracy": level * (seed - rate)}
                          for name, level in (("a", 0.1), ("b", 0.4)) for loss in ("ce", "gce") for rate in (0.0, 0.5)
                          for seed in (1, 2)])
    first, second = noise_panels(table, ["a", "b"], {"a": 20.0, "b": 30.0}).axes
    assert first.get_ylim() == second.get_ylim()
    clean, noisy, mean = first.lines[:3]
    np.testing.assert_allclose([*clean.get_ydata(), *noisy.get_ydata()], [10, 20, 5, 15])
    np.testing.assert_allclose(mean.get_ydata(), [15, 10])
    assert clean.get_xdata()[0] == mean.get_xdata()[0] < first.lines[5].get_xdata()[0]  # another line stands beside it
    assert [line.get_ydata()[0] for line in second.lines if line.get_label() == "zero-shot"] == [30.0]


def test_diagrams_hold_no_formula(tmp_path):
    save_figure(diagrams.prompt_tree([["a"], ["b", "c"]], 12, 20), tmp_path, "tree")
    assert "p₁₂" in texts(tmp_path / "tree.svg")
    save_figure(diagrams.adapter_block(), tmp_path, "block")
    assert {"LN₁", "x′", "× s"} <= set(texts(tmp_path / "block.svg"))
    assert not any("$" in text for name in ("tree", "block") for text in texts(tmp_path / f"{name}.svg"))


def test_a_table_of_odd_names_is_no_formula_either(monkeypatch):
    shown = []
    monkeypatch.setattr("clipnotes.lab.display.get_ipython", lambda: object())
    monkeypatch.setattr("clipnotes.lab.display.display", lambda bundle, **_: shown.append(bundle["text/html"]))
    show_table(pd.DataFrame({"$5 <i>": ODD}))
    assert 'class="tex2jax_ignore' in shown[0] and "$5 &lt;i&gt;" in shown[0] and "<b>&" not in shown[0]


@pytest.mark.parametrize("notebook", series(), ids=lambda notebook: notebook.name)
def test_no_figure_of_the_series_holds_a_formula(notebook):
    """They would be drawn with their dollars: Greek letters do."""
    code = [cell["source"] for cell in notebook.content["cells"] if cell["cell_type"] == "code"]
    assert not [line for source in code for line in source.splitlines() if re.search(r"\$.+\$", line)]

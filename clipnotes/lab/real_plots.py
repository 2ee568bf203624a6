"""Figures of real CLIP beside the pocket models: numbers that ship, drawn in the papers' axes by several notebooks."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from clipnotes.analysis.correlation import outlier
from clipnotes.analysis.overlap import Overlap
from clipnotes.exhibits.papers import known_numbers
from clipnotes.exhibits.real_clip import TITLES, read
from clipnotes.lab.display import plural
from clipnotes.lab.figures import PALETTE
from clipnotes.lab.plots import METHOD_STYLES, doubling_axis, draw_overlap, legend_below, named_rows

# Corrections of features (notebooks 03 to 05): marker and role of the colour, the same for pocket and real models.
CORRECTION_STYLES = {"original": ("o", "clean"), "whitening": ("s", "paired"), "supervised adapters": ("^", "unpaired"),
                     "feature adapter": ("D", "image"), "within-class whitening": ("P", "text"), "centring": ("<", "noisy"),
                     "pca": (">", "noisy"), "self-supervised adapters": ("v", "image")}

# Data sets of papers/ptnl.csv as figures name them.
SPELT = {"OxfordPets": "Oxford Pets", "FGVCAircraft": "FGVC Aircraft"}
GRID_SOURCE = "an independent rerun of CoOp's recipe, 16 shots, q = 0.5 (papers/ptnl.csv, \"independent grid\")"


def title_of(name: str) -> str:
    """What a data set is called above a panel."""
    return TITLES.get(name, name.removeprefix("pocket-"))


def overlap_columns(columns: dict[str, dict[str, Overlap]], width: float = 7.6, height: float = 2.3) -> plt.Figure:
    """A figure of `draw_overlap` panels on the same axes: `columns` {heading: {title: Overlap}}, one column each.

    Rows correspond; the panels of a row share the vertical axis, all panels the horizontal one. The heading stands above the
    first panel of its column.
    """
    rows = max(map(len, columns.values()))
    fig, axes = plt.subplots(rows, len(columns), figsize=(width, height * rows), squeeze=False, sharex=True, sharey="row")
    limits = []
    for column, (heading, panels) in zip(axes.T, columns.items(), strict=True):
        for ax, (title, found) in zip(column, panels.items(), strict=True):
            draw_overlap(ax, found)
            limits.append((*ax.get_xlim(), found))
            ax.get_legend().remove()
            ax.set(xlabel="", ylabel="")
            above = f"{heading}\n" * (ax is column[0])
            ax.set_title(f"{above}{title}, overlap {found.area:.2f}", fontsize=11)
    axes[0, 0].set_xlim(min(low for low, _, _ in limits), max(high for _, high, _ in limits))
    for row, *panels in zip(axes, *(column.values() for column in columns.values()), strict=True):
        row[0].set_ylim(0, 1.08 * max(max(found.paired.max(), found.unpaired.max()) for found in panels))
        row[0].set_ylabel("share a bin")
    for ax in axes[-1]:
        ax.set_xlabel("cosine similarity")
    fig.legend(*(part[:2] for part in axes[0, 0].get_legend_handles_labels()), loc="outside lower center", ncols=2)
    return fig


def shot_curves(ax: plt.Axes, rows: pd.DataFrame, kinds: Iterable[str]) -> None:
    """Accuracy (%) against shots, mean and standard deviation over draws, one line for each kind of features.

    rows: features, shots, seed and accuracy in [0, 1]; accuracies of one draw on several data sets are averaged first.
    """
    for kind in kinds:
        marker, role = CORRECTION_STYLES.get(kind, ("h", "text"))
        by_draw = 100 * rows[rows["features"] == kind].groupby(["shots", "seed"])["accuracy"].mean()
        points = by_draw.groupby("shots").agg(["mean", "std"])
        ax.errorbar(points.index, points["mean"], points["std"].fillna(0), marker=marker, color=PALETTE[role], markersize=5,
                    linestyle="--" if kind == "original" else "-", capsize=2, label=kind)
    doubling_axis(ax, rows["shots"])


def gain_scatter(ax: plt.Axes, points: pd.DataFrame, column: str, kinds: Iterable[str]) -> None:
    """Gain against a column of `points`, a point a data set and correction, in the order of `kinds`.

    Above stand Pearson's r, for which it takes three data sets, and what it is without the data set that it hangs on most, of
    more than three; that one's points are ringed.
    """
    for kind in dict.fromkeys(kinds):
        part, (marker, role) = points[points["features"] == kind], CORRECTION_STYLES.get(kind, ("h", "text"))
        if len(part):
            ax.plot(part[column], part["gain"], marker, color=PALETTE[role], alpha=0.85, label=kind)
    ax.axhline(0, color="0.5", linewidth=1)
    ax.axvline(0, color="0.5", linewidth=1)
    x, y, names = (points[name].to_numpy() for name in (column, "gain", "dataset"))
    if (sets := points["dataset"].nunique()) < 3:
        said = f"{plural(sets, 'data set')}: no r"
    else:
        said = f"r = {np.corrcoef(x, y)[0, 1]:.2f}, {sets} sets"
        if sets > 3:
            most, without = outlier(x, y, names)
            ax.plot(x[names == most], y[names == most], "o", markersize=11, color="0.3", fillstyle="none", markeredgewidth=0.8)
            said += f"\n{without:.2f} without {title_of(most)}"
    ax.set_title(said, loc="right", fontsize=9)


def real_effects(method: str = "nearest class mean", shots: int = 16) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(overlap reduction, gain in points) of the corrections of real CLIP's features: DataFrames [data sets, corrections].

    method: of the table "gains"; gains are means over draws.
    """
    rows = read("gains").query("method == @method and shots == @shots").replace({"dataset": TITLES})
    wide = rows.pivot_table(index="dataset", columns="features", values=["overlap_reduction", "gain"])
    return wide["overlap_reduction"], 100 * wide["gain"]


def prompt_grid() -> pd.DataFrame:
    """Prompt tuning of real CLIP, 16 shots: a table with dataset, backbone, context, loss, noise_rate, mean and std (%), n.

    The independent grid of 224 cells in papers/ptnl.csv; context is "shared" or "CSC" (class-specific), q of GCE 0.5.
    """
    rows = known_numbers("ptnl", "independent grid")
    numbers = {"mean": "value", "std": "std", "n": "n_seeds", "noise_rate": "noise_rate"}
    table = rows[["dataset", "backbone", "context"]].assign(loss=rows["loss"].str.lower()).replace({"dataset": SPELT})
    return table.assign(**{name: pd.to_numeric(rows[column]) for name, column in numbers.items()}).reset_index(drop=True)


def author_curves() -> pd.DataFrame:
    """The curves of an author's figure for Oxford Pets, RN50, read off: dataset, backbone, method, noise_rate and mean (%)."""
    rows = known_numbers("ptnl", "OxfordPets curve")
    method = rows["method"].str.removeprefix("CLIP ").replace("ImageNet Finetuning", "Image Finetuning")
    numbers = {"noise_rate": pd.to_numeric(rows["noise_rate"]), "mean": pd.to_numeric(rows["value"])}
    return rows[["dataset", "backbone"]].replace({"dataset": SPELT}).assign(method=method, **numbers).reset_index(drop=True)


def curve(ax: plt.Axes, x: Any, mean: Any, std: Any, method: str, loss: str = "ce", **look: Any) -> None:
    """One line of accuracies against noise rates in the style of `noise_curves`; std may hold NaN."""
    marker, colour = METHOD_STYLES[method]
    look = {"color": PALETTE[colour], "marker": marker, "markersize": 6, "capsize": 2,
            "linestyle": "-" if loss == "ce" else "--", "markerfacecolor": None if loss == "ce" else "white",
            "label": f"{method}, {loss.upper()}"} | look
    ax.errorbar(x, mean, np.nan_to_num(std), **look)


def prompt_curves(ax: plt.Axes, cells: pd.DataFrame, method: str = "Prompt Tuning") -> None:
    """Prompt tuning against noise rates, a line a loss: `cells` are rows of `prompt_grid` with one context.

    Of one data set the mean and standard deviation over its runs; of several, thin lines and their mean.
    """
    for loss, part in cells.groupby("loss"):
        if part["dataset"].nunique() == 1:
            part = part.sort_values("noise_rate")
            curve(ax, part["noise_rate"], part["mean"], part["std"], method, loss)
            continue
        for _, some in part.groupby(["dataset", "backbone"]):
            some = some.sort_values("noise_rate")
            curve(ax, some["noise_rate"], some["mean"], 0, method, loss, alpha=0.25, linewidth=1, markersize=0,
                  capsize=0, label=None)
        mean = part.groupby("noise_rate")["mean"].mean()
        curve(ax, mean.index, mean, 0, method, loss)


def author_panel(ax: plt.Axes) -> None:
    """The curves of an author's figure: prompt tuning, linear probe and image fine-tuning on Oxford Pets, RN50."""
    for method, part in author_curves().groupby("method", sort=False):
        curve(ax, part["noise_rate"], part["mean"], 0, method)


def label_noise_panels(fig: plt.Figure, axes: Sequence[plt.Axes], titles: Sequence[str], columns: int) -> None:
    """Titles, one scale from 0 to 100 %, labels at the margins, and one legend for panels of accuracy against noise rate."""
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=11)
        ax.set(ylim=(0, 100), xticks=[0, 12.5, 25, 50])
    for ax in axes[::columns]:
        ax.set_ylabel("test accuracy, %")
    for ax in axes[-columns:]:
        ax.set_xlabel("wrong labels, %")
    legend_below(fig, columns)


def dots_by_rate(ax: plt.Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Accuracy (%), one row a data set of `names`, one marker a noise rate (%).

    table: DataFrame [data sets, noise rates]; data sets that it lacks stay empty.
    """
    colours = plt.get_cmap("cividis")(np.linspace(0, 0.88, table.shape[1]))
    for rate, colour, marker in zip(table.columns, colours, "os^Dv<>p", strict=False):
        ax.plot(table[rate].reindex(names), range(len(names)), marker, color=colour, markersize=7, label=f"{rate:g} % wrong")
    ax.set_xlabel("test accuracy, %")
    named_rows(ax, [title_of(name) for name in names])

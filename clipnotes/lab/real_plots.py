"""Figures of real CLIP beside the pocket models: numbers that ship, drawn in the papers' axes by several notebooks."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from clipnotes.exhibits.papers import known_numbers
from clipnotes.exhibits.real_clip import TITLES, read
from clipnotes.lab.figures import PALETTE
from clipnotes.lab.plots import METHOD_STYLES, draw_overlap

CORRECTION_STYLES = {"original": ("o", "clean"), "centring": ("v", "text"), "pca": ("D", "noisy"), "whitening": ("s", "paired"),
                     "within-class whitening": ("P", "unpaired"), "feature adapter": ("^", "image")}


def title_of(name):
    """What a data set is called above a panel."""
    return TITLES.get(name, name.removeprefix("pocket-"))


def overlap_columns(columns, width=7.6, height=2.3):
    """A figure of `draw_overlap` panels on the same axes: `columns` {heading: {title: Overlap}}, one column each.

    Rows correspond; the panels of a row share the vertical axis, all panels the horizontal one.
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
            ax.set_title(f"{heading}: {title}", fontsize=11.5)
            ax.text(0.02, 0.95, f"overlap\n{found.area:.2f}", transform=ax.transAxes, va="top")
    axes[0, 0].set_xlim(min(low for low, _, _ in limits), max(high for _, high, _ in limits))
    for row, *panels in zip(axes, *(column.values() for column in columns.values()), strict=True):
        row[0].set_ylim(0, 1.08 * max(max(found.paired.max(), found.unpaired.max()) for found in panels))
        row[0].set_ylabel("share a bin")
    for ax in axes[-1]:
        ax.set_xlabel("cosine similarity")
    fig.legend(*(part[:2] for part in axes[0, 0].get_legend_handles_labels()), loc="outside lower center", ncols=2)
    return fig


def real_effects(method="nearest class mean", shots=16):
    """(overlap reduction, gain in points) of the corrections of real CLIP's features: DataFrames [data sets, corrections].

    method: of the table "gains"; gains are means over draws.
    """
    rows = read("gains").query("method == @method and shots == @shots").replace({"dataset": TITLES})
    wide = rows.pivot_table(index="dataset", columns="features", values=["overlap_reduction", "gain"])
    return wide["overlap_reduction"], 100 * wide["gain"]


def prompt_grid():
    """Prompt tuning of real CLIP, 16 shots: a table with dataset, backbone, context, loss, noise_rate, mean and std (%), n.

    The independent grid of 224 cells in papers/ptnl.csv; context is "shared" or "CSC" (class-specific), q of GCE 0.5.
    """
    rows = known_numbers("ptnl", "independent grid")
    numbers = {"mean": "value", "std": "std", "n": "n_seeds", "noise_rate": "noise_rate"}
    table = rows[["dataset", "backbone", "context"]].assign(loss=rows["loss"].str.lower())
    return table.assign(**{name: pd.to_numeric(rows[column]) for name, column in numbers.items()}).reset_index(drop=True)


def author_curves():
    """The curves of an author's figure for Oxford Pets, RN50, read off: method, noise_rate (%) and value (%)."""
    rows = known_numbers("ptnl", "OxfordPets curve")
    method = rows["method"].str.removeprefix("CLIP ").replace("ImageNet Finetuning", "Image Finetuning")
    return pd.DataFrame({"method": method, "noise_rate": pd.to_numeric(rows["noise_rate"]),
                         "value": pd.to_numeric(rows["value"])}).reset_index(drop=True)


def curve(ax, x, mean, std, method, loss="ce", label=None):
    """One line of accuracies against noise rates in the style of `noise_curves`; std may hold NaN."""
    marker, colour = METHOD_STYLES[method]
    ax.errorbar(x, mean, np.nan_to_num(std), color=PALETTE[colour], marker=marker, markersize=6, capsize=2, label=label,
                linestyle="-" if loss == "ce" else "--", markerfacecolor=None if loss == "ce" else "white")

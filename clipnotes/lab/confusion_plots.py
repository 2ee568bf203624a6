"""Figures of what is taken for what: confusion matrices, wrong labels along them, accuracy under them (notebook 10)."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm

from clipnotes.analysis.confusion import Confusion
from clipnotes.lab.figures import PALETTE
from clipnotes.lab.plots import METHOD_STYLES, seed_dots


def confusion_heatmap(result: Confusion, title: str) -> tuple[plt.Figure, pd.DataFrame]:
    """Heat map of a confusion matrix, its classes in the order that puts like ones side by side; and the matrix in it."""
    order, n = result.order(), len(result.matrix)
    names, size = [result.classnames[i] for i in order], max(4, min(10, 240 / n))
    matrix = result.matrix[np.ix_(order, order)]
    fig, ax = plt.subplots(figsize=(7.6, 7.0))
    image = ax.imshow(matrix, cmap="cividis", norm=PowerNorm(0.4, 0, 1))
    ax.set_xticks(range(n), names, rotation=90, fontsize=size)
    ax.set_yticks(range(n), names, fontsize=size)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.set(xlabel="taken for", ylabel="true class", title=title)
    fig.colorbar(image, ax=ax, shrink=0.75, label="share of the images of a class",
                 ticks=[0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.7, 1])
    return fig, pd.DataFrame(matrix, index=pd.Index(names, name="true class"), columns=names)


def label_matrices(tables: dict[str, np.ndarray], order: np.ndarray, shots: int) -> plt.Figure:
    """True against given labels: the share of every cell in its row above, how many images a label has below.

    tables: {title: counts [C, C], true class by given label}. order: of the classes, [C]. shots: images a class, dashed.
    """
    fig, axes = plt.subplots(2, len(tables), figsize=(7.6, 4.9), height_ratios=[1.5, 1], sharey="row", squeeze=False)
    for (ax, below), (title, counts) in zip(axes.T, tables.items(), strict=True):
        shares = (counts / counts.sum(1, keepdims=True))[np.ix_(order, order)]
        image = ax.imshow(shares, cmap="cividis", norm=PowerNorm(0.6, 0, 1))
        ax.set_title(title, fontsize=11)
        ax.set(xticks=[], yticks=[], xlabel="given label")
        ax.grid(visible=False)
        below.bar(range(len(order)), np.sort(counts.sum(0))[::-1], width=1, color=PALETTE["noisy"])
        below.axhline(shots, color=PALETTE["clean"], linestyle="--", linewidth=1.3)
        below.set(xlabel="label, by frequency", xticks=[])
    axes[0, 0].set_ylabel("true class")
    axes[1, 0].set_ylabel("images")
    fig.colorbar(image, ax=axes[0], shrink=0.7, label="share", ticks=[0, 0.05, 0.2, 0.5, 1])
    return fig


def noise_dots(ax: plt.Axes, table: pd.DataFrame, zero_shot: float, title: str) -> None:
    """Accuracy (%) by kind of noise, a column each, with a dot for every seed and a large one for their mean.

    table: rows with method, loss, noise, seed and accuracy in [0, 1]. zero_shot: accuracy (%), a dotted line.
    """
    kinds, lines = list(table["noise"].unique()), list(product(table["method"].unique(), table["loss"].unique()))
    for (method, loss), shift in zip(lines, np.linspace(-0.27, 0.27, len(lines)), strict=True):
        part = table[(table["method"] == method) & (table["loss"] == loss)]
        values = [100 * part.loc[part["noise"] == kind, "accuracy"].to_numpy() for kind in kinds]
        marker, role = METHOD_STYLES[method]
        seed_dots(ax, np.arange(len(kinds)) + shift, values, marker, PALETTE[role], loss != "ce", f"{method}, {loss.upper()}")
    ax.axhline(zero_shot, color="0.4", linestyle=":", linewidth=1.3, label="zero-shot")
    ax.set_title(title, fontsize=11)
    ax.set(xlim=(-0.5, len(kinds) - 0.5))
    ax.set_xticks(range(len(kinds)), ["no noise" if kind == "none" else kind for kind in kinds])
    ax.grid(axis="x", visible=False)

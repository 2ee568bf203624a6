"""Figures of methods under wrong labels, pocket and real CLIP side by side: what notebook 15 draws."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from clipnotes.lab.figures import PALETTE

STYLES = {  # marker and colour of a method; corrected features are dashed and hollow
    "class means": ("o", "clean"), "soft means, rho estimated": ("s", "paired"), "cache without text": ("^", "image"),
    "cache without text, soft labels": ("D", "text"), "linear probe": ("v", "unpaired"), "linear probe, GCE": ("P", "unpaired"),
    "prompt tuning": ("X", "noisy"), "prompt tuning, GCE": ("*", "noisy"),
}
KIND_STYLES = {"uniform": ("o", "paired"), "pairflip": ("v", "unpaired"), "confusion": ("D", "text"),
               "annotator": ("s", "image"), "human": ("*", "noisy")}


def rate_lines(ax: plt.Axes, table: pd.DataFrame, title: str) -> None:
    """Accuracy (%) against noise rate (%): mean over data sets, standard deviation over draws of that mean.

    table: rows with method, features, noise_rate, dataset, seed and accuracy in [0, 1]. Methods without a style are left out.
    """
    for (method, features), part in table.groupby(["method", "features"], sort=False):
        if method not in STYLES:
            continue
        marker, role = STYLES[method]
        draws = 100 * part.groupby(["noise_rate", "seed"])["accuracy"].mean().unstack()  # [rates, draws]
        plain = features == "original"
        ax.errorbar(100 * draws.index, draws.mean(axis=1), draws.std(axis=1).fillna(0), color=PALETTE[role], marker=marker,
                    linestyle="-" if plain else "--", markerfacecolor=None if plain else "white", markersize=6, capsize=2,
                    label=f"{method}{'' if plain else ', ' + features}")
    ax.set(title=title, xlabel="wrong labels, %", xticks=[100 * rate for rate in sorted(table["noise_rate"].unique())])
    ax.xaxis.set_major_formatter("{x:g}")


def trust_histogram(ax: plt.Axes, counts: pd.DataFrame, title: str, area: float) -> None:
    """Shares of right and wrong labels by trust: counts with bin, right and wrong; area: the AUROC, written into the panel."""
    edges = np.linspace(0, 1, len(counts) + 1)
    for key, role in (("right", "paired"), ("wrong", "unpaired")):
        share = counts[key] / max(1, counts[key].sum())
        ax.stairs(share, edges, color=PALETTE[role], linewidth=1.8, fill=True, alpha=0.25)
        ax.stairs(share, edges, color=PALETTE[role], linewidth=1.8, label=f"{key} labels")
    ax.set(title=title, ylim=(0, 1.02))
    ax.text(0.5, 0.9, f"AUROC {area:.2f}", transform=ax.transAxes, ha="center", va="top")


def moved_points(ax: plt.Axes, table: pd.DataFrame, x: str, y: str, colour: str = "paired") -> None:
    """Every data set's way from original features (dot) to corrected ones (arrow head): columns dataset, features, x and y."""
    for name, part in table.groupby("dataset", sort=False):
        part = part.set_index("features")
        corrected = next(kind for kind in part.index if kind != "original")
        start, end = (part.loc[kind, [x, y]].to_numpy(float) for kind in ("original", corrected))
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": PALETTE[colour], "linewidth": 1.5})
        ax.plot(*start, "o", color=PALETTE[colour], markersize=6)
        ax.plot(*end, alpha=0)  # so that the axes hold the arrow heads, too
        ax.annotate(name, start, xytext=(5, 4), textcoords="offset points", fontsize=8.5, color="0.3")
    ax.margins(0.15)


def method_dots(table: pd.DataFrame, title: str, width: float = 7.6) -> plt.Figure:
    """A figure of mean accuracy (%) by method, dots for original and squares for corrected features, the best at the top.

    table: rows with method, features and accuracy in [0, 1]; the mean over all rows of a pair is drawn.
    """
    means = 100 * table.groupby(["method", "features"])["accuracy"].mean().unstack()
    means = means.loc[means.max(axis=1).sort_values().index]
    fig, ax = plt.subplots(figsize=(width, 1.1 + 0.24 * len(means)))
    for features in sorted(means.columns, key=lambda kind: kind != "original"):
        plain = features == "original"
        ax.plot(means[features], np.arange(len(means)), "o" if plain else "s", color=PALETTE["clean" if plain else "paired"],
                markersize=6, label=features)
    ax.set(yticks=range(len(means)), yticklabels=means.index, xlabel="test accuracy, %", title=title)
    ax.legend(loc="lower right")
    return fig

"""Figures of gradients of wrong and of right labels: what notebook 09 draws."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from clipnotes.lab.figures import PALETTE
from clipnotes.lab.plots import METHOD_STYLES, log_ticks, named_rows


def norm_histograms(axes: Iterable[plt.Axes], snapshots: dict, methods: list[str], epoch: int) -> float:
    """Histograms of the gradient norms of single images after an epoch, one axis a method; returns the height they need.

    snapshots: {(method, epoch): (norms of wrongly labelled images, norms of rightly labelled ones)}. A method's bins are the
    same for all its epochs; norms beyond the 99.5 % quantile of these are in the last one.
    """
    tallest = 0
    for ax, method in zip(axes, methods, strict=True):
        every = np.concatenate([np.concatenate(pair) for (of, _), pair in snapshots.items() if of == method])
        edges = np.linspace(0, np.quantile(every, 0.995), 25)
        for norms, name, style in zip(snapshots[method, epoch], ("wrong", "right"), ("-", "--"), strict=True):
            counts, _, _ = ax.hist(norms.clip(max=edges[-1]), edges, histtype="step", linewidth=1.9, linestyle=style,
                                   color=PALETTE["noisy" if name == "wrong" else "clean"], label=f"{name} labels")
            tallest = max(tallest, counts.max())
    return 1.05 * tallest


def ratio_lines(ax: plt.Axes, table: pd.DataFrame, title: str) -> None:
    """Noisy over clean gradient norm by epoch on a logarithmic axis, geometric mean and spread over seeds, dashed for GCE.

    table: rows with model ("Linear Probe, CE"), epoch, seed and ratio.
    """
    for label, part in table.groupby("model", sort=False):
        method, loss = label.split(", ")
        log = np.log(part.pivot(index="epoch", columns="seed", values="ratio"))
        middle, spread = np.exp(log.mean(axis=1)), log.std(axis=1).fillna(0)
        colour = PALETTE[METHOD_STYLES[method][1]]
        ax.plot(middle.index, middle, "-" if loss == "CE" else "--", color=colour, label=label)
        ax.fill_between(middle.index, middle * np.exp(-spread), middle * np.exp(spread), color=colour, alpha=0.13, linewidth=0)
    ax.axhline(1, color="0.4", linewidth=1)
    ax.set(title=title, yscale="log")
    ax.xaxis.get_major_locator().set_params(integer=True)


def ratio_marks(ax: plt.Axes, typical: pd.DataFrame, at_end: pd.DataFrame) -> None:
    """Noisy over clean gradient norm, a row a model, a marker a data set; strokes below are those of `at_end`.

    typical, at_end: ratios [models, data sets].
    """
    for place, (label, row) in enumerate(typical.iterrows()):
        method, loss = label.split(", ")
        marker, role = METHOD_STYLES[method]
        ax.plot(row, np.full(len(row), place - 0.1), marker, color=PALETTE[role], markersize=8,
                markerfacecolor=PALETTE[role] if loss == "CE" else "white", label="" if place else "all epochs")
        ax.plot(at_end.loc[label], np.full(len(row), place + 0.18), "|", color="0.3", markersize=11,
                label="" if place else "last epoch")
    ax.axvline(1, color="0.4", linewidth=1)
    ax.set(xlabel="noisy / clean", xscale="log")
    log_ticks(ax.xaxis)
    named_rows(ax, list(typical.index))

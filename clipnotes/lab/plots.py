"""Drawings that several notebooks share: axes and legends, picture grids, overlap histograms, ranked dots."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator, NullLocator

from clipnotes.analysis.overlap import Overlap
from clipnotes.analysis.statistics import mean_ci
from clipnotes.lab.figures import PALETTE


def legend_below(figure: plt.Figure, columns: int = 3) -> None:
    """One legend under all panels of a figure, each label once, in the order in which the panels bring them."""
    lines = {}
    for ax in figure.axes:
        for line, label in zip(*ax.get_legend_handles_labels(), strict=True):
            lines.setdefault(label, line)
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=columns)


def outer_labels(axes: np.ndarray, xlabel: str, ylabel: str) -> None:
    """Label the outer margins of a grid of panels, `axes` [rows, columns], of which all mean the same."""
    for ax in axes[-1]:
        ax.set_xlabel(xlabel)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)


def named_rows(ax: plt.Axes, names: Sequence[str], **font: Any) -> None:
    """One row a name on the vertical axis, from the top, without lines between them."""
    ax.set_yticks(range(len(names)), names, **font)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def doubling_axis(ax: plt.Axes, values: Iterable[float]) -> None:
    """A horizontal axis on which each doubling is one step, with a tick at every one of `values` and no other."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(set(values)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()


def image_grid(rows: Sequence, labels: Sequence[str], titles: Sequence[Sequence[str]] | None = None, width: float = 7.0,
               figure: plt.Figure | None = None, wrap: int | None = None, lines: int = 0) -> plt.Figure:
    """A figure of pictures in rows: `rows` a list of arrays [C, H, W, 3], `labels` one text a row.

    titles: texts above the pictures, a list a row, or None. wrap: letters of a line of these, None for any number.
    lines: of a title, that room is left for at least, so that figures of several titles have one size.
    figure: drawn into this one, else into a new one.
    """
    if wrap:
        titles = [[wrapped(title, wrap) for title in row] for row in titles]
    columns = max(len(row) for row in rows)
    side = width / (columns + 1.6)  # the labels take the place of 1.6 pictures
    lines = 0 if titles is None else max(lines, 1 + max(title.count("\n") for row in titles for title in row))
    height = len(rows) * side * (1 + 0.3 * lines)
    figure = figure or plt.figure()
    figure.set_size_inches(width, height)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for r, (row, label) in enumerate(zip(rows, labels, strict=True)):
        for c, ax in enumerate(axes[r]):
            ax.axis("off")
            if c < len(row):
                ax.imshow(row[c], interpolation="nearest")
                if titles is not None:
                    ax.set_title(titles[r][c], fontsize=9, loc="center", pad=2)
        axes[r, 0].text(-0.12, 0.5, label, transform=axes[r, 0].transAxes, ha="right", va="center", fontsize=11)
    return figure


def log_ticks(axis: Axis) -> None:
    """Four ticks or some more on a logarithmic axis of a figure, however little of it the data need; none that collide."""
    low, high = axis.get_view_interval()
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)))
    grids = [np.outer(powers, steps).ravel() for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))]
    for grid in [*grids, MaxNLocator(5).tick_values(low, high)]:
        ticks = grid[(low <= grid) & (grid <= high)]
        if len(ticks) >= 4:
            break
    axis.set_ticks(ticks)
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def wrapped(text: str, width: int) -> str:
    """Every line of a text in lines of at most `width` letters, longer words whole."""
    return "\n".join(textwrap.fill(line, width, break_long_words=False) for line in text.split("\n"))


def draw_overlap(ax: plt.Axes, result: Overlap, names: tuple[str, str] = ("same class", "different class"),
                 colours: tuple[str, str] = ("paired", "unpaired")) -> None:
    """Both histograms of an `analysis.Overlap` on one axis, the shared area hatched and written out.

    A peak five times as high as the other histogram is cut off and its height written beside it.
    """
    for share, name, colour in zip((result.paired, result.unpaired), names, colours, strict=True):
        ax.stairs(share, result.edges, color=PALETTE[colour], linewidth=1.8, label=name)
    shared = np.minimum(result.paired, result.unpaired)
    label = f"overlap area {result.area:.2f}"
    ax.stairs(shared, result.edges, fill=True, color="0.85", hatch="///", edgecolor="0.55", linewidth=0, label=label)
    seen = np.flatnonzero(result.paired + result.unpaired > 1e-4)
    margin = 0.04
    ax.set_xlim(max(-1, result.edges[seen[0]] - margin), min(1, result.edges[seen[-1] + 1] + margin))
    low, high = sorted([result.paired.max(), result.unpaired.max()])
    ax.set_ylim(0, 1.08 * min(high, 5 * low))
    if high > 5 * low:
        place = result.centres[(result.paired + result.unpaired).argmax()]
        ax.annotate(f"up to {high:.2f}", (place, 5 * low), xytext=(-8, -4), textcoords="offset points", ha="right", va="top")
    ax.set(xlabel="cosine similarity", ylabel="share of the pairs in a bin")
    ax.legend(loc="upper left" if high > 5 * low else "best")


def ranked_dots(ax: plt.Axes, names: Sequence[str], values: Any, low: Any, high: Any, colour: Any, xlabel: str) -> None:
    """Values with intervals, one line a name, smallest at the top: a chart that stays readable with many names.

    colour: one for all, or a list with one for each name.
    """
    places = np.arange(len(names))
    ax.hlines(places, low, high, color=colour, linewidth=3, alpha=0.45)
    ax.scatter(values, places, s=49, color=colour, zorder=3)
    named_rows(ax, names)
    ax.set_xlabel(xlabel)


def count_grid(ax: plt.Axes, counts: pd.DataFrame) -> None:
    """Whole numbers of a table as a grid of shaded cells with the numbers in them, rows and columns named."""
    ax.imshow(counts.astype(float), cmap="cividis", aspect="auto", vmin=0)
    for i, j in np.ndindex(counts.shape):
        n = int(counts.iat[i, j])
        ax.text(j, i, n, ha="center", va="center", fontsize=8, color="black" if n > counts.max().max() / 2 else "white")
    ax.set_xticks(range(counts.shape[1]), [f"{head:g}" if isinstance(head, float) else str(head) for head in counts.columns])
    ax.set_yticks(range(len(counts)), counts.index, fontsize=7.5)
    ax.grid(visible=False)


def effect_strokes(axes: Sequence[plt.Axes], values: dict[str, pd.DataFrame], marks: dict[str, tuple[str, str]]) -> None:
    """Effects of methods on data sets: one row a method, a stroke a data set, their mean with a 95 % interval over them.

    values: {axis label: DataFrame [data sets, methods]}, one axis each. marks: {method: (marker, role of the colour)}, in
    the order of the rows.
    """
    for ax, (label, table) in zip(axes, values.items(), strict=True):
        for place, (kind, (marker, role)) in enumerate(marks.items()):
            mean, half = mean_ci(table[kind])
            ax.plot(table[kind], np.full(len(table), place), "|", color=PALETTE[role], alpha=0.55, markersize=11,
                    markeredgewidth=1.4)
            ax.errorbar(mean, place, xerr=np.nan_to_num(half), fmt=marker, color=PALETTE[role], markersize=7)
        ax.axvline(0, color="0.4", linewidth=1)
        ax.set_xlabel(label)
        named_rows(ax, [kind.replace(" + ", "\n+ ") for kind in marks])
    for ax in axes[1:]:
        ax.set_yticklabels([])


def claim_dots(claims: Sequence[Any], effects: pd.DataFrame, xlabel: str) -> plt.Figure:
    """`side_dots` of `exhibits.claims.Claim`s, from the top; effects: their rows of `exhibits.claims.effects`."""
    by = {scale: effects[effects["scale"] == scale].groupby("claim")["value"] for scale in SCALES}
    lines = {f"{claim.id}  {claim.statement}": {scale: groups.get_group(claim.id) for scale, groups in by.items()
                                                if claim.id in groups.groups} for claim in claims}
    return side_dots(lines, xlabel)


SCALES = {"real CLIP": ("unpaired", "s", -0.17), "pocket": ("paired", "o", 0.17)}  # role of the colour, marker, shift


def side_dots(lines: dict[str, dict[str, pd.Series]], xlabel: str) -> plt.Figure:
    """A figure with a line a difference: a small dot a data set, a large one their mean, n of m right of zero at its end.

    lines: {name of the difference: {scale, of `SCALES`: values by data set}}, from the top. Zero parts right from wrong: the
    claimed side is to the right of it.
    """
    figure, ax = plt.subplots(figsize=(7.6, 1.3 + 0.5 * len(lines)))
    ax.axvspan(0, 1e6, color=PALETTE["clean"], alpha=0.08, linewidth=0)
    ax.axvline(0, color="0.3", linewidth=1)
    every = []
    for place, scales in enumerate(lines.values()):
        for scale, values in scales.items():
            role, marker, shift = SCALES[scale]
            y, every = place + shift * (len(scales) > 1), [*every, *values]
            ax.plot(values, [y] * len(values), marker, color=PALETTE[role], markersize=3.5, alpha=0.55)
            ax.plot(values.mean(), y, marker, color=PALETTE[role], markersize=8, label=scale)
            ax.text(1.01, y, f"{(values > 0).sum()} of {len(values)}", transform=ax.get_yaxis_transform(), va="center",
                    fontsize=8.5, color=PALETTE[role])
    margin = 0.05 * (max(every) - min(every)) + 1
    ax.set_xlim(min(*every, -5) - margin, max(*every, 5) + margin)
    named_rows(ax, [textwrap.fill(name, 52) for name in lines], fontsize=8.5)
    ax.set_xlabel(xlabel)
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    names = [name for name in SCALES if name in handles]
    if len(names) > 1:
        figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=2)
    return figure


# The methods of paper B: marker and role of the colour, the same in every notebook.
METHOD_STYLES = {
    "Prompt Tuning": ("o", "paired"), "Linear Probe": ("s", "unpaired"), "Classifier-R": ("s", "unpaired"),
    "Classifier-C": ("D", "text"), "TEnc-FT": ("^", "image"), "Image Finetuning": ("X", "noisy"),
    "CLS Tuning": ("v", "noisy"), "Full Prompt Tuning": ("P", "clean"), "Class-specific context": ("<", "noisy"),
}


def seed_dots(ax: plt.Axes, places: Sequence[float], values: Sequence[np.ndarray], marker: str, colour: Any,
              hollow: bool = False, label: str | None = None, line: str = "none") -> None:
    """A small dot for every seed and a large one for their mean: a mean with a spread would hide that runs fall in two camps.

    places: on the horizontal axis, each with its array of `values`, which may be empty. line: style of that through the means.
    """
    for place, seeds in zip(places, values, strict=True):
        ax.plot(np.full(len(seeds), place), seeds, marker, color=colour, markersize=3.5, alpha=0.5, markeredgewidth=0)
    drawn = [(place, seeds.mean()) for place, seeds in zip(places, values, strict=True) if len(seeds)]
    ax.plot(*zip(*drawn, strict=True), marker, color=colour, markersize=7, markerfacecolor="white" if hollow else colour,
            linestyle=line, label=label)


def noise_curves(ax: plt.Axes, table: pd.DataFrame, title: str = "", styles: dict[str, tuple] = METHOD_STYLES) -> None:
    """Accuracy (%) against noise rate (%): a line through the means for each method and loss, a small dot for every seed.

    table: rows with method, loss, noise_rate, seed and accuracy in [0, 1]. Lines of GCE are dashed, their markers hollow.
    styles: {method: (marker, colour or its role)}.
    """
    lines = list(table.groupby(["method", "loss"], sort=False))
    for place, ((method, loss), part) in enumerate(lines):
        marker, colour = styles[method]
        shift = 0.8 * (place - (len(lines) - 1) / 2)  # so that the seeds of several lines stand side by side
        seeds = {100 * rate + shift: 100 * some["accuracy"] for rate, some in part.groupby("noise_rate")}
        seed_dots(ax, seeds, seeds.values(), marker, PALETTE.get(colour, colour), loss != "ce", f"{method}, {loss.upper()}",
                  "-" if loss == "ce" else "--")
    ax.set(title=title, xticks=[100 * rate for rate in sorted(table["noise_rate"].unique())])
    ax.xaxis.set_major_formatter("{x:g}")


def noise_panels(table: pd.DataFrame, names: Sequence[str], levels: dict[str, float] | None = None,
                 styles: dict[str, tuple] = METHOD_STYLES, columns: int = 2) -> plt.Figure:
    """A figure of `noise_curves`, one panel a data set of `names`, all on one scale.

    levels: accuracies (%) by data set, drawn as dotted zero-shot lines.
    """
    figure, axes = panels(len(names), columns, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        noise_curves(ax, table[table["dataset"] == name], name, styles)
        if levels:
            ax.axhline(levels[name], color="0.4", linestyle=":", linewidth=1.3, label="zero-shot")
    for ax in axes[::columns]:
        ax.set_ylabel("test accuracy, %")
    for ax in axes[-columns:]:
        ax.set_xlabel("wrong labels, %")
    legend_below(figure)
    return figure


def panels(n: int, columns: int = 2, height: float = 2.9, width: float = 7.6, sharey: bool = False, xlabel: str = "",
           ylabel: str = "") -> tuple[plt.Figure, list[plt.Axes]]:
    """(figure, flat list of n axes) in rows of `columns`, with one horizontal scale; what is left over stays empty.

    sharey: one vertical scale, too, for panels that are compared. xlabel, ylabel: at the outer margins.
    """
    rows = -(-n // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width, height * rows), squeeze=False, sharex=True, sharey=sharey)
    for ax in axes.flat[n:]:
        ax.axis("off")
    for ax in axes.flat[max(n - columns, 0):n]:  # those with nothing below them
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(xlabel)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    return figure, list(axes.flat[:n])

"""Figures of methods under wrong labels, pocket and real CLIP side by side: what notebook 15 draws."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from clipnotes.lab.figures import PALETTE
from clipnotes.lab.plots import legend_below, named_rows

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
    Lines of corrected features are dashed, their markers hollow.
    """
    for (method, features), part in table.groupby(["method", "features"], sort=False):
        if method not in STYLES:
            continue
        marker, role = STYLES[method]
        draws = 100 * part.groupby(["noise_rate", "seed"])["accuracy"].mean().unstack()  # [rates, draws]
        plain = features == "original"
        ax.errorbar(100 * draws.index, draws.mean(axis=1), draws.std(axis=1).fillna(0), color=PALETTE[role], marker=marker,
                    linestyle="-" if plain else "--", markerfacecolor=None if plain else "white", markersize=6, capsize=2,
                    label=method if plain else "_" + method)
    ax.set(title=title, xticks=[100 * rate for rate in sorted(table["noise_rate"].unique())])
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
    for start, end in ways(table, x, y).values():
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": PALETTE[colour], "linewidth": 1.5})
        ax.plot(*start, "o", color=PALETTE[colour], markersize=6)
        ax.plot(*end, alpha=0)  # so that the axes hold the arrow heads, too
    ax.margins(0.12)


def ways(table: pd.DataFrame, x: str, y: str) -> dict[str, np.ndarray]:
    """{data set: [2, 2], its point (x, y) of original features and that of corrected ones}, where both are numbers."""
    ends = {name: part.sort_values("features", key=lambda kinds: kinds != "original")[[x, y]].to_numpy(float)
            for name, part in table.groupby("dataset", sort=False)}
    return {name: points[[0, -1]] for name, points in ends.items() if np.isfinite(points).all()}


def name_points(ax: plt.Axes, table: pd.DataFrame, x: str, y: str, level: float | None = None) -> None:
    """Write each data set's name beside its point of original features, on the side that lines, points and names leave free.

    table: columns dataset, features, x and y, as `moved_points` and `gain_points` take them. level: of a horizontal line. Call
    it last: it looks where things lie in the figure as it is.
    """
    ax.figure.draw_without_rendering()
    found = {name: ax.transData.transform(ends) for name, ends in ways(table, x, y).items()}  # in pixels
    steps, around = np.linspace(0, 1, 60)[:, None], 6 * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1), (0, 0)])  # of a marker
    taken = [start + steps * (end - start) for start, end in found.values()]
    taken += [point + around for ends in found.values() for point in ends]
    if level is not None:
        (left, right), height = ax.get_window_extent().intervalx, ax.transData.transform((1, level))[1]
        taken.append(np.column_stack([np.linspace(left, right, 200), np.full(200, height)]))
    for (name, ends), (start, end) in zip(ways(table, x, y).items(), found.values(), strict=True):
        away = -1 if end[0] > start[0] else 1  # from the own arrow
        tried = []
        for dx, dy in ((away, 0), (-away, 0), (0, 1), (0, -1), (away, 1), (away, -1), (-away, 1), (-away, -1)):
            far = 5 if dx and dy else 7
            text = ax.annotate(name, ends[0], xytext=(far * dx, far * dy), textcoords="offset points", fontsize=9, color="0.3",
                               ha=("center", "left", "right")[dx], va=("center", "bottom", "top")[dy],
                               bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5})
            box = text.get_window_extent()
            (x0, y0), (x1, y1) = ax.get_window_extent().get_points()
            outside = box.x0 < x0 + 3 or box.x1 > x1 - 3 or box.y0 < y0 + 3 or box.y1 > y1 - 3
            inside = ((np.concatenate(taken) > box.p0 - 2) & (np.concatenate(taken) < box.p1 + 2)).all(axis=1).sum()
            tried.append((100 * outside + inside, len(tried), text))
        best = min(tried, key=lambda each: each[:2])[2]
        for *_, text in tried:
            if text is not best:
                text.remove()
        box = best.get_window_extent()
        taken.append(np.stack(np.meshgrid(np.linspace(box.x0, box.x1, 20), np.linspace(box.y0, box.y1, 5)), -1).reshape(-1, 2))


def gain_points(ax: plt.Axes, table: pd.DataFrame, title: str, colour: str) -> None:
    """The gain of soft over plain means against the accuracy of plain ones on right labels, by data set and features.

    table: columns dataset, features, clean accuracy (%) and gain (points). The two dots of a data set are joined.
    """
    for _, part in table.groupby("dataset", sort=False):
        ax.plot(part["clean accuracy"], part["gain"], color="0.75", linewidth=1.2, zorder=1)
        for row in part.to_dict("records"):
            hollow = row["features"] != "original"
            ax.plot(row["clean accuracy"], row["gain"], "s" if hollow else "o", color=PALETTE[colour], markersize=7,
                    markerfacecolor="white" if hollow else PALETTE[colour])
    ax.axhline(0, color="0.4", linewidth=1)
    ax.set_title(title)
    ax.margins(0.15)


def noise_estimates(ax: plt.Axes, table: pd.DataFrame, title: str) -> None:
    """The estimated share of wrong labels (%) against the true one, by kind of noise; right ones lie on the diagonal.

    table: rows with noise_kind, noise_rate, true_rate and rho in [0, 1].
    """
    for kind, part in table.groupby("noise_kind", sort=False):
        marker, role = KIND_STYLES[kind]
        by_rate = 100 * part.groupby("noise_rate")[["true_rate", "rho"]].agg(["mean", "std"])
        ax.errorbar(by_rate["true_rate"]["mean"], by_rate["rho"]["mean"], by_rate["rho"]["std"].fillna(0), marker=marker,
                    color=PALETTE[role], capsize=2, label=kind)
    ax.axline((0, 0), slope=1, color="0.6", linestyle=":")
    ax.set(title=title, xlabel="wrong labels, %")


def method_dots(tables: dict[str, pd.DataFrame], width: float = 7.6) -> plt.Figure:
    """A figure of mean accuracy (%) by method, dots for original and squares for corrected features, the best at the top.

    tables: {title: rows with method, features and accuracy in [0, 1]}, a panel each; a method that one lacks has no mark there.
    The order is that of the mean over panels, of each the accuracy against the mean of the methods that all panels have.
    """
    means = {title: 100 * table.groupby(["method", "features"])["accuracy"].mean().unstack() for title, table in tables.items()}
    best = pd.concat([part.max(axis=1) for part in means.values()], axis=1)
    order = (best - best.dropna().mean()).mean(axis=1).sort_values(ascending=False).index
    fig, axes = plt.subplots(1, len(means), figsize=(width, 1.1 + 0.24 * len(order)), sharex=True, sharey=True, squeeze=False)
    for ax, (title, part) in zip(axes.flat, means.items(), strict=True):
        named_rows(ax, list(order))
        ax.grid(axis="y", visible=True)
        for features in sorted(part.columns, key=lambda kind: kind != "original"):
            plain = features == "original"
            ax.plot(part[features].reindex(order), range(len(order)), "o" if plain else "s",
                    color=PALETTE["clean" if plain else "paired"], markersize=5.5, label=features)
        ax.set_title(title, fontsize=11)
    axes[0, len(means) // 2].set_xlabel("test accuracy, %")
    legend_below(fig)
    return fig

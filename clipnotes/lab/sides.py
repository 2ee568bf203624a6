"""Claims as differences by data set: recorded, drawn as a line each, the data sets on the claimed side counted and said."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from clipnotes.analysis.statistics import sides
from clipnotes.exhibits.claims import Claim
from clipnotes.lab.figures import PALETTE
from clipnotes.lab.plots import SCALES, named_rows, side_dots
from clipnotes.lab.run import Run


def show_sides(run: Run, id: str, differences: dict[str, pd.Series], caption: str, xlabel: str = "points", **keys: Any) -> None:
    """Record differences, draw them as the figure `id` (see `side_dots`), and say on how many data sets the paper is right.

    differences: {name: values by data set}, each positive where the paper is right. xlabel: what they are measured in.
    caption: begins the figure's. keys: of the records, as `Run.record` takes them.
    """
    for name, values in differences.items():
        for dataset, value in values.items():
            run.record(metric="difference", value=value, dataset=dataset, of=name, **keys)
    counted = sides(differences)
    run.figure(id, side_dots({name: {"pocket": values} for name, values in differences.items()}, xlabel), data=counted,
               alt="; ".join(f"{row.difference}: {row.mean:+.1f}, {row.positive} of {row.sets} sets"
                             for row in counted.itertuples()) + ".",
               caption=f"{caption} The claimed side is grey; small dots: data sets, the large one their mean.")
    run.takeaway(said(counted))


def said(counted: pd.DataFrame) -> str:
    """One sentence on a table of `sides`: which differences lie on the paper's side on all, on some and on no data sets."""
    share = counted["positive"] / counted["sets"]
    parts = []
    for where, rows in (("all", counted[share == 1]), ("some", counted[share.between(0, 1, "neither")]),
                        ("no", counted[share == 0])):
        if len(rows):
            names = ", ".join(f"{row.difference} ({row.positive} of {row.sets})" for row in rows.itertuples())
            parts.append(f"on {where} data sets: {names}")
    return f"On the paper's side {'; '.join(parts)}."


def claim_rows(ax: plt.Axes, claim: Claim, effects: pd.DataFrame, limit: float) -> None:
    """A claim's effect on every data set, a row each, real CLIP above pocket; the claimed side is grey.

    effects: rows of `exhibits.claims.effects` of this claim. limit: of the axis, on either side of zero.
    """
    names, place = [], 0
    for scale, (role, marker, _) in SCALES.items():
        rows = effects[effects["scale"] == scale].sort_values("value", ascending=False)
        names += [f"{name.removeprefix('pocket-')} ({scale})" for name in rows["dataset"]]
        for value in rows["value"]:
            ax.plot([0, value], [place, place], color=PALETTE[role], linewidth=1.5, alpha=0.5)
            ax.plot(value, place, marker, color=PALETTE[role], markersize=8)
            ax.annotate(f"{value:+.1f}" if claim.sided else f"{value:.1f}", (value, place), xytext=(8 if value >= 0 else -8, 0),
                        textcoords="offset points", ha="left" if value >= 0 else "right", va="center", fontsize=8.5)
            place += 1
    if claim.sided:
        ax.axvspan(0, limit, color=PALETTE["clean"], alpha=0.08, linewidth=0)
    ax.axvline(0, color="0.3", linewidth=1)
    ax.set_xlim(-limit if claim.sided else 0, limit)
    named_rows(ax, names, fontsize=9)
    ax.set_xlabel(claim.effect)

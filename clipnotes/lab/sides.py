"""Claims as differences by data set: recorded, drawn as a line each, the data sets on the claimed side counted and said."""

from typing import Any

import pandas as pd

from clipnotes.analysis.statistics import sides
from clipnotes.lab.plots import side_dots
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

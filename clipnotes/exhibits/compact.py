"""A gathered table without what no exhibit of the papers needs: small enough for a repository."""

import json

import pandas as pd

from clipnotes.exhibits.gather import FACTS
from clipnotes.exhibits.layouts import LAYOUTS
from clipnotes.exhibits.tables import PLACES, records_of, told_by_results
from clipnotes.series.notebooks import find
from clipnotes.series.run_folder import COLUMNS, KEYS


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows and columns that the exhibits of `layouts` are made of, values to five digits.

    Rows of runs that are not complete stay. Of the parameters those stay that differ between the runs of a notebook, for a
    complete run only where its results do not name the same themselves.
    """
    kept = set(table.index[table["metric"].isna()]).union(*(records_of(table, what).index for what in LAYOUTS.values()))
    table = table.loc[sorted(kept)]
    parameters = [name for name in table if name.startswith("p_")]
    varied = table.groupby("notebook")[parameters].nunique(dropna=False).max()
    parameters = [name for name in parameters if varied[name] > 1 or name not in PLACES and unusual(table, name)]
    told = [name for name in parameters if name.removeprefix("p_") in KEYS or told_by_results(table, name)]
    table.loc[table["status"] == "complete", told] = None
    used = {column for what in LAYOUTS.values() for column in (*what.rows, what.across)}
    facts = [name for name in FACTS if name in FACTS[:3] or table[name].nunique() > 1]
    further = [name for name in table if name in used - {*COLUMNS}] + facts
    columns = [*COLUMNS, *further, *(name for name in parameters if table[name].notna().any())]
    short = table["run"].str.rsplit("/").str[-1]  # the ids of sweeps differ without their folders
    table["run"] = short if short.nunique() == table["run"].nunique() else table["run"]
    return table[columns].assign(value=[float(f"{value:.5g}") for value in table["value"]]).reset_index(drop=True)


def unusual(table: pd.DataFrame, name: str) -> bool:
    """Whether a run has another value of a parameter than its notebook's default: a table beside it may have that one."""
    for notebook, rows in table.groupby("notebook"):
        default = next((each.default for each in find(notebook).parameters if f"p_{each.name}" == name), None)
        text = json.dumps(default) if isinstance(default, list) else default
        if any(value != text and str(value) != str(text) for value in rows[name].dropna()):
            return True
    return False

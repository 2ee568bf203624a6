"""A gathered table laid out as an exhibit of the papers, with their numbers beside ours and what is missing."""

import json
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from clipnotes.errors import ClipnotesError, shown
from clipnotes.exhibits.layouts import Layout, layout
from clipnotes.exhibits.papers import known_numbers, plain_name, with_spread
from clipnotes.series.run_folder import KEYS

FORMATS = ["markdown", "csv", "latex"]
_MARKUP = re.compile(r"[\\`*\[\]<>|$~&]|(?<!\w)_|_(?!\w)")  # an underscore inside a word is one
PLACES = {"p_data_root", "p_features_dir"}  # where files lie changes no number


def measured(table: pd.DataFrame, like: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows of a gathered table that the exhibit `like` is made of, one a seed: (frame, the columns that name a cell).

    Every parameter that differs between the runs and is no axis of the exhibit is one of these columns, so that unlike
    settings are never averaged. A seed that several runs measured counts once, with their mean.
    ClipnotesError: an unknown exhibit, or a table without any of its rows.
    """
    what = layout(like)
    rows = records_of(table, what)
    if rows.empty:
        raise ClipnotesError(f"The table has no rows for {like}, which needs runs of {what.notebook}: try clipnotes sweep "
                             f"{what.notebook[:2]} --grid {what.grid} --out runs/{what.grid}.")
    rows = rows.assign(q=rows["q"].where(rows["loss"] == "gce"), method=rows["method"].replace(what.names))
    keys = [*what.rows, "model", *_settings(rows, what)]
    keys += [what.across] if what.across not in keys else []
    rows = rows.assign(**{key: rows[key].fillna("") for key in keys if rows[key].dtype.kind not in "iuf"})
    return rows.groupby([*keys, "seed"], dropna=False, sort=False)["value"].mean().reset_index(), keys


def records_of(table: pd.DataFrame, what: Layout) -> pd.DataFrame:
    """The rows of a gathered table that belong to a layout."""
    rows = table[(table["notebook"] == what.notebook) & (table["metric"] == what.metric)]
    pairs = pd.MultiIndex.from_arrays([rows["method"], rows["loss"].astype(object).fillna("")])
    rows = rows[pairs.isin(what.methods)]
    for column, values in what.only.items():
        rows = rows[rows[column].isin([v for v in values if v is not None]) | (rows[column].isna() & (None in values))]
    for column, values in what.without.items():
        rows = rows[~rows[column].isin(values)]
    if what.several:
        whole = [column for column in ("dataset", "p_source", "model") if column in rows and column != what.several]
        rows = rows[rows.groupby(whole, dropna=False)[what.several].transform("nunique") > 1]
    return rows


def told_by_results(table: pd.DataFrame, name: str) -> bool:
    """Whether a parameter is a list of what the results name themselves, such as seeds, data sets or corrections."""
    texts = table.loc[table["status"] == "complete", name].dropna().astype(str).unique()
    if not len(texts) or not all(text.startswith("[") for text in texts):
        return False
    elements = {element for text in texts for element in listed(text, name)}
    return any(elements <= set(table[column].dropna()) for column in (*KEYS, "features") if column in table)


def listed(text: str, column: str) -> list:
    """The values of a list in a parameter's column, as JSON; ClipnotesError where it is none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or any(isinstance(value, list | dict) for value in values):
        raise ClipnotesError(f"The table has {shown(text)} in the column {column}, which is no list of plain values: make it "
                             "anew with clipnotes gather.")
    return values


def cells(table: pd.DataFrame, like: str) -> pd.DataFrame:
    """Mean, std (of a sample; NaN for one) and n over seeds of every cell of an exhibit; accuracies in %, as the papers have.

    Where data sets name the rows, cells of their mean follow, over the seeds for which all of them are there.
    """
    rows, keys = measured(table, like)
    rows["value"] *= 100 if "accuracy" in layout(like).metric else 1
    found = _summary(rows, keys)
    if "dataset" not in layout(like).rows:
        return found
    others = [key for key in keys if key != "dataset"]
    wanted = rows.groupby([key for key in others if key != layout(like).across], dropna=False)["dataset"].transform("nunique")
    groups = rows.assign(wanted=wanted).groupby([*others, "seed"], dropna=False, sort=False)
    means = groups.agg(value=("value", "mean"), n=("dataset", "nunique"), wanted=("wanted", "first")).reset_index()
    means = means[(means["n"] == means["wanted"]) & (means["n"] > 1)]
    means["dataset"] = "mean of " + means["n"].astype(str)
    return pd.concat([found, _summary(means, keys)], ignore_index=True)


def exhibit(table: pd.DataFrame, like: str) -> pd.DataFrame:
    """The exhibit as a data frame of text: "mean ± std (n)" of ours and, with their status as source, the papers' numbers.

    A cell of ours that is not there says "missing"; see `gaps.gaps`.
    """
    what, found = layout(like), cells(table, like)
    index = [key for key in found if key not in ("mean", "std", "n", what.across)]
    found["text"] = [with_spread(f"{mean:.2f}", f"{std:.2f}" if n > 1 else "", n)
                     for mean, std, n in zip(found["mean"], found["std"], found["n"], strict=True)]
    ours = _across(found.assign(source="ours"), [*index, "source"], what.across)
    for head in ours.columns.difference([*index, "source"]):
        ours[head] = ours[head].fillna(pd.Series(["missing" * exists(what, row, head) for row in ours.to_dict("records")]))
    parts = [ours]
    theirs = paper_cells(like, found["dataset"].unique() if "dataset" in found else ())
    if len(theirs):
        parts.append(_across(theirs.reindex(columns=[*index, "source", what.across, "text"]), [*index, "source"], what.across))
    whole = pd.concat(parts, ignore_index=True)
    heads = [column for column in whole if column not in [*index, "source"]]
    heads = heads if isinstance(heads[0], str) else sorted(heads)
    whole = whole[[*index, "source", *heads]].fillna("").sort_values(
        index, key=lambda column: column.map(_rank(column, what)), kind="stable", ignore_index=True)
    labels = {name: name.removeprefix("p_") for name in index} | {head: _label(what.across, head) for head in heads}
    return whole.rename(columns=labels)


def paper_cells(like: str, datasets: Iterable[str] = ()) -> pd.DataFrame:
    """The papers' known numbers for an exhibit in our columns; data sets spelt as in `datasets` where one is the same."""
    what, rows, spelt = layout(like), [], {plain_name(name): name for name in datasets}
    methods = {plain_name(name): name for name in _shown(what)}
    for paper, item, filters in what.paper:
        for row in known_numbers(paper, item, **filters).to_dict("records"):
            method = methods.get(plain_name(what.names.get(row["method"], row["method"])))
            rows.append({"dataset": spelt.get(plain_name(row["dataset"]), row["dataset"]), "method": method,
                         "loss": row["loss"].lower() or ("ce" if what.methods[0][1] else ""), "features": "original",
                         "model": row["backbone"], "shots": int(row["shots"] or 0), "source": row["status"],
                         "noise_rate": float(row["noise_rate"] or 0) / 100,
                         "text": with_spread(row["value"], row["std"], row["n_seeds"])})
    return pd.DataFrame(rows).dropna(subset="method").drop_duplicates() if rows else pd.DataFrame()


def written(table: pd.DataFrame, format: str) -> str:
    """A data frame of text in one of `FORMATS`."""
    if format not in FORMATS:
        raise ClipnotesError(f"The format is {format!r}; allowed are: {', '.join(FORMATS)}.")
    if format == "markdown":
        return markdown(table)
    if format == "csv":
        return table.to_csv(index=False, lineterminator="\n")
    return table.to_latex(index=False, escape=True).replace("±", r"$\pm$")


def markdown(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table, whose cells show as they are."""
    rows = [[escaped(cell) for cell in row] for row in (table.columns, *table.astype(str).to_numpy())]
    rows.insert(1, ["---"] * table.shape[1])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def escaped(text: object) -> str:
    """Text for Markdown, in which nothing is markup, HTML, a formula or the end of a table's cell."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(str(text).split()))


def _settings(rows, what):
    """What differs between the runs and is neither a key of the exhibit nor one of its axes."""
    axes = {name for key in what.drivers for name in what.parameters(key)}
    own = axes | PLACES | {f"p_{name}" for name in (*KEYS, *what.off)}
    free = [c for c in rows if c in ("shots", "noise_kind", "q", "version") or c.startswith("p_") and c not in own]
    return [c for c in free if c not in (*what.rows, what.across) and _differs(rows, c) and not told_by_results(rows, c)]


def _differs(rows, column):
    """Whether it has several values; q is that of GCE, and empty for other losses."""
    return rows[column].nunique(dropna=column == "q") > 1


def _summary(rows, keys):
    return rows.groupby(keys, dropna=False, sort=False)["value"].agg(mean="mean", std="std", n="size").reset_index()


def _across(rows, index, across):
    """Long cells with `text` as a wide table; several texts for one cell all stand there."""
    cells = rows.groupby([*index, across], dropna=False, sort=False)["text"].agg("; ".join)
    order = cells.index.droplevel(across).unique()
    wide = cells.unstack(across).reindex(order)  # with sort=False, it puts texts into others' cells before pandas 3.1
    return wide.reset_index().rename_axis(columns=None)


def exists(what: Layout, row: dict, head: Any) -> bool:
    """Whether a row can have a cell in a column: zero-shot has no shots, and nothing else can do without."""
    return what.across != "shots" or (row["method"] == "zero-shot") == (head == 0)


def _label(column, value):
    """What heads a column of the table."""
    labels = {"noise_rate": "{:.6g} % wrong", "shots": "{}-shot", "epoch": "epoch {}"}
    return labels.get(column, "{}").format(100 * value if column == "noise_rate" else value)


def _rank(column, what):
    """{value: its place}: methods in the exhibit's order, all else as it came, means last."""
    came = sorted(dict.fromkeys(column), key=lambda value: str(value).startswith("mean of "))
    order = _shown(what) if column.name == "method" else came
    return {value: place for place, value in enumerate(dict.fromkeys(order))}


def _shown(what):
    return [what.names.get(method, method) for method, _ in what.methods]

"""Our records beside reference numbers: the papers' own, and those of reruns, logs and issues."""

import re
from typing import Any

import pandas as pd

from clipnotes.errors import ClipnotesError
from clipnotes.paths import manifests_dir
from clipnotes.text_files import read_csv

# What the papers and their users call our methods.
_ALIASES = {
    "zeroshotclip": "zeroshot",
    "tipadaptertrainingfree": "tipadapter",
    "ptnlprompttuning": "prompttuning",
    "coopprompttuning": "prompttuning",
    "clipprompttuning": "prompttuning",
    "coop": "prompttuning",
    "cliplinearprobe": "linearprobe",
    "imagenetfinetuning": "imagefinetuning",
}
_SHOWN = ["item", "dataset", "backbone", "method", "context", "loss", "shots", "noise_rate", "metric"]
# What a row is, by its status; its source follows.
WHAT_IT_IS = {"quoted": "stated in", "digitised": "read off", "secondary": "quoted by", "independent-rerun": "rerun by",
              "reference-log": "log of", "measured": "measured by"}


def paper_numbers(paper: str) -> pd.DataFrame:
    """Return the rows of data_manifests/papers/PAPER.csv as text, empty where nothing is stated."""
    path = manifests_dir() / "papers" / f"{paper}.csv"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in path.parent.glob("*.csv")))
        raise ClipnotesError(f"There is no paper {paper!r}; known are: {names}.")
    return read_csv(path, text=True)


def compare(paper: str, records: pd.DataFrame, item: str, **filters: Any) -> pd.DataFrame:
    """Return the reference rows for `item` with our mean ± standard deviation (n) of the matching records.

    paper: "imo", "ptnl" or "measured" (our own, on public features). records: tidy rows as `Run.records` gives
    them. item: text that the row's item contains as whole words, such as "Table 3". filters: column=value on the
    paper's rows.
    A record matches when metric, dataset, method, loss, shots and noise rate agree. Names are compared
    without case and punctuation; accuracies and rates are in percent, as the papers give them. Models may
    differ: theirs is in the column backbone, ours in our_model. Few rows are a paper's own: the column "what it is" says
    of each whether it is stated, read off a figure, a rerun, a log ..., and where it comes from.
    ClipnotesError: no row fits; it lists what there is.
    """
    rows = known_numbers(paper, item, **filters)
    ours = pd.DataFrame([_ours(row, records) for row in rows.to_dict("records")], index=rows.index)
    reference = rows.apply(lambda row: with_spread(row["value"], row["std"], row["n_seeds"]), axis=1).rename("reference")
    origin = (rows["status"].map(WHAT_IT_IS) + " " + rows["source"]).rename("what it is")
    return pd.concat([rows[_SHOWN], reference, ours, origin, rows["note"]], axis=1).reset_index(drop=True)


def known_numbers(paper: str, item: str, **filters: Any) -> pd.DataFrame:
    """The paper's rows that `item` and `filters` choose, as text: see `compare`."""
    rows = paper_numbers(paper)
    words = re.compile(rf"(?<!\w){re.escape(item)}(?!\w)", re.IGNORECASE)
    rows = _chosen(rows, "item", item, rows["item"].map(lambda text: bool(words.search(text))))
    for column, value in filters.items():
        if column not in rows:
            raise ClipnotesError(f"Unknown filter {column!r}; the columns are: {', '.join(rows.columns)}.")
        rows = _chosen(rows, column, value, rows[column].map(plain_name) == plain_name(value))
    return rows


def _chosen(rows, column, value, mask):
    if mask.any():
        return rows[mask]
    there = ", ".join(sorted(set(rows[column]) - {""}))
    raise ClipnotesError(f"The paper's numbers have no {column} {value!r}; there are: {there}.")


def _ours(row, records):
    if len(records):
        records = records[[_matches(row, record) for record in records.to_dict("records")]]
    if not len(records):
        return {"ours": "", "our_model": ""}
    values = records["value"] * (100 if "accuracy" in row["metric"] else 1)
    spread = f"{values.std():.2f}" if len(values) > 1 else ""
    models = ", ".join(dict.fromkeys(map(str, records["model"])))
    return {"ours": with_spread(f"{values.mean():.2f}", spread, len(values)), "our_model": models}


def _matches(row, record):
    return (
        row["metric"] == record["metric"]
        and plain_name(row["dataset"]) == plain_name(record["dataset"])
        and plain_name(row["method"]) == plain_name(record["method"])
        # where no loss is stated, it is the ordinary one
        and (plain_name(row["loss"]) or "ce") == (plain_name(record["loss"]) or "ce")
        and _number(row["shots"]) == _number(record["shots"])
        and _number(row["noise_rate"]) == round(100 * _number(record["noise_rate"]), 6)
    )


def plain_name(value: Any) -> str:
    """A name without case, punctuation and what the papers call it: equal for what is the same."""
    stated = value is not None and value == value  # pandas has NaN where a record lacks a key
    plain = re.sub(r"[^a-z0-9+]", "", str(value).lower()) if stated else ""
    return _ALIASES.get(plain, plain)


def _number(value):
    """No shots and no noise are written as 0 or left empty."""
    return 0.0 if value is None or value == "" or value != value else float(value)


def with_spread(value: str, spread: str, n: Any) -> str:
    """"value ± spread (n 4)" of texts, without what is empty."""
    return f"{value} ± {spread}" * bool(spread) + f"{value}" * (not spread) + f" (n {n})" * bool(n)

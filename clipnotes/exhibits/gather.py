"""Many runs as one tidy table: a row a measured number, beside it the status, time, version and parameters of its run."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pandas as pd

from clipnotes.errors import ClipnotesError, first_line, shown
from clipnotes.files import atomic_write
from clipnotes.paths import notebooks_dir
from clipnotes.progress import progress_bar
from clipnotes.series.notebooks import find
from clipnotes.series.run_folder import COLUMNS, RESULTS, damage, read_facts, read_sweep
from clipnotes.text_files import read_csv

FACTS = ["run", "status", "seconds", "version", "error"]
NAMES = ("notebook", "dataset", "model", "method", "loss", "noise_kind", "metric", "run", "status", "version", "error")  # texts
COUNTS = ("shots", "seed", "epoch", "members")  # columns of whole numbers, with empty cells
_RANKS = ["complete", "failed", "running", "damaged", "missing"]  # of several records of one run, the first of these counts


@dataclass(frozen=True)
class Recorded:
    """A run as found on disk; folder is None where a sweep plans it and nothing is there yet."""

    name: str
    folder: Path | None
    notebook: str
    status: str
    parameters: dict
    seconds: float | None = None
    version: str = ""
    error: str = ""
    code: str = ""  # the hash of its notebook's code
    inputs: dict = field(default_factory=dict)  # what the files that its parameters name were

    @property
    def measure(self) -> str:
        """What it computes, version aside: notebook and parameters as one text; its own name where that is lost."""
        return json.dumps([self.name] if not self.notebook else [self.notebook, self.parameters], sort_keys=True)


def gather(folders: Sequence[str | Path], progress: bool = True) -> pd.DataFrame:
    """Return one table of all runs in `folders` and below: sweeps, studies, single runs. Hidden folders are unfinished.

    Columns: those of results.csv; run (folder, as seen from the one given), status, seconds, version (of clipnotes), error; and
    every effective parameter as p_NAME, lists as JSON. The prefix is there always, since dataset, shots and others are
    columns of the results, too; `out` is left out. A run that is not complete has one row with its status and no metric:
    failed, running (stopped in the middle), damaged (its files are not what was written; error says which), or missing (planned
    by a sweep.json). Runs of the same notebook, parameters and version count once.
    ClipnotesError: no such folder, no runs, or a sweep.json that cannot be read.
    """
    found = once([run for folder in folders for run in runs_in(Path(folder), len(folders) > 1)])
    if not found:
        raise ClipnotesError(f"There are no runs in {', '.join(map(str, folders))}: give the folder that clipnotes run, study "
                             "or sweep wrote with --out; a run has a file run.json.")
    bar = progress_bar(found, desc="gather", unit="run", disable=None if progress else True, leave=False)
    rows = [row for run in bar for row in rows_of(run)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    further = [c for c in columns if c not in [*COLUMNS, *FACTS] and not c.startswith("p_")]
    order = [*COLUMNS, *further, *FACTS, *[c for c in columns if c.startswith("p_")]]
    return _parsed(StringIO(_text(pd.DataFrame(rows, columns=order))))


def shipped(notebook: str) -> pd.DataFrame:
    """The rows of one notebook in the gathered table that ships, which the pocket grids made."""
    table = read_gathered([notebooks_dir() / "sweeps" / "pocket.csv"])
    return table[table["notebook"] == notebook]


def runs_in(folder: Path, several: bool = False) -> list[Recorded]:
    """Every `Recorded` in a folder and below: those of a sweep in its order, then those that it plans and that are not there.

    several: name them after the folder, too.
    """
    if not folder.is_dir():
        raise ClipnotesError(f"There is no folder {folder}: give the --out of clipnotes run, study or sweep.")
    runs, missing, places = [], [], {}  # places: {folder: the run as planned}
    seen = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(path)) in seen:  # a link back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(path)
        parts = [part for part in here.relative_to(folder).parts if part != "runs"]
        parts = [folder.absolute().name] * several + parts
        if "run.json" in files:
            runs.append(_recorded(here, "/".join(parts) or folder.absolute().name, places.get(here)))
        if "sweep.json" in files:
            planned = _planned(here, parts)
            places |= planned
            missing += [run for path, run in planned.items() if not (path / "run.json").is_file()]
    order = {path: place for place, path in enumerate(places)}
    return sorted(runs, key=lambda run: order.get(run.folder, len(order))) + missing


def once(runs: list[Recorded]) -> list[Recorded]:
    """Runs without repetitions: of one notebook, parameters and version the record that got farthest, in the order found.

    ClipnotesError: two complete ones differ in the code of their notebook or in the files that they read.
    """
    done = {run.measure for run in runs if run.status == "complete"}
    # what is left out: planned, or stopped before it knew its version
    found = [run for run in runs if run.version or run.status == "complete" or run.measure not in done]
    best = {}
    for run in sorted(found, key=lambda run: _RANKS.index(run.status)):
        first = best.setdefault((run.measure, run.version), run)
        if run.status == "complete" and (run.code, run.inputs) != (first.code, first.inputs):
            read = shown(list(run.inputs or first.inputs))
            other = f"code of notebook {run.notebook}" if run.code != first.code else f"files, {read}"
            raise ClipnotesError(f"The runs {first.name} and {run.name} have the same parameters, but other {other}, so one of "
                                 "them is stale: leave it out, or run it again.")
    chosen = {id(run) for run in best.values()}
    return [run for run in runs if id(run) in chosen]


def rows_of(run: Recorded) -> list[dict]:
    """The rows of a run, as dicts: those of its results.csv with its facts beside them, or one without a metric."""
    rows = []
    if run.status == "complete":
        try:
            rows = _results(run.folder).to_dict("records")
        except ClipnotesError as error:
            run = replace(run, status="damaged", error=str(error))
    facts = {"run": run.name, "status": run.status, "seconds": run.seconds, "version": run.version, "error": run.error}
    texts = {f"p_{name}": json.dumps(value) if isinstance(value, list) else value for name, value in run.parameters.items()}
    return [row | facts | texts for row in rows or [{"notebook": run.notebook}]]


def damaged(table: pd.DataFrame) -> list[str]:
    """A line for each damaged run of a gathered table."""
    runs = table[table["status"] == "damaged"].drop_duplicates("run")
    return [f"damaged: {run['run']}: {run['error']} It is left out: run it again." for run in runs.to_dict("records")]


def write_gathered(table: pd.DataFrame, path: str | Path) -> list[Path]:
    """Write the table as CSV to `path`, and as Parquet beside it where pyarrow is installed; return the files."""
    path = Path(path)
    if path.suffix != ".csv":
        raise ClipnotesError(f"The table's file is {str(path)!r}, but must end in .csv.")
    with atomic_write(path) as stream:
        stream.write(_text(table))
    if find_spec("pyarrow") is None:
        return [path]
    with atomic_write(path.with_suffix(".parquet"), "wb") as stream:
        table.to_parquet(stream)
    return [path, path.with_suffix(".parquet")]


def read_gathered(sources: Sequence[str | Path]) -> pd.DataFrame:
    """Return the table of `sources`: folders of runs, gathered anew, and files that `write_gathered` wrote."""
    sources = [Path(source) for source in sources]
    files, folders = [s for s in sources if s.is_file()], [s for s in sources if not s.is_file()]
    tables = [_read(file) for file in files] + ([gather(folders)] if folders else [])
    return pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]


def _read(file):
    try:
        table = _parsed(file)
        missing = [column for column in [*COLUMNS, *FACTS[:3]] if column not in table]
        if missing:
            raise ClipnotesError(f"{file} has no column {missing[0]!r}: give a table that clipnotes gather wrote.")
        _check_numbers(table)
        unknown = set(table["status"]) - set(_RANKS)
        if unknown:
            raise ValueError(f"the status {unknown.pop()!r} is none of {', '.join(_RANKS)}")
    except ClipnotesError:
        raise
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise ClipnotesError(f"{file} cannot be read as a table ({first_line(error)}): make it anew with clipnotes gather."
                             ) from None
    return table


def _text(table):
    return table.to_csv(index=False, lineterminator="\n")


def _parsed(source):
    """A table in memory has the types that its file has, whoever made it."""
    table = read_csv(source, dtype=dict.fromkeys([*NAMES, *(f"p_{name}" for name in NAMES)], str))
    try:
        return table.astype({name: "Int64" for name in COUNTS if name in table})
    except (TypeError, OverflowError):
        raise ValueError(f"one of the columns {', '.join(COUNTS)} does not hold whole numbers") from None


def _check_numbers(table):
    """ValueError where the column value holds anything but numbers and empty cells."""
    if not pd.api.types.is_numeric_dtype(table["value"]) and table["value"].notna().any():
        raise ValueError("the column value does not hold numbers")


def _recorded(folder, name, planned):
    """The run in a folder; what its run.json no longer tells is as the sweep `planned` it, if one did."""
    fault, facts = damage(folder), read_facts(folder)
    if not facts:
        unknown = planned or Recorded(name, folder, "", "", {})
        return replace(unknown, name=name, folder=folder, status="damaged", error=fault)
    status = {"finished": "running"}.get(facts["status"], facts["status"])
    parameters = facts["parameters"] if status == "complete" else _effective(facts["notebook"], facts["parameters"])
    parameters = {name: value for name, value in parameters.items() if name != "out"}
    return Recorded(name, folder, facts["notebook"], "damaged" if fault else status, parameters, facts.get("seconds"),
                    facts.get("versions", {}).get("clipnotes", ""), fault or facts.get("error", ""),
                    facts.get("code_hash", ""), facts.get("inputs", {}))


def _planned(folder, parts):
    """{folder of a run: the run} of what the sweep in a folder plans, as if nothing were there yet."""
    sweep = read_sweep(folder)
    defaults = _effective(sweep["notebook"], {})
    return {folder / "runs" / run["id"]: Recorded("/".join([*parts, run["id"]]), None, sweep["notebook"], "missing",
                                                  defaults | run["parameters"]) for run in sweep["runs"]}


def _effective(notebook, parameters):
    """All parameters of a run: one that failed early and a planned one know only what they change."""
    try:
        return {p.name: p.default for p in find(notebook).parameters if p.name != "out"} | parameters
    except ClipnotesError:  # a notebook of another series
        return parameters


def _results(folder):
    """The content of results.csv; ClipnotesError where it is whole, but no run of ours wrote it so."""
    path = folder / RESULTS
    try:
        results = _parsed(path)
        missing = [column for column in COLUMNS if column not in results]
        if missing:
            raise ValueError(f"it has no column {missing[0]!r}")
        _check_numbers(results)
        if results["metric"].isna().any():
            raise ValueError("it has a row without a metric")
    except (OSError, ValueError) as error:
        raise ClipnotesError(f"{path} is no table of results: {first_line(error)}.") from None
    return results

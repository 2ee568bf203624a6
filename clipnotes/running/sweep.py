"""A grid of runs of one notebook: planned, computed, resumed.

    OUT/sweep.json    notebook, scale, grid and runs: [{"id": ..., "parameters": ...}]
    OUT/runs/ID/      what `run_notebook` leaves, without the page; of failed runs, too
"""

import hashlib
import json
import os
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dask.system import CPU_COUNT
from tqdm import tqdm

import clipnotes
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write
from clipnotes.running.cluster import client_for, dashboard
from clipnotes.running.engine import Job, compute, with_bar
from clipnotes.running.execute import completed, inputs, same_run
from clipnotes.running.grids import expand, read_grid
from clipnotes.series.notebooks import Notebook, find
from clipnotes.series.run_folder import hold, read_facts, read_sweep, refuse_foreign

LISTED = 12  # stale runs that a description names


@dataclass(frozen=True)
class Plan:
    """The runs of a grid, {id: parameters}, and what lies in `out` of each, {id: done | failed | stale | missing | damaged}."""

    notebook: Notebook
    grid: dict
    scale: str
    out: Path
    runs: dict
    states: dict
    seconds: list  # of the done runs

    def waiting(self, rerun_stale: bool = False) -> list[str]:
        """The ids of the runs to compute."""
        return [id for id, state in self.states.items() if state not in ("done", *["stale"] * (not rerun_stale))]

    @cached_property
    def varied(self) -> list[str]:
        """Names of the parameters that are not the same in all runs."""
        names = dict.fromkeys(name for parameters in self.runs.values() for name in parameters)
        return [name for name in names if len({repr(parameters.get(name)) for parameters in self.runs.values()}) > 1]

    def label(self, id: str) -> str:
        """What sets a run apart from the others, as one line."""
        parameters = self.runs[id]
        return " ".join([id, *(f"{name}={parameters[name]}" for name in self.varied if name in parameters)])


def plan(notebook: Notebook, grid: str | Path, out: str | Path, scale: str = "pocket", force: bool = False) -> Plan:
    """Return the Plan of the grid file `grid` (see `read_grid`) for `notebook` in the folder `out`. Nothing is written.

    A run is done if it is complete and whole for the notebook's code, its parameters and the package version of now, and stale
    if it is complete for others. force: whatever sweep.json holds.
    ClipnotesError: a bad grid, or `out` holds a sweep of another notebook or a sweep.json of another making.
    """
    content, out = read_grid(grid, scale), Path(out).absolute()
    if "notebook" in content and find(str(content["notebook"])) != notebook:
        raise ClipnotesError(f"Grid {grid} is for the notebook {content['notebook']}, not for {notebook.name}: name that one.")
    earlier = notebook.name if force else read_sweep(out).get("notebook", notebook.name)
    if earlier != notebook.name:
        raise ClipnotesError(f"{out} holds a sweep of {earlier}, not of {notebook.name}: choose another folder.")
    runs = {run_id(notebook, parameters): parameters for parameters in expand(content, notebook)}
    states = {id: state(notebook, parameters, out / "runs" / id) for id, parameters in runs.items()}
    facts = [read_facts(out / "runs" / id) for id in runs if states[id] == "done"]
    return Plan(notebook, content, scale, out, runs, states, [each["seconds"] for each in facts if "seconds" in each])


def run_id(notebook: Notebook, parameters: dict) -> str:
    """A short name that stands for the notebook and the parameters given: its number and 12 hexadecimal digits."""
    text = json.dumps([notebook.name, parameters], sort_keys=True)
    return f"{notebook.number}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def state(notebook: Notebook, parameters: dict, folder: Path) -> str:
    """Of a run in a folder: done, failed, stale, missing (also: stopped in the middle) or damaged (see `damage`)."""
    facts = read_facts(folder)
    if not facts:
        return "damaged" if os.path.isfile(folder / "run.json") else "missing"
    if facts["status"] != "complete":
        return "failed" if facts["status"] == "failed" else "missing"
    if not same_run(notebook, parameters, facts):
        return "stale"
    return "done" if completed(notebook, parameters, folder, page=False) else "damaged"


def describe(plan: Plan, workers: int | None = None, rerun_stale: bool = False) -> str:
    """The plan in words: how many runs, which are done or stale, how long the others take on `workers`, or of one worker."""
    counts, waiting = Counter(plan.states.values()), len(plan.waiting(rerun_stale))
    title = plan.grid.get("title", "a grid")
    parts = [f"{counts[name]} {name}" for name in ("done", "failed", "stale", "missing", "damaged") if counts[name]]
    head = f"{plan.notebook.name}, {title} ({plan.scale} scale)."
    lines = [f"{head} Runs: {len(plan.runs)} ({', '.join(parts)}), {waiting} to do."]
    stale = [id for id, name in plan.states.items() if name == "stale"]
    for id in stale[:LISTED]:
        lines.append(f"  stale: {plan.label(id)} ({_difference(plan, id)})")
    if stale:
        left = f"  ... and {len(stale) - LISTED} more. " if len(stale) > LISTED else "  "
        lines.append(left + ("They run again." if rerun_stale else "They are kept; --rerun-stale runs them again."))
    strangers = {path.name for path in (plan.out / "runs").glob("[!.]*")} - set(plan.runs)
    if strangers:
        lines.append(f"  {len(strangers)} further runs in {plan.out} are not in this grid; they are kept.")
    if waiting:
        lines.append(_estimate(plan, waiting, workers))
    return "\n".join(lines)


def _difference(plan, id):
    """What makes a complete run stale."""
    facts = read_facts(plan.out / "runs" / id)
    made_by = facts.get("versions", {}).get("clipnotes")
    if made_by != clipnotes.__version__:
        return f"by clipnotes {made_by}, not {clipnotes.__version__}"
    if facts.get("code_hash") != plan.notebook.code_hash:
        return "other code in the notebook"
    return "other parameters" if facts.get("inputs", {}) == inputs(plan.notebook, plan.runs[id]) else "its files have changed"


def _estimate(plan, waiting, workers):
    share = f"on {workers} workers" if workers else "of one worker"
    if plan.seconds:
        typical = statistics.median(plan.seconds)
        time = tqdm.format_interval(typical * waiting / (workers or 1))
        return f"About {time} {share}: {typical:.1f} s a run is the median of the finished ones ({len(plan.seconds)})."
    if plan.scale == "paper" and "gpu_minutes" in plan.grid:
        minutes = plan.grid["gpu_minutes"]
        return f"About {minutes * waiting / 60:.1f} hours of one GPU, if the grid's {minutes} minutes a run are right."
    return "No run is finished yet, so there is no estimate of the time."


def sweep(notebook: Notebook, grid: str, out: str | Path, scale: str = "pocket", scheduler: str | None = None,
          workers: int | None = None, resume: bool = False, rerun_stale: bool = False, retries: int = 2, force: bool = False,
          report: Callable = print) -> dict:
    """Compute the runs of a grid that are missing or failed in `out`; return {label: error} of those that fail.

    scheduler: address of a running Dask scheduler; without one, `workers` processes of this machine (see `local_client`); one
    alone is this process. resume: whether `out` may hold a sweep. rerun_stale: compute stale runs again, which implies resume.
    retries: how often a failed run is tried again. force: overwrite files of another making. report: called with lines of text.
    ClipnotesError: see `plan`; files of another making, or another command that works in `out`; before anything runs.
    """
    if scheduler and workers:
        raise ClipnotesError(f"--workers is {workers}, but a scheduler brings its own workers: leave out --workers.")
    workers = None if scheduler else workers or CPU_COUNT
    planned = plan(notebook, grid, out, scale, force)
    if not force and read_sweep(planned.out) and not (resume or rerun_stale):
        raise ClipnotesError(f"{out} holds a sweep already: add --resume to compute what is missing or failed there, or choose "
                             "another folder.")
    waiting = planned.waiting(rerun_stale)
    for id in waiting if not force else ():
        refuse_foreign(planned.out / "runs" / id)
    with hold(planned.out):
        report(describe(planned, workers, rerun_stale))
        (planned.out / "runs").mkdir(exist_ok=True)
        _write_sweep(planned)
        return _compute(planned, waiting, scheduler, workers, retries, report) if waiting else {}


def _write_sweep(plan):
    runs = [{"id": id, "parameters": parameters} for id, parameters in plan.runs.items()]
    content = {"notebook": plan.notebook.name, "scale": plan.scale, "grid": plan.grid, "runs": runs}
    with atomic_write(plan.out / "sweep.json") as stream:
        json.dump(content, stream, indent=1, ensure_ascii=False)
        stream.write("\n")


def _compute(plan, waiting, scheduler, workers, retries, report):
    """Run the ids `waiting`; return {label: error} of those that failed in the end."""
    jobs = [Job(plan.notebook, plan.runs[id], plan.out / "runs" / id, page=False, resume=True) for id in waiting]
    failed = {}
    with client_for(len(jobs), workers, scheduler, retries) as client:
        if client:
            report(f"Dask dashboard: {dashboard(client)}")
        for job, facts in with_bar(compute(jobs, client, retries), len(plan.runs), len(jobs), plan.notebook.name):
            if facts["status"] != "complete":
                failed[plan.label(job.out.name)] = facts["error"]
    return failed

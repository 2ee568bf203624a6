"""A grid of runs of one notebook on Dask: planned, computed, resumed. Workers and command share files only.

    OUT/sweep.json            notebook, scale, grid and runs: [{"id": ..., "parameters": ...}]
    OUT/runs/ID/              what `run_notebook` leaves, without the page; of failed runs, too
    OUT/runs/.ID-xxxxxxxx/    a run that is not over, or whose worker died
"""

import hashlib
import json
import statistics
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from uuid import uuid4

from dask.system import CPU_COUNT
from distributed import CancelledError, KilledWorker, as_completed
from tqdm.auto import tqdm

import clipnotes
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write, lock
from clipnotes.running.cluster import dashboard, local_client, remote_client
from clipnotes.running.execute import completed, last_line, same_run
from clipnotes.running.grids import expand, read_grid
from clipnotes.running.sweep_worker import hidden, publish, remove_leftovers, run_one
from clipnotes.series.notebooks import Notebook, find
from clipnotes.series.run_folder import read_facts, write_facts

LISTED = 12  # stale runs that a description names


@dataclass(frozen=True)
class Plan:
    """The runs of a grid, {id: parameters}, and what lies in `out` of each, {id: done | failed | stale | missing}."""

    notebook: Notebook
    grid: dict
    scale: str
    out: Path
    runs: dict
    states: dict
    seconds: list  # of the done runs

    def waiting(self, rerun_stale=False):
        """The ids of the runs to compute."""
        return [id for id, state in self.states.items() if state in ("missing", "failed", *["stale"] * rerun_stale)]

    @cached_property
    def varied(self):
        """Names of the parameters that are not the same in all runs."""
        names = dict.fromkeys(name for parameters in self.runs.values() for name in parameters)
        return [name for name in names if len({repr(parameters.get(name)) for parameters in self.runs.values()}) > 1]

    def label(self, id):
        """What sets a run apart from the others, as one line."""
        parameters = self.runs[id]
        return " ".join([id, *(f"{name}={parameters[name]}" for name in self.varied if name in parameters)])


def plan(notebook, grid, out, scale="pocket"):
    """Return the Plan of the grid file `grid` (see `read_grid`) for `notebook` in the folder `out`. Nothing is written.

    A run is done if it is complete for the notebook's code, its parameters and the package version of now, and stale if it is
    complete for others. ClipnotesError: a bad grid, or `out` holds a sweep of another notebook.
    """
    content, out = read_grid(grid, scale), Path(out).absolute()
    if "notebook" in content and find(str(content["notebook"])) != notebook:
        raise ClipnotesError(f"Grid {grid} is for the notebook {content['notebook']}, not for {notebook.name}: name that one.")
    earlier = read_sweep(out).get("notebook", notebook.name)
    if earlier != notebook.name:
        raise ClipnotesError(f"{out} holds a sweep of {earlier}, not of {notebook.name}: choose another folder.")
    runs = {run_id(notebook, parameters): parameters for parameters in expand(content, notebook)}
    facts = {id: read_facts(out / "runs" / id) for id in runs}
    states = {id: state(notebook, parameters, out / "runs" / id, facts[id]) for id, parameters in runs.items()}
    seconds = [facts[id]["seconds"] for id in runs if states[id] == "done"]
    return Plan(notebook, content, scale, out, runs, states, seconds)


def run_id(notebook, parameters):
    """A short name that stands for the notebook and the parameters given: its number and 12 hexadecimal digits."""
    text = json.dumps([notebook.name, parameters], sort_keys=True)
    return f"{notebook.number}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def state(notebook, parameters, folder, facts):
    """Of a run, from the facts of its run.json: done, failed, stale or missing (also: complete, but files are gone)."""
    if facts.get("status") != "complete":
        return "failed" if facts.get("status") == "failed" else "missing"
    if not same_run(notebook, parameters, facts):
        return "stale"
    return "done" if completed(notebook, parameters, folder, page=False) else "missing"


def read_sweep(out):
    """The content of OUT/sweep.json, {} where there is none."""
    path = Path(out) / "sweep.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError):
        raise ClipnotesError(f"{path} cannot be read, so it is damaged: delete it; the runs beside it are kept.") from None


def describe(plan, workers=None, rerun_stale=False):
    """The plan in words: how many runs, which are done or stale, how long the others take on `workers`, or of one worker."""
    counts, waiting = Counter(plan.states.values()), len(plan.waiting(rerun_stale))
    title = plan.grid.get("title", "a grid")
    parts = [f"{counts[name]} {name}" for name in ("done", "failed", "stale", "missing") if counts[name]]
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
    return "other code in the notebook" if facts.get("code_hash") != plan.notebook.code_hash else "other parameters"


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


def sweep(notebook, grid, out, scale="pocket", scheduler=None, workers=None, resume=False, rerun_stale=False, retries=2,
          report=print):
    """Compute the runs of a grid that are missing or failed in `out`; return {label: error} of those that fail.

    scheduler: address of a running Dask scheduler; without one, `workers` processes of this machine (see `local_client`).
    resume: whether `out` may hold a sweep. rerun_stale: compute stale runs again, which implies resume. retries: how often a
    failed run is tried again. report: called with lines of text. A second command on the same folder waits for the first.
    ClipnotesError: see `plan`; before anything runs.
    """
    if scheduler and workers:
        raise ClipnotesError(f"--workers is {workers}, but a scheduler brings its own workers: leave out --workers.")
    workers = None if scheduler else workers or CPU_COUNT
    planned = plan(notebook, grid, out, scale)
    if read_sweep(planned.out) and not (resume or rerun_stale):
        raise ClipnotesError(f"{out} holds a sweep already: add --resume to compute what is missing or failed there, or choose "
                             "another folder.")
    with lock(planned.out / "sweep.json"):
        planned = plan(notebook, grid, out, scale)  # another command may have worked here while this one waited
        report(describe(planned, workers, rerun_stale))
        (planned.out / "runs").mkdir(parents=True, exist_ok=True)
        _write_sweep(planned)
        waiting = planned.waiting(rerun_stale)
        if not waiting:
            return {}
        failed = None
        try:
            with remote_client(scheduler) if scheduler else local_client(workers, retries) as client:
                report(f"Dask dashboard: {dashboard(client)}")
                failed = compute(planned, waiting, client, retries)
        finally:
            if not scheduler or failed is not None:  # a remote worker goes on with its run when this command is stopped
                remove_leftovers(planned.out)
    return {planned.label(id): error for id, error in failed.items()}


def _write_sweep(plan):
    runs = [{"id": id, "parameters": parameters} for id, parameters in plan.runs.items()]
    content = {"notebook": plan.notebook.name, "scale": plan.scale, "grid": plan.grid, "runs": runs}
    with atomic_write(plan.out / "sweep.json") as stream:
        json.dump(content, stream, indent=1, ensure_ascii=False)
        stream.write("\n")


def compute(plan, waiting, client, retries):
    """Run the ids `waiting` on the workers of a Dask client, with a bar; return {id: error} of those that failed in the end."""
    token = uuid4().hex[:8]  # a scheduler that outlives this command must not take the next one's runs for these
    keys = {f"{id}-{token}": id for id in waiting}
    futures = client.map(
        run_one, waiting, [plan.runs[id] for id in waiting], key=list(keys), retries=retries, notebook=plan.notebook.name,
        made_with=(plan.notebook.code_hash, clipnotes.__version__), out=str(plan.out), cwd=str(Path.cwd()),
    )
    failed, total = {}, len(plan.runs)
    with tqdm(total=total, initial=total - len(waiting), unit="run", desc=plan.notebook.name, smoothing=0, disable=None) as bar:
        _show_counts(bar, client, failed)
        for future in as_completed(futures):
            id = keys[future.key]
            error = _error(future)
            if error:
                failed[id] = error
                _keep_failure(plan, id, error)
            bar.update()
            _show_counts(bar, client, failed)
    return failed


def _show_counts(bar, client, failed):
    """Behind the bar: how many runs the workers can be at, and how many failed."""
    running = min(bar.total - bar.n, sum(client.nthreads().values()))
    bar.set_postfix_str(f"{running} running, {len(failed)} failed")


def _error(future):
    """One line on what went wrong in the end, None if nothing."""
    try:
        exception = future.exception()
    except CancelledError:
        raise ClipnotesError("The Dask scheduler is gone; finished runs are kept: go on with --resume.") from None
    if isinstance(exception, KilledWorker):
        last, deaths = exception.last_worker.address, exception.allowed_failures + 1
        return f"KilledWorker: the run's workers died {deaths} times, the last was {last}"
    if exception is None or isinstance(exception, ClipnotesError):
        return exception and str(exception)
    return last_line(exception)


def _keep_failure(plan, id, error):
    """Record a failure that its worker could not: it died, or sees another disk."""
    final, parameters = plan.out / "runs" / id, plan.runs[id]
    if read_facts(final).get("error") == error:
        return
    folder = hidden(final)
    facts = {"notebook": plan.notebook.name, "status": "failed", "parameters": parameters, "error": error, "files": []}
    write_facts(folder, facts)
    publish(folder, final, plan.notebook, parameters)

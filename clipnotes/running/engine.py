"""The one way in which notebooks are run: one after the other in this process, or beside each other on Dask's workers.

`study` and `sweep` differ in what they run and in what they say of it. Command and workers share files only.
"""

import math
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import CancelledError, Client, KilledWorker, as_completed, get_worker
from tqdm import tqdm

import clipnotes
from clipnotes.errors import ClipnotesError, in_words
from clipnotes.running.execute import last_line, run_notebook
from clipnotes.series.notebooks import Notebook, find
from clipnotes.series.run_folder import hold, read_facts, write_facts


@dataclass(frozen=True)
class Job:
    """A run to compute: `notebook` with checked parameters into the folder `out`; page and resume as in `run_notebook`."""

    notebook: Notebook
    parameters: dict
    out: Path
    page: bool = True
    resume: bool = False


def compute(jobs: Iterable[Job], client: Client | None = None, retries: int = 0) -> Iterator[tuple[Job, dict]]:
    """Yield every job with the facts of its run (see `run_notebook`) when it is over; a failure stops no other.

    client: of the Dask workers that compute them, the longest first, so that none is left over alone. Without one they run
    here, in their order. The numbers are the same, bit for bit, with as many threads. retries: how often a failed run is tried
    again.
    """
    if client is None:
        for job in jobs:
            yield job, run_job(job, retries)
        return
    longest_first = sorted(jobs, key=lambda job: -job.notebook.facts.get("minutes", 0))
    token = uuid4().hex[:8]  # a scheduler that outlives this command must not take the next one's runs for these
    # Keys of one group wait at the scheduler, in their order, for a worker that is free; others are dealt out at once.
    keys = [(f"runs-{token}", job.out.name) for job in longest_first]
    arguments = [((job.notebook.name, job.notebook.code_hash, clipnotes.__version__), job.parameters, str(job.out.absolute()),
                  job.page, job.resume, retries, str(Path.cwd())) for job in longest_first]
    runs = client.map(run_on_worker, *zip(*arguments, strict=True), key=keys)
    futures = dict(zip(runs, longest_first, strict=True))
    for future in as_completed(list(futures)):
        yield futures[future], _outcome(futures[future], future)


def with_bar(outcomes: Iterable[tuple[Job, dict]], total: int, left: int, label: str) -> Iterator[tuple[Job, dict]]:
    """What `compute` yields, under a bar of `total` runs of which `left` are to be computed."""
    failed = 0
    with tqdm(total=total, initial=total - left, unit="run", desc=label, smoothing=0, disable=None) as bar:
        for job, facts in outcomes:
            failed += facts["status"] != "complete"
            bar.set_postfix_str(f"{job.out.name} done, {failed} failed")
            bar.update()
            yield job, facts


def run_job(job: Job, retries: int = 0, **settings: Any) -> dict:
    """The facts of a job's run, tried again after a failure; one that cannot start, since another has its folder, failed."""
    try:
        for _ in range(retries + 1):
            facts = run_notebook(job.notebook, job.parameters, job.out, page=job.page, resume=job.resume, leave_bar=False,
                                 **settings)
            if facts["status"] == "complete":
                break
        return facts
    except (ClipnotesError, OSError) as error:
        return _failed(job, in_words(error))


def run_on_worker(made_with: tuple, parameters: dict, out: str, page: bool, resume: bool, retries: int, cwd: str) -> dict:
    """`run_job` as a Dask worker does it, the kernel in the folder `cwd` and kept to its share of the worker's memory.

    made_with: name and code hash of the notebook and the package version that the command has.
    ClipnotesError: this worker has others, or does not see the folders.
    """
    (name, code_hash, version), host = made_with, socket.gethostname()
    notebook = find(name)
    if (code_hash, version) != (notebook.code_hash, clipnotes.__version__):
        raise ClipnotesError(f"The worker on {host} has another {name} or another clipnotes ({clipnotes.__version__}) than the "
                             f"command was started with ({version}): install the same on every worker.")
    for folder in (Path(out).parent, Path(cwd)):
        if not folder.is_dir():
            raise ClipnotesError(f"The worker on {host} does not see {folder}: --out and the folder in which the command is "
                                 "started must be on a file system that all workers share.")
    worker = get_worker()
    memory = (worker.memory_manager.memory_limit or math.inf) / worker.state.nthreads
    return run_job(Job(notebook, parameters, Path(out), page, resume), retries, progress=False, memory=memory, cwd=cwd)


def _outcome(job, future):
    """The facts of a run on a worker, also where it is no more there to tell."""
    try:
        error = future.exception()
    except CancelledError:
        raise ClipnotesError("The Dask scheduler is gone; finished runs are kept: go on with --resume.") from None
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        deaths, last = error.allowed_failures + 1, error.last_worker.address
        return _keep_failure(job, f"KilledWorker: the run's workers died {deaths} times, the last was {last}")
    return _failed(job, str(error) if isinstance(error, ClipnotesError) else last_line(error))


def _keep_failure(job, error):
    """Record in its folder a failure that its worker could not, since it died."""
    facts = _failed(job, error)
    with suppress(ClipnotesError, OSError), hold(job.out):
        write_facts(job.out, facts | {"files": dict.fromkeys(read_facts(job.out).get("files", {}))})
    return facts


def _failed(job, error):
    return {"notebook": job.notebook.name, "status": "failed", "parameters": job.parameters | {"out": job.out.as_posix()},
            "error": error}

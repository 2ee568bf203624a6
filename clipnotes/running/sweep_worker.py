"""One run of a sweep, as a Dask worker computes it: in a hidden folder that gets its name when the run is over."""

import math
import shutil
import socket
from pathlib import Path
from uuid import uuid4

from distributed import get_worker

import clipnotes
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write, lock
from clipnotes.running.execute import completed, run_notebook
from clipnotes.running.memory import limited_manager
from clipnotes.series.notebooks import find
from clipnotes.series.run_folder import write_facts


def run_one(id, parameters, notebook, made_with, out, cwd):
    """Run the notebook named `notebook` into OUT/runs/ID, its kernel in the folder `cwd`; return the seconds it took.

    made_with: code hash of the notebook and package version that the sweep was planned with.
    ClipnotesError: the run failed (it lies there with its notebook and its error), or this worker is none for this sweep.
    """
    final = Path(out) / "runs" / id
    notebook = _here(notebook, made_with, [final.parent, Path(cwd)])
    kept = completed(notebook, parameters, final, page=False)
    if kept:  # by a worker that died or lost its scheduler before it could say so
        return kept["seconds"]
    folder = hidden(final)
    manager = limited_manager(_share())
    facts = run_notebook(notebook, parameters, folder, progress=False, page=False, kernel_manager_class=manager,
                         resources={"metadata": {"path": cwd}})
    if facts["status"] == "failed" and manager.error:
        facts["error"] = manager.error
        write_facts(folder, facts)
    publish(folder, final, notebook, parameters)
    if facts["status"] == "failed":
        raise ClipnotesError(facts["error"])
    return facts["seconds"]


def _here(name, made_with, folders):
    """The notebook as this worker has it, which must be the one planned with, on a machine that sees the sweep's folders."""
    notebook, host = find(name), socket.gethostname()
    if made_with != (notebook.code_hash, clipnotes.__version__):
        raise ClipnotesError(f"The worker on {host} has another {name} or another clipnotes ({clipnotes.__version__}) than the "
                             f"sweep was started with ({made_with[1]}): install the same on every worker.")
    for folder in folders:
        if not folder.is_dir():
            raise ClipnotesError(f"The worker on {host} does not see {folder}: --out and the folder in which the sweep is "
                                 "started must be on a file system that all workers share.")
    return notebook


def _share():
    """Bytes of memory that a run may take: those of the worker, divided by the runs that it computes at a time."""
    worker = get_worker()
    return (worker.memory_manager.memory_limit or math.inf) / worker.state.nthreads


def hidden(final):
    """A new name for an unfinished or replaced folder of the run that belongs to `final`."""
    return final.with_name(f".{final.name}-{uuid4().hex[:8]}")


def publish(folder, final, notebook, parameters):
    """Make the hidden `folder` of a finished run its `final` one, in one step; an earlier run there is replaced.

    If this very run is complete there already, as when a worker thought dead was not, `folder` is removed instead.
    """
    for name in ("run.json", "notebook.ipynb"):  # the folder's own name, which files of a finished run should not hold
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8")
            with atomic_write(folder / name) as stream:
                stream.write(text.replace(folder.name, final.name))
    with lock(final.parent):
        replaced = folder
        if not completed(notebook, parameters, final, page=False):
            replaced = hidden(final)
            if final.exists():
                final.rename(replaced)
            folder.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)


def remove_leftovers(out):
    """Remove the hidden folders of runs whose workers died."""
    for folder in (Path(out) / "runs").glob(".*-*-*"):
        shutil.rmtree(folder, ignore_errors=True)

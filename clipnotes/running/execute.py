"""Run one notebook headlessly: papermill plus strictness, atomic results, a page with alternative texts."""

import os
import time
from pathlib import Path

import clipnotes
from clipnotes.errors import ClipnotesError
from clipnotes.folder_names import absolute_name, in_names
from clipnotes.running.page import write_page
from clipnotes.series.parameters import check
from clipnotes.series.run_folder import read_facts, write_facts


def overrides(notebook, values, together=True):
    """Return `values` (a dict) checked for `notebook`, files and image folders made absolute: they hold in any folder.

    together: see `clipnotes.series.parameters.check`.
    """
    if "out" in values:
        raise ClipnotesError(f"Parameter out is {values['out']!r}, but is set by the option --out: use that.")
    files = {parameter.name for parameter in notebook.parameters if parameter.domain in ("file", "folder", "path")}
    checked = check(notebook.parameters, values, together)
    return {name: absolute(value) if name in files else value for name, value in in_names(absolute_name, checked).items()}


def absolute(files):
    """A file name, or a list of them, made absolute; the empty string stays."""
    if isinstance(files, list):
        return [absolute(name) for name in files]
    return str(Path(files).absolute()) if files else files


def completed(notebook, parameters, out, page=True):
    """Return the facts in OUT/run.json if this very run (see `same_run`) is complete there, every file in place, else None.

    page: whether notebook.html is one of these files.
    """
    facts = read_facts(out)
    if facts.get("status") != "complete" or not same_run(notebook, parameters, facts):
        return None
    names = ["notebook.ipynb", *["notebook.html"] * page, *facts["files"]]
    return facts if all((Path(out) / name).is_file() for name in names) else None


def same_run(notebook, parameters, facts):
    """Whether the facts of a run.json come from the notebook's code, all effective parameters and the package version of now.

    `out` itself is no matter: results may have been moved.
    """
    effective = {p.name: p.default for p in notebook.parameters} | parameters
    return (
        facts.get("code_hash") == notebook.code_hash
        and facts.get("versions", {}).get("clipnotes") == clipnotes.__version__
        and facts.get("parameters", {}) | {"out": ""} == effective | {"out": ""}
    )


def run_notebook(notebook, parameters, out, leave_bar=True, progress=True, page=True, **engine):
    """Execute `notebook` with checked `parameters` (see `overrides`) and return the facts of OUT/run.json.

    progress: show a bar of cells, which stays if leave_bar. page: write notebook.html, too. engine: further settings of
    papermill's engine, nbclient. The facts' "status" is "complete", or "failed" with "error" as one line; the executed
    notebook lies in OUT either way. The kernel starts in the current folder, with the interpreter that runs this.
    """
    out = Path(out)
    if "out" not in {parameter.name for parameter in notebook.parameters}:
        raise ClipnotesError(f'{notebook.name} has no parameter out: add `out: str = ""` to its parameters.')
    old_files = read_facts(out).get("files", [])  # lab.start removes them
    for name in ("notebook.ipynb", "notebook.html"):
        (out / name).unlink(missing_ok=True)
    values = parameters | {"out": out.as_posix()}
    facts = {"notebook": notebook.name, "status": "running", "parameters": values, "files": old_files}
    write_facts(out, facts)
    began = time.perf_counter()
    try:
        _execute(notebook, values, out, leave_bar, progress, engine)
        error = None if read_facts(out)["status"] == "complete" else "the notebook never called run.finish()"
    except BaseException as exception:
        error = last_line(exception)
        if not isinstance(exception, Exception):  # Ctrl-C stops a whole study
            raise
    finally:
        # all the time it took, with the start of the kernel and the imports
        facts = read_facts(out) | {"seconds": round(time.perf_counter() - began, 1)}
        write_facts(out, facts | ({"status": "failed", "error": error} if error else {}))
    if page:
        write_page(out, notebook.question)
    return read_facts(out)


def _execute(notebook, values, out, leave_bar, progress, engine):
    import papermill

    # A kernel that a user once registered as "python3" may belong to another environment; ours comes first.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    # numpy's and torch's threads, each waiting for work in a loop of its own, would take the cores from each other
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    partial = out / "notebook.partial.ipynb"
    # disable=None: no bar where output does not go to a terminal
    bar = {"desc": notebook.name, "leave": leave_bar, "disable": None if progress else True}
    try:
        papermill.execute_notebook(
            str(notebook.path),
            str(partial),
            parameters=values,
            kernel_name="python3",
            progress_bar=bar,
            extra_arguments=["--log-level=CRITICAL"],  # the kernel's own chatter, such as on being interrupted when all is done
            **engine,
        )
    finally:
        if partial.exists():
            os.replace(partial, out / "notebook.ipynb")


def last_line(exception):
    """The one line that says what went wrong: of the notebook's own error where there is one."""
    name = getattr(exception, "ename", type(exception).__name__)
    message = str(getattr(exception, "evalue", exception)).strip().splitlines()
    return f"{name}: {message[-1]}" if message else name

"""Run one notebook headlessly: papermill plus strictness, atomic results, a page with alternative texts."""

import math
import os
import time
from contextlib import suppress
from pathlib import Path

import clipnotes
from clipnotes.errors import ClipnotesError, in_words
from clipnotes.folder_names import absolute_name, in_names
from clipnotes.running.kernel import kernel_manager
from clipnotes.running.page import write_page
from clipnotes.series.domains import feature_files
from clipnotes.series.notebooks import Notebook
from clipnotes.series.parameters import check
from clipnotes.series.run_folder import NOTEBOOK, PAGE, RESULTS, damage, hold, read_facts, seal, write_facts

START = 600  # seconds in which a kernel must answer: Python's first start from a cluster's file system takes minutes


def overrides(notebook: Notebook, values: dict, together: bool = True) -> dict:
    """Return `values` checked for `notebook`, files and image folders made absolute: they hold in any folder.

    together: see `clipnotes.series.parameters.check`.
    """
    if "out" in values:
        raise ClipnotesError(f"Parameter out is {values['out']!r}, but is set by the option --out: use that.")
    files = {parameter.name for parameter in notebook.parameters if parameter.domain in ("file", "folder", "path")}
    files.add("data_root")
    checked = check(notebook.parameters, values, together)
    return {name: absolute(value) if name in files else value for name, value in in_names(absolute_name, checked).items()}


def absolute(files: str | list[str]) -> str | list[str]:
    """A file name, or a list of them, made absolute; the empty string stays."""
    if isinstance(files, list):
        return [absolute(name) for name in files]
    return str(Path(files).absolute()) if files else files


def inputs(notebook: Notebook, parameters: dict) -> dict[str, list[int]]:
    """{path: [bytes, time of its last change in ns]} of the files that the effective `parameters` name: features, weights,
    tables, manifests of data sets. Images, whole folders of them, are not looked at."""
    files = set()
    for parameter in notebook.parameters:
        values = parameters.get(parameter.name, parameter.default)
        for text in values if parameter.is_list else [values]:
            if parameter.element == "str" and text:
                files.update(feature_files(text) if parameter.domain == "folder" else [Path(text)])
    stats = {str(path.absolute()): path.stat() for path in sorted(files) if os.path.isfile(path)}
    return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()}


def completed(notebook: Notebook, parameters: dict, out: str | Path, page: bool = True) -> dict | None:
    """Return the facts in OUT/run.json if this very run (see `same_run`) is complete there, every file whole, else None.

    page: whether notebook.html is one of these files.
    """
    facts = read_facts(out)
    if facts.get("status") != "complete" or not same_run(notebook, parameters, facts):
        return None
    there = {NOTEBOOK, *[PAGE] * page} <= set(facts["files"])
    return facts if there and not damage(out) else None


def same_run(notebook: Notebook, parameters: dict, facts: dict) -> bool:
    """Whether the facts of a run.json come from the notebook's code, all effective parameters, the files that these name and
    the package version of now.

    `out` itself is no matter: results may have been moved.
    """
    effective = {p.name: p.default for p in notebook.parameters} | parameters
    return (
        facts.get("code_hash") == notebook.code_hash
        and facts.get("versions", {}).get("clipnotes") == clipnotes.__version__
        and facts["parameters"] | {"out": ""} == effective | {"out": ""}
        and facts.get("inputs", {}) == inputs(notebook, parameters)
    )


def run_notebook(notebook: Notebook, parameters: dict, out: str | Path, *, resume: bool = False, page: bool = True,
                 progress: bool = True, leave_bar: bool = True, memory: float = math.inf, cwd: str | Path = "") -> dict:
    """Execute `notebook` with checked `parameters` (see `overrides`) and return the facts of OUT/run.json.

    resume: keep this very run where it is complete. page: write notebook.html, too. progress: show a bar of cells, which stays
    if leave_bar. memory: bytes that it may take. cwd: the kernel's folder, the current one by default; its interpreter is the
    one that runs this. The facts' "status" is "complete", or "failed" with "error" as one line; the executed notebook lies in
    OUT either way. OUT is held while this runs. ClipnotesError: nothing can be written to OUT, or another run holds it.
    """
    out = Path(out)
    if "out" not in {parameter.name for parameter in notebook.parameters}:
        raise ClipnotesError(f'{notebook.name} has no parameter out: add `out: str = ""` to its parameters.')
    with hold(out):
        kept = resume and completed(notebook, parameters, out, page)
        if kept:
            return kept
        began, manager = time.perf_counter(), kernel_manager(out, memory)
        error, measured = "stopped", {}
        try:
            measured["inputs"] = inputs(notebook, parameters)
            facts = _begin(notebook, parameters, out)
            bar = {"desc": notebook.name, "leave": leave_bar, "disable": None if progress else True}  # None: on a terminal only
            _execute(notebook, facts["parameters"], out, progress_bar=bar, kernel_manager_class=manager,
                     resources={"metadata": {"path": str(cwd)}} if cwd else {})
            error = "" if read_facts(out).get("status") == "finished" else "the notebook never called run.finish()"
        except Exception as exception:
            error = manager.error or last_line(exception, out)
        finally:  # also after Ctrl-C, which stops a whole study
            # the seconds are all the time it took, with the start of the kernel and the imports
            measured["seconds"] = round(time.perf_counter() - began, 1)
            facts = _conclude(notebook, parameters, out, error, page, measured)
        return facts


def _begin(notebook, parameters, out):
    """Say in run.json that a run has begun, and whose files it may replace; return these facts."""
    old_files = read_facts(out).get("files", {})  # lab.start removes them
    for name in (NOTEBOOK, PAGE):
        (out / name).unlink(missing_ok=True)
    facts = {"notebook": notebook.name, "status": "running", "parameters": parameters | {"out": out.as_posix()},
             "files": dict.fromkeys([*old_files, NOTEBOOK, PAGE, RESULTS])}
    write_facts(out, facts)
    return facts


def _execute(notebook, values, out, **engine):
    import papermill

    # numpy's and torch's threads, each waiting for work in a loop of its own, would take the cores from each other
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    partial = out / "notebook.partial.ipynb"
    try:
        papermill.execute_notebook(
            _literal(notebook.path),
            _literal(partial),
            parameters=values,
            kernel_name="python3",
            start_timeout=START,
            extra_arguments=["--log-level=CRITICAL"],  # the kernel's own chatter, such as on being interrupted when all is done
            **engine,
        )
    finally:
        if partial.exists():
            os.replace(partial, out / NOTEBOOK)


def _literal(path):
    """A path as papermill leaves it: it formats paths, and takes those that begin with - or s3: for other places than files."""
    return str(path.absolute()).replace("{", "{{").replace("}", "}}")


def _conclude(notebook, parameters, out, error, page, measured):
    """Write the page, seal all files in run.json and return its facts, with those that were measured from outside; they say
    "failed" if the disk takes no more."""
    facts = {"notebook": notebook.name, "parameters": parameters | {"out": out.as_posix()},
             "files": dict.fromkeys([NOTEBOOK, PAGE, RESULTS])} | read_facts(out)
    facts |= measured | ({"status": "failed", "error": error} if error else {"status": "complete"})
    try:
        if page:
            write_page(out, notebook.question)
        write_facts(out, facts | {"files": seal(out, [name for name in facts["files"] if (out / name).is_file()])})
        if damage(out):
            raise ClipnotesError(damage(out))
    except Exception as exception:
        facts |= {"status": "failed", "error": error or last_line(exception, out), "files": dict.fromkeys(facts["files"])}
        with suppress(OSError):
            write_facts(out, facts)
        return facts
    return read_facts(out)


def last_line(exception: BaseException, out: Path | None = None) -> str:
    """The one line that says what went wrong in `out`: of the notebook's own error where there is one."""
    if isinstance(exception, OSError):
        return in_words(exception) if exception.filename is not None or out is None else f"{out}: {in_words(exception)}"
    name = getattr(exception, "ename", type(exception).__name__)
    message = str(getattr(exception, "evalue", exception)).strip().splitlines()
    return f"{name}: {message[-1]}" if message else name

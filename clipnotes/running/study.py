"""The series in order, headless: presets, resuming, a summary and a contents page."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from clipnotes.errors import ClipnotesError, in_words, shown
from clipnotes.paths import notebooks_dir
from clipnotes.running.cluster import client_for
from clipnotes.running.commit import commit_outputs
from clipnotes.running.contents import check_contents, write_contents
from clipnotes.running.engine import Job, compute, with_bar
from clipnotes.running.execute import completed, overrides
from clipnotes.series.notebooks import Notebook, find, series
from clipnotes.series.parameters import read_values
from clipnotes.series.run_folder import hold, refuse_foreign


def study(preset: str = "pocket", only: Iterable[str] = (), resume: bool = False, out: str | Path = "runs/study",
          update: bool = False, jobs: int = 1, force: bool = False) -> list[dict]:
    """Run the notebooks of the series, each into OUT/NAME, and return the list of their facts.

    preset: a file of notebooks/presets. only: numbers or names, empty for all. resume: keep complete ones.
    update: write the outputs back into the notebooks (see `commit_outputs`). jobs: notebooks at a time (see `compute`); one
    alone runs in this process. force: overwrite files of another making. Everything is checked before anything runs; a notebook
    that fails does not stop the rest. OUT/index.html is written after each one.
    ClipnotesError: a bad preset or notebook, files of another making in OUT, or another command that works there.
    """
    notebooks = [find(key) for key in only] if only else series()
    if twice := [notebook.name for notebook in notebooks if notebooks.count(notebook) > 1]:
        raise ClipnotesError(f"{twice[0]} is to run twice: name each notebook once.")
    if not notebooks:
        raise ClipnotesError(f"There are no notebooks in {notebooks_dir()}: CLIPNOTES_NOTEBOOKS names another folder.")
    settings, out = read_preset(preset), Path(out)
    results, waiting = _sort(notebooks, settings, out, resume)
    if not force:
        check_contents(out)
        for job in waiting:
            refuse_foreign(job.out)
    with hold(out):
        for notebook in notebooks:
            if update and notebook.name in results:
                results[notebook.name] = _written_back(notebook, out / notebook.name, results[notebook.name])
        with client_for(len(waiting), jobs) as client:
            for job, facts in with_bar(compute(waiting, client), len(notebooks), len(waiting), f"study ({preset})"):
                facts = facts | {"kept": False}
                results[job.notebook.name] = _written_back(job.notebook, job.out, facts) if update else facts
                _write_contents(out, preset)
        _write_contents(out, preset)
    return [results[notebook.name] for notebook in notebooks]


def _sort(notebooks: list[Notebook], settings: dict, out: Path, resume: bool) -> tuple[dict, list[Job]]:
    """({name: facts} of the notebooks that are kept, the others as jobs)."""
    results, waiting = {}, []
    for notebook in notebooks:
        kept = completed(notebook, settings[notebook.name], out / notebook.name) if resume else None
        if kept:
            results[notebook.name] = kept | {"kept": True}
        else:
            waiting.append(Job(notebook, settings[notebook.name], out / notebook.name))
    return results, waiting


def _written_back(notebook, folder, facts):
    """The facts of a run whose outputs its notebook now has; they say so where they could not be written."""
    if facts["status"] != "complete":
        return facts
    try:
        commit_outputs(folder / "notebook.ipynb", notebook.path)
    except (ClipnotesError, OSError) as error:
        return facts | {"status": "not written back", "error": in_words(error)}
    return facts


def _write_contents(out, preset):
    """The page is worth a line, not the runs, where the disk takes no more."""
    try:
        write_contents(out, preset)
    except OSError as error:
        tqdm.write(f"{out / 'index.html'} could not be written: {error.strerror}.", file=sys.stderr)


def summary(results: list[dict]) -> str:
    """Return the results of `study` as a plain-text table."""
    rows = [{"notebook": facts["notebook"], "status": facts["status"] + " (kept)" * facts["kept"],
             "seconds": facts.get("seconds", ""), "error": facts.get("error", "")} for facts in results]
    return pd.DataFrame(rows).to_string(index=False)


def preset_names() -> list[str]:
    """Return the names of all presets, the files notebooks/presets/NAME.yaml."""
    names = sorted(path.stem for path in (notebooks_dir() / "presets").glob("*.yaml"))
    return [name for name in names if not re.search(r"_\d\d$", name)]


def read_preset(name: str) -> dict[str, dict]:
    """Return {notebook name: checked parameters} for the whole series.

    NAME.yaml maps "*" to parameters for every notebook that has them, and a notebook's number or name to its own, which go
    first. NAME_NN.yaml, a file for `clipnotes run NN -f`, stands for the entry of notebook NN.
    ClipnotesError: no such preset, notebook or parameter, a notebook in two places, or a bad value.
    """
    folder = notebooks_dir() / "presets"
    if name not in preset_names():
        raise ClipnotesError(f"There is no preset {shown(name)}; {folder} has: {', '.join(preset_names()) or 'none'}.")
    content = read_values(folder / f"{name}.yaml")
    shared = _entry(name, "*", content.pop("*", None))
    own, spelt = {}, {}
    for key, values in content.items():
        if not isinstance(key, str):
            raise ClipnotesError(f"Preset {name} has the entry {shown(key)}, which YAML reads as a number: write it in quotes, "
                                 'such as "07".')
        notebook = find(key).name
        if notebook in own:
            raise ClipnotesError(f"Preset {name} sets {notebook} twice, as {spelt[notebook]!r} and {key!r}; keep one.")
        own[notebook], spelt[notebook] = _entry(name, key, values), key
    for path in sorted(folder.glob(f"{name}_[0-9][0-9].yaml")):
        notebook = find(path.stem[-2:]).name
        if notebook in own:
            raise ClipnotesError(f"Preset {name} sets {notebook} in {name}.yaml and in {path.name}; keep one of them.")
        own[notebook] = read_values(path)
    declared = {notebook.name: {p.name for p in notebook.parameters} for notebook in series()}
    unused = set(shared) - set().union(*declared.values())
    if unused:
        raise ClipnotesError(f"Preset {name} sets {shown(min(unused, key=str))} under '*', but no notebook has it.")
    settings = {}
    for notebook in series():
        common = {key: value for key, value in shared.items() if key in declared[notebook.name]}
        try:
            settings[notebook.name] = overrides(notebook, common | own.get(notebook.name, {}))
        except ClipnotesError as error:
            raise ClipnotesError(f"Preset {name}, notebook {notebook.name}: {error}") from None
    return settings


def _entry(preset, key, values):
    if not isinstance(values or {}, dict):
        raise ClipnotesError(f"Preset {preset} has under {key!r} the value {shown(values)}, but must have lines `name: value`.")
    return values or {}

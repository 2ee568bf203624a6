"""The series in order, headless: presets, resuming, a summary and a contents page."""

import os
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from clipnotes.errors import ClipnotesError, shown
from clipnotes.paths import notebooks_dir
from clipnotes.running.commit import commit_outputs
from clipnotes.running.contents import write_contents
from clipnotes.running.execute import completed, overrides, run_notebook
from clipnotes.series.notebooks import find, series
from clipnotes.series.parameters import read_values


def study(preset="pocket", only=(), resume=False, out="runs/study", update=False, jobs=1):
    """Run the notebooks of the series, each into OUT/NAME, and return the list of their facts.

    preset: a file of notebooks/presets. only: numbers or names, empty for all. resume: keep complete ones.
    update: write the outputs back into the notebooks (see `commit_outputs`). jobs: notebooks at a time, each in a process
    of its own; the longest start first, with the same numbers as one by one with as many threads. Everything is checked before
    anything runs; a notebook that fails does not stop the rest. OUT/index.html is written after each one.
    """
    notebooks = [find(key) for key in only] if only else series()
    if twice := [notebook.name for notebook in notebooks if notebooks.count(notebook) > 1]:
        raise ClipnotesError(f"{twice[0]} is to run twice: name each notebook once.")
    if not notebooks:
        raise ClipnotesError(
            f"There are no notebooks in {notebooks_dir()}: CLIPNOTES_NOTEBOOKS names another folder."
        )
    settings = read_preset(preset)
    out, results, waiting = Path(out), {}, []
    for notebook in notebooks:
        kept = completed(notebook, settings[notebook.name], out / notebook.name) if resume else None
        if kept:
            results[notebook.name] = kept | {"kept": True}
        else:
            waiting.append((notebook, settings[notebook.name], out / notebook.name))
    with tqdm(total=len(notebooks), initial=len(results), unit="notebook", desc=f"study ({preset})", disable=None) as bar:
        for notebook, facts in run_all(waiting, jobs, bar):
            results[notebook.name] = facts | {"kept": False}
            if update and facts["status"] == "complete":
                commit_outputs(out / notebook.name / "notebook.ipynb", notebook.path)
            write_contents(out, preset)
            bar.update()
    write_contents(out, preset)
    return [results[notebook.name] for notebook in notebooks]


def run_all(waiting, jobs, bar):
    """Yield (notebook, facts) of every (notebook, parameters, folder) when it is done, `jobs` of them at a time."""
    if jobs == 1:
        for notebook, parameters, folder in waiting:
            bar.set_postfix_str(notebook.name)
            yield notebook, run_notebook(notebook, parameters, folder, leave_bar=False)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        longest_first = sorted(waiting, key=lambda each: -each[0].facts.get("minutes", 0))  # none is left over alone
        running = {pool.submit(run_beside_others, jobs, *each): each[0] for each in longest_first}
        for future in as_completed(running):
            bar.set_postfix_str(f"{running[future].name} done")
            yield running[future], future.result()


def run_beside_others(jobs, notebook, parameters, folder):
    """`run_notebook` in one of `jobs` processes that share the cores.

    Each has the threads that fall to it: more threads than cores wait for each other. Those that wait sleep, not spin. The
    environment's own OMP_NUM_THREADS goes first.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run_notebook(notebook, parameters, folder, progress=False)


def summary(results):
    """Return the results of `study` as a plain-text table."""
    rows = [
        {
            "notebook": facts["notebook"],
            "status": "complete (kept)" if facts["kept"] else facts["status"],
            "seconds": facts["seconds"],
            "error": facts.get("error", ""),
        }
        for facts in results
    ]
    return pd.DataFrame(rows).to_string(index=False)


def preset_names():
    """Return the names of all presets, the files notebooks/presets/NAME.yaml."""
    names = sorted(path.stem for path in (notebooks_dir() / "presets").glob("*.yaml"))
    return [name for name in names if not re.search(r"_\d\d$", name)]


def read_preset(name):
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

"""Run folders as `run_notebook` leaves them, made without a kernel."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import pandas as pd

from clipnotes import lab
from clipnotes.series.notebooks import find
from clipnotes.series.run_folder import COLUMNS, NOTEBOOK, PAGE, read_facts, seal, write_facts

TOY = dict(shots=4, rate=0.1, loss="ce", seeds=[1, 2], flip=False, features="", out="")  # the values of `toy_notebook`


def finish_toy(out, status="complete", page=True, facts=(), **parameters):
    """A run of 01_toy in the folder `out` as `run_notebook` leaves it; facts: (name, value) pairs in place of its own."""
    run = lab.Run(find("01"), TOY | {"out": str(out)} | parameters)
    run.record(metric="accuracy", value=0.5, method="Toy", seed=1)
    run.record(metric="accuracy", value=0.75, method="Toy", seed=2)
    figure, axes = matplotlib.pyplot.subplots(figsize=(1, 1))
    axes.plot([1, 2])
    run.figure("fig1_toy", figure, alt="A line that rises with the seed.", data=pd.DataFrame({"x": [1, 2]}))
    run.finish()
    names = [NOTEBOOK, *[PAGE] * page]
    for name in names:
        (run.out / name).write_text(f"what {name} holds")
    whole = read_facts(run.out)
    write_facts(run.out, whole | {"status": status, "files": whole["files"] | seal(run.out, names)} | dict(facts))
    return run.out


def record_run(folder, rows, notebook="07_noisy_labels", status="complete", version="0.1.0", seconds=2.5, **parameters):
    """Write run.json and results.csv of a run into a folder and return it; rows: dicts of results.csv."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    facts = {"notebook": notebook, "status": status, "parameters": {"out": str(folder)} | parameters, "seconds": seconds,
             "versions": {"clipnotes": version}} | ({"error": "KeyError: 'x'"} if status == "failed" else {})
    frame = pd.DataFrame([{"notebook": notebook} | row for row in rows])
    frame.reindex(columns=list(dict.fromkeys([*COLUMNS, *frame.columns]))).to_csv(folder / "results.csv", index=False)
    write_facts(folder, facts | {"files": seal(folder, ["results.csv"])})
    return folder


@contextmanager
def holding(folder):
    """Another process holds the folder while the block runs, and is killed."""
    code = f"from clipnotes.series.run_folder import take; lock = take({str(folder)!r}); print('held', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield
    finally:
        process.kill()
        process.communicate()


def plan_sweep(folder, notebook, runs):
    """Write the sweep.json of a folder; runs: {id: parameters}."""
    sweep = {"notebook": notebook, "grid": {}, "runs": [{"id": name, "parameters": values} for name, values in runs.items()]}
    Path(folder, "sweep.json").write_text(json.dumps(sweep))


def accuracy(value, **keys):
    """A row of an accuracy; keys go before the usual values."""
    usual = {"dataset": "digits", "model": "pocket-vit", "method": "Prompt Tuning", "loss": "ce", "shots": 16,
             "noise_kind": "uniform", "noise_rate": 0.0, "seed": 1, "metric": "accuracy"}
    return usual | keys | {"value": value}

"""Run folders as `run_notebook` leaves them, made without a kernel."""

import json
from pathlib import Path

import pandas as pd

from clipnotes.series.run_folder import COLUMNS


def record_run(folder, rows, notebook="07_noisy_labels", status="complete", version="0.1.0", seconds=2.5, **parameters):
    """Write run.json and results.csv of a run into a folder and return it; rows: dicts of results.csv."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    facts = {"notebook": notebook, "status": status, "parameters": {"out": str(folder)} | parameters, "seconds": seconds,
             "versions": {"clipnotes": version}} | ({"error": "KeyError: 'x'"} if status == "failed" else {})
    (folder / "run.json").write_text(json.dumps(facts))
    frame = pd.DataFrame([{"notebook": notebook} | row for row in rows])
    frame.reindex(columns=list(dict.fromkeys([*COLUMNS, *frame.columns]))).to_csv(folder / "results.csv", index=False)
    return folder


def plan_sweep(folder, notebook, runs):
    """Write the sweep.json of a folder; runs: {id: parameters}."""
    sweep = {"notebook": notebook, "grid": {}, "runs": [{"id": name, "parameters": values} for name, values in runs.items()]}
    Path(folder, "sweep.json").write_text(json.dumps(sweep))


def accuracy(value, **keys):
    """A row of an accuracy; keys go before the usual values."""
    usual = {"dataset": "digits", "model": "pocket-vit", "method": "Prompt Tuning", "loss": "ce", "shots": 16,
             "noise_kind": "uniform", "noise_rate": 0.0, "seed": 1, "metric": "accuracy"}
    return usual | keys | {"value": value}

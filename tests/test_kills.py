"""kill -9 at random moments: whatever was going on, the command resumed leaves the results of one that nobody disturbed.

CLIPNOTES_KILLS=30 kills more often than the suite does.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import write_notebook
from PIL import Image
from test_sweep import BODY, START

from clipnotes.running.sweep import plan
from clipnotes.series.notebooks import find
from clipnotes.series.run_folder import damage, read_facts

KILLS = int(os.environ.get("CLIPNOTES_KILLS", "1"))

FIGURE = """
import matplotlib.pyplot as plt
import pandas as pd
from clipnotes.lab.figures import use_style
use_style()
figure, axes = plt.subplots(figsize=(2, 2))
axes.plot(seeds)
run.figure("fig1_toy", figure, alt="A line of the seeds.", data=pd.DataFrame({"seed": seeds}))"""


@pytest.fixture
def small(toy_notebook, monkeypatch):
    """Two quick notebooks, a grid of two runs, a folder of pictures."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_notebook(toy_notebook, start=START, body=BODY + FIGURE)
    write_notebook(toy_notebook.with_name("02_more.ipynb"), start=START, body=BODY + FIGURE)
    Path("grid.yaml").write_text("axes: {seeds: [[1], [2]]}")
    for name in ("round", "square"):
        Path("pictures", name).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("pictures", name, f"{i}.png"))


COMMANDS = {
    "study": ["study", "--jobs", "2", "--resume", "--out"],
    "sweep": ["sweep", "01", "--grid", "grid.yaml", "--workers", "1", "--resume", "--out"],
    "features": ["features", "--dataset", "folder:pictures", "--out"],
}


def results(name):
    """{file: bytes} of what a command leaves that does not tell the time."""
    files = [Path(name)] if Path(name).is_file() else [*Path(name).rglob("results.csv"), *Path(name).rglob("figures/*")]
    return {file.relative_to(name).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_killed_at_random_moments_goes_on_to_the_same_results(small, command, monkeypatch, tmp_path):
    end = ".npz" if command == "features" else ""
    arguments = [sys.executable, "-m", "clipnotes", *COMMANDS[command]]
    began = time.monotonic()
    subprocess.run([*arguments, "unbroken" + end], check=True, capture_output=True)
    monkeypatch.setenv("CLIPNOTES_CACHE", str(tmp_path / "cache"))  # features are encoded again
    longest, rng = time.monotonic() - began, random.Random()
    moments = [rng.uniform(0, longest) for _ in range(KILLS)]
    for moment in moments:
        process = subprocess.Popen([*arguments, "out" + end], start_new_session=True, stderr=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for folder in [path.parent for path in Path(".").glob("out/**/run.json")]:
            assert read_facts(folder), f"{moments}: run.json is whole at any time"
            assert not damage(folder), f"{moments}: what counts as complete is whole"
    done = subprocess.run([*arguments, "out" + end], capture_output=True, text=True)
    assert done.returncode == 0, (moments, done.stderr)
    assert results("out" + end) == results("unbroken" + end), moments
    if command == "sweep":
        assert set(plan(find("01"), "grid.yaml", "out").states.values()) == {"done"}

"""Use the notebooks in JupyterLab as a reader does, in headless Chromium.

    python tests/browser/check_lab.py runs/study             # moves every explorer of its executed notebooks through all states
    python tests/browser/check_lab.py --students 00 02       # student copies: opened, solutions pasted in, run, saved, reopened

Needs Chromium and JupyterLab. The second takes as long as the notebooks do at the quick preset. Exit code 1: something is
wrong, and a line says what; 77: no Chromium here.
"""

import argparse
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from chromium import Browser, program, until
from explorers import MOVE, wrong_states
from nbformat.sign import NotebookNotary

from clipnotes.running.study import read_preset
from clipnotes.series.exercises import STARTER, copy_series, solutions
from clipnotes.series.notebooks import find, series

PANEL = "const panel = window.jupyterapp && [...jupyterapp.shell.widgets('main')].find(widget => widget.context);"
READY = f"(() => {{ {PANEL} return panel?.context.isReady && panel.content.widgets.length; }})()"
# places of the cells with an explorer, by what their outputs are marked with
PLACES = f"""(() => {{ {PANEL}
  const outputs = cell => cell.model.type === "code" ? cell.model.sharedModel.getOutputs() : [];
  return panel.content.widgets.flatMap((cell, i) => outputs(cell).some(o => o.metadata?.clipnotes?.explorer) ? [i] : []);
}})()"""
SHOW = "(async () => {{ {panel} await panel.content.scrollToItem({place}); return true; }})()"
ALIVE = "(() => {{ {panel} return !!panel.content.widgets[{place}].node.querySelector('figure > form'); }})()"
RUN = f"""(() => {{ {PANEL}
  jupyterapp.shell.activateById(panel.id);
  jupyterapp.commands.execute("notebook:run-all-cells");
  return true;
}})()"""
HAS_KERNEL = f"(() => {{ {PANEL} return panel.sessionContext.session?.kernel?.status === 'idle'; }})()"
HAS_RUN = f"""(() => {{ {PANEL}
  const codes = panel.content.widgets.filter(cell => cell.model.type === "code" && cell.model.sharedModel.source.trim());
  const failed = codes.some(cell => cell.model.sharedModel.getOutputs().some(output => output.output_type === "error"));
  return panel.sessionContext.session?.kernel?.status === "idle" && (failed || codes.every(cell => cell.model.executionCount));
}})()"""
SAVE = f"(async () => {{ {PANEL} await panel.context.save(); await panel.sessionContext.shutdown(); return true; }})()"
SEEN = f"(() => {{ {PANEL} return panel.content.node.innerText; }})()"
DEBRIS = re.compile(r"Error displaying widget|model not found|JavaScript (error|output is disabled)|Traceback \(", re.I)


class Lab:
    """JupyterLab over a folder, with a data folder of its own in which notebooks are trusted; for a `with` block."""

    def __init__(self, folder: Path):
        self.folder, self.token = folder, secrets.token_hex(16)
        self.data = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.environment = os.environ | {f"JUPYTER_{kind}_DIR": self.data.name for kind in ("DATA", "CONFIG", "RUNTIME")}

    def trust(self, path: Path):
        """As if its reader had run it here: only then may its scripts run."""
        NotebookNotary(data_dir=self.data.name).sign(nbformat.read(path, as_version=4))

    def __enter__(self):
        command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0",
                   f"--notebook-dir={self.folder}", f"--IdentityProvider.token={self.token}",
                   "--LabApp.expose_app_in_browser=True"]
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (facts,) = until(lambda: list(Path(self.data.name).glob("jpserver-*.json")), "JupyterLab did not start")
        self.address = until(lambda: json.loads(facts.read_text() or "{}").get("url"), "JupyterLab did not start")
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()
        self.data.cleanup()

    def open(self, browser, name):
        """A page with the notebook `name`, every cell of which is there."""
        page = browser.page(1400, 1000)
        page.open(f"{self.address}lab/tree/{name}?reset&token={self.token}")
        page.until(READY, f"{name} did not open")
        return page


def moved_explorers(page, name):
    """What `MOVE` found of every explorer of an open notebook; TimeoutError where one does not come to life."""
    found = {}
    for place in page.run(PLACES):
        page.run(SHOW.format(panel=PANEL, place=place))
        page.until(ALIVE.format(panel=PANEL, place=place), f"the explorer in cell {place} of {name} has no controls", 60)
        found |= {explorer["id"]: explorer for explorer in page.run(MOVE)}
    return list(found.values())


def check_explorers(study, browser):
    """Open the executed notebooks of a study; move their explorers. Number of faults."""
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lab = Lab(folder)
        for notebook in series():
            executed = study / notebook.name / "notebook.ipynb"
            if executed.is_file():
                shutil.copy(executed, folder / notebook.path.name)
                lab.trust(folder / notebook.path.name)
        with lab:
            for path in sorted(folder.glob("*.ipynb")):
                page = lab.open(browser, path.name)
                explorers = moved_explorers(page, path.name)
                bad += report(path.stem, explorers, wrong_states(explorers) + debris(page))
                page.close()
    return bad


def check_students(numbers, browser):
    """Student copies with the solutions pasted in: run, saved, kernel stopped, reopened. Number of faults."""
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "course")
        copies = {path.name: path for path in copy_series(folder, students=True)}
        with Lab(folder) as lab:
            for notebook in map(find, numbers):
                wrong = pasted(copies[notebook.path.name], notebook)
                page = lab.open(browser, notebook.path.name)
                page.until(HAS_KERNEL, f"{notebook.name} has no kernel")
                page.run(RUN)
                page.until(HAS_RUN, f"{notebook.name} did not end", 3600)
                wrong += wrong_states(moved_explorers(page, notebook.name)) + debris(page)
                page.run(SAVE)
                page.close()
                wrong += answers(copies[notebook.path.name], notebook)
                page = lab.open(browser, notebook.path.name)
                explorers = moved_explorers(page, notebook.name)
                wrong += [f"reopened: {line}" for line in wrong_states(explorers) + debris(page)]
                bad += report(notebook.name, explorers, wrong)
                page.close()
    return bad


def pasted(path, notebook):
    """Put the quick preset and the solutions into a student's copy; say what is in it that should not be."""
    content = json.loads(path.read_text(encoding="utf-8"))
    wrong = [f"a solution in cell {cell['id']}" for cell in content["cells"] if "<summary>Solution" in "".join(cell["source"])]
    wrong += [f"outputs in cell {cell['id']}" for cell in content["cells"] if cell.get("outputs")]
    codes = solutions(json.loads(notebook.path.read_text(encoding="utf-8")))
    for cell in content["cells"]:
        source = "".join(cell["source"])
        if cell["id"] in codes:
            cell["source"] = STARTER.sub(lambda _, code=codes[cell["id"]]: f"{code}\n", source, count=1)
        if "parameters" in cell["metadata"].get("tags", []):
            values = read_preset("quick")[notebook.name]
            cell["source"] = source + "\n\n" + "\n".join(f"{name} = {value!r}" for name, value in values.items())
    path.write_text(json.dumps(content), encoding="utf-8")
    return wrong


def answers(path, notebook):
    """What is wrong in the saved notebook: errors, and exercises that are not right."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = {cell["id"]: cell["outputs"] for cell in cells if cell["cell_type"] == "code"}
    wrong = [f"cell {id}: {output['ename']}: {output['evalue']}" for id, found in outputs.items() for output in found
             if output["output_type"] == "error"]
    for id in solutions(json.loads(notebook.path.read_text(encoding="utf-8"))):
        said = ["".join(o["data"]["text/plain"]) for o in outputs[id] if "data" in o]
        wrong += [] if said and said[-1].endswith(": right.") else [f"cell {id} says {said or 'nothing'}"]
    return wrong


def debris(page):
    """Words on the page that no reader should meet, and what its scripts threw."""
    found = {match[0] for match in DEBRIS.finditer(page.run(SEEN))}
    return [f"it shows {words!r}" for words in sorted(found)] + page.complaints


def report(name, explorers, wrong):
    states = sum(len(explorer["states"]) for explorer in explorers)
    print(f"{name}: {len(explorers)} explorers, {states} states, {len(wrong)} faults", *wrong, sep="\n    ", flush=True)
    return len(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", type=Path, help="a study, whose explorers are moved")
    parser.add_argument("--students", nargs="*", metavar="NN", help="notebooks whose student copies are tried; none for all")
    given = parser.parse_args()
    if given.study is None and given.students is None:
        parser.error("name a study, or --students")
    if program() is None:
        print("Skipped: there is no Chromium or Chrome on the path.")
        sys.exit(77)
    with Browser() as browser:
        bad = check_explorers(given.study, browser) if given.study else 0
        if given.students is not None:
            bad += check_students(given.students or [notebook.number for notebook in series()], browser)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()

"""Fixtures for all tests: the shared reference data where it is at hand, and a tiny series of notebooks."""

import json
import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: the processes of a parallel run share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import nbformat
import numpy as np
import pytest
import yaml
from web_server import WebServer

from clipnotes.errors import ClipnotesError

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"  # numbers of the published implementations, see its README


def says(message, kind=ClipnotesError):
    """The block refuses its input in one sentence, which matches `message`."""
    return pytest.raises(kind, match=message)


def pytest_collection_modifyitems(items):
    """Fast tests first: those that start kernels come last."""
    items.sort(key=lambda item: item.path.name in ("test_cli.py", "test_study.py", "test_sweep.py", "test_notebooks.py"))


@pytest.fixture(scope="session")
def shared():
    """The folder of reference data that is never part of the project."""
    folder = Path(os.environ.get("CLIPNOTES_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no shared reference data here: set CLIPNOTES_SHARED to its folder")
    return folder


@pytest.fixture
def caltech(shared, tmp_path):
    """(manifest file, data root) of 180 real photographs of ten classes of Caltech-101."""
    root = shared / "data" / "images"
    return caltech_manifest(tmp_path, root), root


def caltech_manifest(folder, root, file="caltech-101/split_zhou_Caltech101.json"):
    """Write caltech-sample.yaml, the manifest of the images in `root` that a split file there lists, and return its path."""
    splits = json.loads((root / file).read_text())
    classes = dict(sorted((label, name.replace("_", " ")) for rows in splits.values() for _, label, name in rows))
    path = folder / "caltech-sample.yaml"
    path.write_text(yaml.safe_dump({
        "name": "caltech-sample", "title": "Photographs of Caltech-101", "task": "ten classes", "licence": "CC BY 4.0",
        "counts": {name: len(rows) for name, rows in splits.items()},
        "classes": list(classes.values()), "templates": ["a photo of a {}."],
        "source": {"kind": "split-file", "images": "caltech-101/101_ObjectCategories", "file": file}}))
    return path


@pytest.fixture(scope="session", autouse=True)
def feature_cache(tmp_path_factory):
    """One fresh feature cache for all tests, in all processes; the user's own is never touched."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    patch = pytest.MonkeyPatch()
    patch.setenv("CLIPNOTES_CACHE", str(folder / "cache"))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def clip():
    """The small CLIP that ships, frozen; tests that change a model make one of their own."""
    from clipnotes.backbone import load_clip

    return load_clip("pocket-vit")


@pytest.fixture(scope="module")
def vit():
    """The same architecture with random weights: for tests that no learnt weight matters to."""
    from clipnotes.backbone import load_clip

    return load_clip("pocket-vit", "random")


@pytest.fixture(scope="session")
def pixels():
    """Seven pictures of noise of that CLIP's own size, uint8 [7, 40, 40, 3]."""
    return np.random.default_rng(0).integers(0, 256, (7, 40, 40, 3), dtype=np.uint8)


@pytest.fixture
def web(monkeypatch):
    """A web server on this machine, see `WebServer`, and downloads that hardly pause between attempts."""
    monkeypatch.setattr("clipnotes.downloads.download.PAUSE", 0.01)
    with WebServer() as server:
        yield server
        server.release.set()
        server.shutdown()


@pytest.fixture(scope="module")
def register_models(tmp_path_factory):
    """register(name=config, ...): small architectures under open_clip's eyes, until the module's tests are done."""
    import open_clip
    from open_clip import factory

    known, paths = dict(factory._MODEL_CONFIGS), list(factory._MODEL_CONFIG_PATHS)

    def register(configs):
        folder = tmp_path_factory.mktemp("configs")
        for name, config in configs.items():
            (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder)

    yield register
    factory._MODEL_CONFIGS.clear()
    factory._MODEL_CONFIGS.update(known)
    factory._MODEL_CONFIG_PATHS[:] = paths


PARAMETERS = """\
shots: int = 4  # images a class [1..16]
rate: float = 0.1  # learning rate [0..1]
loss: str = "ce"  # loss function [ce | gce]
seeds: list[int] = [1, 2]  # random seeds [0..]
flip: bool = False  # mirror the images
features: str = ""  # a bank of features [file]
out: str = ""  # folder of the results, empty for runs"""

START = """\
from pathlib import Path
import time
import matplotlib.pyplot as plt
import pandas as pd
from clipnotes import lab
from clipnotes.lab.explore import slider
run = lab.start("{name}", globals())"""

BODY = """\
for seed in seeds:
    run.record(metric="accuracy", value=0.5 + 0.01 * seed, method="Toy", seed=seed)
while Path("block").exists():
    time.sleep(0.05)
if Path("{name}.break").exists():
    raise KeyError("broken\\non purpose")
figure, axes = plt.subplots()
axes.plot(seeds, run.records["value"])
alt = "A line that rises with the seed."
run.figure("fig1_toy", figure, alt=alt, data=run.records, caption="Toy.", table=True, exhibit="B, Fig. 4", key=True)
def rise(figure, height):
    figure.subplots().plot([0, height])
    return f"A line that rises to {height}."
run.explore("explore_toy", rise, "Toy.", (2, 2), height=slider("Height", [1, 2, 3], start=2))
run.takeaway(f"{len(seeds)} seeds & no <bold> claim, as notebook 02 says.", key=True)"""


def write_notebook(path, parameters=PARAMETERS, body=BODY, finish="run.finish()", start=START):
    """Write a small notebook of the house's form to `path` and return it."""
    v4 = nbformat.v4
    cells = [
        v4.new_markdown_cell(f"# What does {path.stem} show?"),
        v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        v4.new_code_cell(start.replace("{name}", path.stem)),
        v4.new_code_cell(body.replace("{name}", path.stem)),
        v4.new_code_cell(finish),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    facts = {"reproduces": "nothing", "minutes": 0.1, "needs": "nothing"}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = v4.new_notebook(cells=cells, metadata={"clipnotes": facts, "kernelspec": kernel})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def toy_notebook(tmp_path, monkeypatch):
    """A series 01_toy, 02_more with one preset, and an empty current folder; returns the path of 01_toy."""
    folder = tmp_path / "notebooks"
    write_notebook(folder / "02_more.ipynb", parameters=PARAMETERS.replace("rate", "speed"))
    (folder / "presets").mkdir()
    (folder / "presets" / "pocket.yaml").write_text("# nothing\n")
    monkeypatch.setenv("CLIPNOTES_NOTEBOOKS", str(folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return write_notebook(folder / "01_toy.ipynb")

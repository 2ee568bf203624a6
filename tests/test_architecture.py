"""ARCHITECTURE.md says what is: its rooms exist, its table of notebooks is the notebooks', its worked examples work."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import clipnotes
from clipnotes.series.notebooks import series

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8") if (ROOT / "ARCHITECTURE.md").is_file() else ""
PACKAGE = Path(clipnotes.__file__).parent
pytestmark = pytest.mark.skipif(not TEXT, reason="not a checkout: ARCHITECTURE.md is not here")


def examples(language):
    """The code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.S | re.M)


def modules_of(notebook):
    """The modules of the package that a notebook's code cells import, without the package's name."""
    found = set()
    for cell in notebook.content["cells"]:
        if cell["cell_type"] == "code":
            for node in ast.walk(ast.parse(cell["source"])):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("clipnotes"):
                    of_modules = node.module in ("clipnotes", "clipnotes.lab")  # what notebooks take from these are modules
                    names = [f"{node.module}.{a.name}" for a in node.names] if of_modules else [node.module]
                    found |= {name.removeprefix("clipnotes.") for name in names}
    return sorted(found)


def table_of_notebooks():
    lines = ["| notebook | modules |", "|---|---|"]
    return "\n".join([*lines, *(f"| {n.name} | {', '.join(f'`{m}`' for m in modules_of(n))} |" for n in series())])


def test_every_room_of_the_page_exists_and_none_is_left_out():
    named = {name.rstrip("/") for row in re.findall(r"^\| (`.*?) \|", TEXT, re.M) for name in re.findall(r"`([^`]+)`", row)}
    there = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()
             if path.suffix == ".py" and not path.stem.startswith("__") or (path / "__init__.py").is_file()}
    named = {name for name in named if "." not in name or name.endswith("/")}
    assert there <= named and {name for name in named if name in there} == named


def test_the_table_of_notebooks_is_true():
    assert table_of_notebooks() in TEXT, f"put this into ARCHITECTURE.md:\n{table_of_notebooks()}"


def test_the_worked_examples_are_short():
    assert all(len(example.splitlines()) < 30 for language in ("python", "yaml") for example in examples(language))


def test_the_worked_data_set_loads(tmp_path):
    from clipnotes.data import load_task

    manifest = yaml.safe_load(examples("yaml")[0])
    (tmp_path / "shells.yaml").write_text(examples("yaml")[0])
    for name in manifest["classes"]:
        (tmp_path / "shells" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / "shells" / name / f"{i}.png")
    task = load_task(str(tmp_path / "shells.yaml"), data_root=tmp_path)
    assert {split: len(getattr(task, split)) for split in manifest["counts"]} == manifest["counts"]
    assert task.classnames == manifest["classes"]


def test_the_worked_method_works():
    from sklearn.base import clone

    space = {}
    exec(examples("python")[0], space)  # noqa: S102
    x = torch.nn.functional.normalize(torch.eye(3).repeat(4, 1) + 0.1, dim=1)
    y = torch.arange(3).repeat(4)
    model = space["ClassMeans"](scale=10.0).fit(x, y)
    assert model.score(x, y) == 1.0 and clone(model).get_params() == {"scale": 10.0}
    torch.testing.assert_close(model.means_[0], x[0])


def test_the_worked_notebook_has_the_form_of_the_series(tmp_path):
    from clipnotes.series.parameters import read_parameters

    cells = [{"cell_type": "code", "source": source, "metadata": {"tags": ["parameters"]} if not i else {}}
             for i, source in enumerate(examples("python")[1:])]
    (tmp_path / "99_new.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}}))
    assert [p.name for p in read_parameters(tmp_path / "99_new.ipynb")] == ["dataset", "shots", "out"]


if __name__ == "__main__":
    page = ROOT / "ARCHITECTURE.md"
    mark = "<!-- modules: held by tests/test_architecture.py -->"
    page.write_text(re.sub(rf"{mark}\n.*?(?=\n## )", f"{mark}\n\n{table_of_notebooks()}\n", TEXT, flags=re.S), encoding="utf-8")

"""The exercises of a notebook: their solutions, copies with the solutions pasted in, and copies for students.

An exercise is a Markdown cell with folded hints and a folded solution, and behind it a starter cell:

    <details><summary>Solution</summary>          answer = ...  # what is asked for
                                                  lab.exercise("2", answer, check)
    ```python
    answer = 42
    ```
    </details>

The starter cell is tagged `exercise` and begins with the line `answer = ...`; the solution stands in its place when the
tests run it. So every solution is written once, and is what readers unfold.
"""
from __future__ import annotations

import copy
import json
import re
from pathlib import Path

from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write
from clipnotes.paths import notebooks_dir
from clipnotes.series.notebooks import Notebook, series

TAG = "exercise"
STARTER = re.compile(r"answer = \.\.\.[^\n]*\n")
SOLUTION = re.compile(r"[ \t]*<details><summary>Solution</summary>\s*```python\n(.*?)\s*```\s*</details>\n?", re.S)


def is_starter(cell: dict) -> bool:
    return cell["cell_type"] == "code" and TAG in cell["metadata"].get("tags", [])


def solutions(content: dict) -> dict[str, str]:
    """{id of the starter cell: code of its solution} of a notebook's content.

    Raises ClipnotesError for a starter cell without the line `answer = ...` or without one solution right before it.
    """
    found, before = {}, ""
    for cell in content["cells"]:
        source = "".join(cell["source"])
        if is_starter(cell):
            codes = SOLUTION.findall(before)
            if len(codes) != 1 or not STARTER.match(source):
                raise ClipnotesError(f"Exercise cell {cell['id']!r} has {len(codes)} solutions before it and begins with "
                                     f"{source.splitlines()[0] if source else ''!r}; it needs one solution, folded in the "
                                     "Markdown cell before it, and the line `answer = ...`.")
            found[cell["id"]] = codes[0]
        before = source if cell["cell_type"] == "markdown" else ""
    return found


def solved(content: dict) -> dict:
    """A copy of a notebook's content with each solution in the place of its starter's `answer = ...`."""
    codes, content = solutions(content), copy.deepcopy(content)
    for cell in content["cells"]:
        if cell.get("id") in codes:
            code = codes[cell["id"]]
            source = STARTER.sub(lambda _, code=code: f"{code}\n", "".join(cell["source"]), count=1)
            cell["source"] = source.splitlines(keepends=True)
    return content


def for_students(content: dict) -> dict:
    """A copy of a notebook's content without outputs and solutions; questions, hints and starter cells stay."""
    content = copy.deepcopy(content)
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
        else:
            cell["source"] = SOLUTION.sub("", "".join(cell["source"])).splitlines(keepends=True)
    return content


def copy_series(out: str | Path, students: bool = False) -> list[Path]:
    """Copy the notebooks of the series, their presets, grids and gathered tables into the new folder `out`.

    students: without outputs and solutions. The copies run with the installed package, from any folder.
    Returns the notebooks' paths. Raises ClipnotesError where `out` holds something already.
    """
    out, home = Path(out), notebooks_dir()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClipnotesError(f"{out} is not empty, and nothing there is overwritten; name a new folder.")
    paths = [write(out / notebook.path.name, notebook, students) for notebook in series()]
    for folder in ("presets", "grids", "sweeps", "images", "guide"):
        for path in sorted(path for path in (home / folder).glob("[!.]*") if path.is_file()):
            with atomic_write(out / folder / path.name, "wb") as stream:
                stream.write(path.read_bytes())
    return paths


def write(path: Path, notebook: Notebook, students: bool) -> Path:
    content = json.loads(notebook.path.read_text(encoding="utf-8"))
    content = for_students(content) if students else content
    with atomic_write(path) as stream:
        json.dump(content, stream, indent=1, ensure_ascii=False)
        stream.write("\n")
    return path

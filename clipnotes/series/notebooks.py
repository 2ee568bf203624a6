"""The numbered series: find a notebook, read its question, its facts and the hash of its code."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clipnotes.errors import ClipnotesError, shown
from clipnotes.paths import notebooks_dir
from clipnotes.series.parameters import Parameter, read_cells, read_parameters


@dataclass(frozen=True)
class Notebook:
    """A notebook file of the series, known by its name `NN_slug`."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        return self.name.split("_")[0]

    @cached_property
    def content(self) -> dict:
        return read_cells(self.path)

    @property
    def question(self) -> str:
        """The text of the first H1, which is the notebook's question; its name where it has none."""
        for cell in self.content["cells"]:
            for line in cell["source"].splitlines():
                if cell["cell_type"] == "markdown" and line.startswith("# "):
                    return line[2:].strip()
        return self.name

    @property
    def facts(self) -> dict:
        """What the authors say of it: {"reproduces": text, "minutes": number, "needs": text}."""
        facts = self.content["metadata"].get("clipnotes")
        return facts if isinstance(facts, dict) else {}

    @property
    def code_hash(self) -> str:
        """A hash over the code cells: prose and outputs may change without making a result stale."""
        sources = [cell["source"] for cell in self.content["cells"] if cell["cell_type"] == "code"]
        return hashlib.sha256("\0".join(sources).encode()).hexdigest()

    @cached_property
    def parameters(self) -> list[Parameter]:
        return read_parameters(self.path)


def series() -> list[Notebook]:
    """Return the notebooks of the series in order: files named NN_slug.ipynb."""
    return [Notebook(path) for path in sorted(notebooks_dir().glob("[0-9][0-9]_*.ipynb"))
            if re.fullmatch(r"\d\d_\w+", path.stem)]  # no "-Copy1" or " copy" that JupyterLab or Finder made


def find(key: str) -> Notebook:
    """Return the notebook whose number ("02" or "2") or name is `key`; ClipnotesError lists what exists."""
    notebooks = series()
    for notebook in notebooks:
        if key in (notebook.name, notebook.path.name) or str(key).isdigit() and str(key).zfill(2) == notebook.number:
            return notebook
    names = ", ".join(notebook.name for notebook in notebooks) or "none"
    raise ClipnotesError(f"There is no notebook {shown(key)}; the series in {notebooks_dir()} has: {names}.")

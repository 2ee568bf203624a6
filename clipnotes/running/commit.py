"""Outputs of an executed notebook, written back into the notebook of the series so that it reads well unrun.

Calm: the same outputs give the same bytes. Nothing of the machine or the moment goes along.
"""

import base64
import io
import os
import sys
from pathlib import Path

import nbformat
from PIL import Image

from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write
from clipnotes.running.outputs import readable
from clipnotes.series.run_folder import MARK

_LANGUAGE = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
             "language_info": {"name": "python"}}


def commit_outputs(executed: str | Path, source: str | Path) -> None:
    """Copy the outputs of the notebook file `executed` into the notebook file `source`.

    Left out: papermill's metadata and injected cells, execution times, progress bars and warnings (stderr),
    widgets (they do not work without a kernel) and all pictures of an explorer but the first, which no new reader's
    JupyterLab would trust a script to change. Cell ids stay, execution counts run from 1.
    ClipnotesError: `executed` is not a whole run of `source`, or an output holds a path of this machine.
    """
    done = {cell.id: cell for cell in nbformat.read(executed, as_version=4).cells}
    notebook = nbformat.read(source, as_version=4)
    count = 0
    for cell in notebook.cells:
        cell.metadata = _calm(cell.metadata)
        if cell.cell_type != "code":
            continue
        twin = done.get(cell.id)
        if twin is None or twin.source != cell.source or (cell.source and twin.execution_count is None):
            raise ClipnotesError(f"Cell {cell.id!r} of {Path(source).name} has no executed counterpart in "
                                 f"{Path(executed).name}: run the notebook as it is now, to its end.")
        count += 1
        cell.execution_count = count
        cell.outputs = _outputs(twin.outputs, count)
        _refuse_machine_paths(cell)
    notebook.metadata = _calm(notebook.metadata) | _LANGUAGE
    with atomic_write(source) as stream:
        stream.write(nbformat.writes(notebook).rstrip("\n") + "\n")


def _calm(metadata):
    unwanted = {"papermill", "execution", "widgets"}
    return nbformat.NotebookNode({key: value for key, value in metadata.items() if key not in unwanted})


def _outputs(outputs, count):
    kept = []
    for output in readable(outputs):
        if "explorer" in output.get("metadata", {}).get(MARK, {}):
            continue
        # where a long print is cut into messages depends on timing
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
            continue
        if output.output_type == "execute_result":
            output.execution_count = count
        if "text/html" in output.get("data", {}) and "image/png" in output.data:
            output.data["image/png"] = small_png(output.data["image/png"])
        kept.append(output)
    return kept


def small_png(picture: str) -> str:
    """The picture (PNG in base64) in 256 colours: it stands in only where a program takes no HTML, which shows all of them."""
    small = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def _refuse_machine_paths(cell):
    text = str(cell.outputs)
    for folder in {str(Path.cwd()), os.path.expanduser("~"), sys.prefix}:
        # a bare root, as in some containers, would be found in every text
        if len(folder) > 1 and folder in text:
            raise ClipnotesError(f"An output of cell {cell.id!r} holds the path {folder}: print it relative.")

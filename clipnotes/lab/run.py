"""One notebook run: parameters checked, seeds set, records and figures on disk, all that repeating it needs.

A notebook uses it so:

    run = lab.start("02_intra_modal_overlap", globals())      # in the cell after the parameters
    run.record(metric="overlap_area", value=0.44)
    run.figure("fig2_overlap", figure, alt="Two histograms that overlap by 44 %.", data=frame)
    run.finish()                                              # in the last cell
"""

import os
import re
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from matplotlib.figure import Figure

from clipnotes.errors import ClipnotesError
from clipnotes.exhibits import papers
from clipnotes.files import atomic_write
from clipnotes.folder_names import full_name, in_names, short_names
from clipnotes.lab.display import short_path, show, show_figure, show_table
from clipnotes.lab.explore import Control, explore
from clipnotes.lab.figures import save_figure, use_style
from clipnotes.lab.opening import describe
from clipnotes.lab.provenance import git_commit, seed_everything, versions
from clipnotes.paths import data_root
from clipnotes.series import run_folder
from clipnotes.series.notebooks import Notebook, find
from clipnotes.series.parameters import check
from clipnotes.series.run_folder import COLUMNS, HELD, KEYS, RESULTS, read_facts, write_facts


def start(name: str, namespace: dict) -> "Run":
    """Begin the run of the notebook `name`; `namespace` is its globals(), after the parameters cell.

    Checks every parameter, seeds everything, applies the figure style, makes the out folder, writes run.json
    and shows parameters and versions. Image folders (`folder:PATH`) get short names in the namespace, which data sets load by
    and figures show. Returns the Run. The out folder is this kernel's until it ends or starts another run.
    ClipnotesError: an unknown notebook, a bad value, or an out folder that cannot be written, that another run uses or that
    holds results of another making.
    """
    notebook = _source(name)
    missing = [p.name for p in notebook.parameters if p.name not in namespace]
    if missing:
        raise ClipnotesError(f"Parameter {missing[0]} has no value: run the parameters cell first.")
    values = check(notebook.parameters, in_names(full_name, {p.name: namespace[p.name] for p in notebook.parameters}))
    if "data_root" in values:
        values["data_root"] = data_root(values["data_root"])
    seeds = values.get("seeds") or [0]
    seed_everything(values.get("seed", seeds[0]))
    use_style()
    run = Run(notebook, values)
    namespace.update({name: value for name, value in run.shown.items() if value != namespace[name]})
    describe(notebook, run.shown, run.out, run.versions)
    return run


def _source(name):
    """The declared parameters come from the file: in the kernel, values may already be overridden."""
    here = Path(f"{name}.ipynb")
    try:
        return find(name)
    except ClipnotesError:
        if here.is_file():
            return Notebook(here)
        raise


class Run:
    """Made by `start`. `out` is the folder of its files, `parameters` the values in use."""

    def __init__(self, notebook: Notebook, parameters: dict) -> None:
        self.notebook = notebook
        self.parameters = parameters
        self.short = short_names(parameters)  # {folder:PATH: the name that figures show}
        self.shown = in_names(lambda text: self.short.get(text, text), parameters)
        self.out = Path(parameters.get("out") or f"runs/{notebook.name}")
        self._rows = []  # pairs of a row and the id of the cell that recorded it
        self._figures = {}  # id: {"id", "alt", "caption", "exhibit", "key", "cell"}
        self._takeaways = []  # {"text", "key", "cell"}
        self._cell = None
        self._unsaved = False
        self.versions = versions()
        self._began = time.perf_counter()
        self._headless = os.environ.get(HELD) == str(self.out.absolute())  # who started this kernel holds the folder
        if not self._headless:
            _hold(self.out)
            run_folder.refuse_foreign(self.out, [RESULTS], "remove that file")
        self._remove_old_files()
        self._facts = {
            "notebook": notebook.name,
            "status": "running",
            "parameters": parameters,
            "versions": self.versions,
            "git_commit": git_commit(),
            "code_hash": notebook.code_hash,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        self._write_facts()
        self.flush()
        _follow_cells(self)

    def record(self, *, metric: str, value: float, **keys: Any) -> None:
        """Add one tidy row.

        metric: what was measured ("accuracy" in [0, 1], ...). value: a number. keys: any of dataset, model,
        method, loss, q, shots, noise_kind, noise_rate, seed, or further columns; one of these left out
        is taken from the scalar parameter of that name, else left empty.
        Rows reach results.csv when the cell ends, even if it fails.
        """
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ClipnotesError(f"The value of {metric} is {value!r}, but must be a single number.") from None
        scalars = {key: v for key, v in self.shown.items() if key in KEYS and not isinstance(v, list)}
        row = {"notebook": self.notebook.name} | scalars | keys | {"metric": metric, "value": number}
        self._rows.append((row, self._cell))
        self._unsaved = True
        if get_ipython() is None:  # no cell whose end could be awaited
            self.flush()

    def record_frame(self, frame: pd.DataFrame, *metrics: str, **keys: Any) -> None:
        """Add a tidy row for every row of a data frame and every one of its columns that `metrics` names, empty cells left out.

        Its other columns are keys, as `record` takes them; `keys` are those that all rows share.
        """
        lacking = [name for name in metrics if name not in frame]
        if lacking or not metrics:
            raise ClipnotesError(f"The metrics are {', '.join(map(repr, metrics)) or 'none'}, but must be columns of the "
                                 f"frame, which has {', '.join(map(str, frame))}.")
        twice = [name for name in frame if name in keys]
        if twice:
            raise ClipnotesError(f"The key {twice[0]!r} is a column of the frame and an argument: leave out one of them.")
        for row in frame.to_dict("records"):
            shared = keys | {name: value for name, value in row.items() if name not in metrics}
            for metric in metrics:
                if not pd.isna(row[metric]):
                    self.record(metric=metric, value=row[metric], **shared)

    @property
    def records(self) -> pd.DataFrame:
        """All rows so far as a data frame: the fixed columns first, then further keys as they came."""
        frame = pd.DataFrame([row for row, _ in self._rows])
        further = [column for column in frame.columns if column not in COLUMNS]
        return frame.reindex(columns=COLUMNS + further)

    def figure(self, id: str, figure: Figure, *, alt: str, data: pd.DataFrame, caption: str = "", table: bool = False,
               exhibit: str = "", key: bool = False) -> None:
        """Write figures/ID.png, .svg and .csv, show the picture with its alternative text, close the figure.

        id: lower-case letters, digits and underscores, once a run. alt: a sentence saying what is to be seen.
        data: data frame of the numbers drawn. caption: shown below. table: show the numbers as a table too.
        exhibit: the papers' exhibit that it redraws, such as "B, Fig. 4", under which the book's gallery has it.
        key: the one figure that stands for the notebook on the contents page.
        """
        self._check_figure(id, alt, data)
        png = save_figure(figure, self.out / "figures", id)
        with atomic_write(self.out / "figures" / f"{id}.csv") as stream:
            data.to_csv(stream, index=not isinstance(data.index, pd.RangeIndex), lineterminator="\n")
        facts = {"id": id, "alt": alt, "caption": caption, "exhibit": exhibit, "key": key}
        self._figures[id] = facts | {"cell": self._cell}
        self.flush()
        self._write_facts()
        plt.close(figure)
        show_figure(id, png, alt, caption)
        if table:
            show_table(data)

    def explore(self, id: str, draw: Callable[..., str], caption: str = "", size: tuple[float, float] = (7.0, 3.6),
                **controls: Control) -> None:
        """Show an explorer: `draw(figure, **values)` for every combination of the controls' values.

        controls: of `clipnotes.lab.explore`, by argument name. draw returns a sentence on what is to be seen.
        """
        self._check_id(id)
        explore(id, draw, controls, caption, size)

    def compare(self, paper: str, item: str, **filters: Any) -> None:
        """Show reference numbers for `item`, saying what each is, beside our matching records; empty columns are left out.

        paper, item, filters: see `clipnotes.exhibits.papers.compare`, which returns the frame.
        """
        frame = papers.compare(paper, self.records, item, **filters)
        frame = frame.loc[:, [frame[column].astype(bool).any() for column in frame]]
        show_table(frame, f"{item}: reference numbers{' and ours' * ('ours' in frame)}.", rows=60)

    def takeaway(self, text: str, key: bool = False) -> None:
        """Show one sentence drawn from the numbers above it, and keep it in run.json.

        Write it so that it holds whatever the numbers are: values, not verdicts that a rerun could belie.
        key: the one takeaway that stands for the notebook on the contents page.
        """
        self._takeaways.append({"text": text, "key": key, "cell": self._cell})
        self._write_facts()
        show(f"Takeaway: {text}", html=f"<p><strong>Takeaway.</strong> {escape(text)}</p>")

    def finish(self) -> None:
        """Mark the run complete and say where its results lie. Belongs into the last cell."""
        self.flush()
        seconds = round(time.perf_counter() - self._began, 1)
        self._facts |= {"status": "finished" if self._headless else "complete", "seconds": seconds}
        self._write_facts()
        # the seconds stay in run.json, so that the committed notebook does not change with every run
        show(f"{self.notebook.name} is complete. Records: {len(self._rows)}. Figures: {len(self._figures)}. "
             f"Results: {short_path(self.out)}")
        if get_ipython() is None:  # no cell that may be run again
            _release()

    def flush(self) -> None:
        """Write results.csv with all records so far."""
        with atomic_write(self.out / RESULTS) as stream:
            self.records.to_csv(stream, index=False, lineterminator="\n")
        self._unsaved = False
        if self._facts["status"] == "complete":  # a cell that is run again after the last one
            self._write_facts()

    def _check_id(self, id):
        if not re.fullmatch(run_folder.FIGURE_ID, id):
            raise ClipnotesError(f"The figure id is {id!r}; use lower-case letters, digits and underscores only.")
        if id in self._figures:
            raise ClipnotesError(f"The figure id {id!r} is taken in this run: choose another one.")

    def _check_figure(self, id, alt, data):
        self._check_id(id)
        if not isinstance(alt, str) or len(alt.split()) < 3:
            raise ClipnotesError(f"The alt text of figure {id} is {alt!r}: say in a sentence what the figure shows.")
        if not isinstance(data, pd.DataFrame):
            raise ClipnotesError(f"The data of figure {id} is a {type(data).__name__}: pass the drawn numbers as a data frame.")

    def _remove_old_files(self):
        """Remove what an earlier run left here, and nothing else that a chosen folder may hold."""
        for name in set(read_facts(self.out).get("files", {})) - {run_folder.NOTEBOOK}:  # a reader may be working in that
            (self.out / name).unlink(missing_ok=True)

    def _write_facts(self):
        names = [RESULTS, *(f"figures/{id}.{kind}" for id in self._figures for kind in run_folder.FIGURE_KINDS)]
        whole = run_folder.seal(self.out, names) if self._facts["status"] == "complete" else {}
        names += [run_folder.NOTEBOOK, run_folder.PAGE] * self._headless
        figures = [{key: value for key, value in f.items() if key != "cell"} for f in self._figures.values()]
        takeaways = [takeaway["text"] for takeaway in self._takeaways]
        self._facts |= {"files": dict.fromkeys(names) | whole, "figures": figures, "takeaways": takeaways,
                        "key_takeaway": next((t["text"] for t in self._takeaways if t["key"]), "")}
        write_facts(self.out, self._facts)

    def _cell_begins(self, info):
        """A cell that is run again replaces what it recorded and drew before, as in the reader's mind."""
        self._cell = getattr(info, "cell_id", None)  # IPython 7, which Colab keeps, names no cells
        if self._cell is not None:
            self._rows = [(row, cell) for row, cell in self._rows if cell != self._cell]
            self._figures = {id: f for id, f in self._figures.items() if f["cell"] != self._cell}
            self._takeaways = [t for t in self._takeaways if t["cell"] != self._cell]

    def _cell_ends(self, result):
        if self._unsaved:
            self.flush()


_followed = _held = None  # the kernel's last run, and the lock on its folder


def _hold(out):
    """Hold a folder for this kernel, instead of the one before; one that it holds already may be started in again."""
    global _held
    if _held is None or Path(_held.lock_file).parent.resolve() != out.resolve():
        lock = run_folder.take(out)
        _release()
        _held = lock


def _release():
    global _held
    if _held is not None:
        _held.release()
    _held = None


def _follow_cells(run):
    """Let `run`, and no earlier run of this kernel, hear when cells begin and end."""
    global _followed
    shell = get_ipython()
    if shell is None:
        return
    if _followed is not None:
        shell.events.unregister("pre_run_cell", _followed._cell_begins)
        shell.events.unregister("post_run_cell", _followed._cell_ends)
    shell.events.register("pre_run_cell", run._cell_begins)
    shell.events.register("post_run_cell", run._cell_ends)
    _followed = run

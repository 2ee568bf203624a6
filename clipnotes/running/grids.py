"""Grid files: one YAML file that stands for many runs of a notebook.

    title: Accuracy against the share of wrong labels
    notebook: "07"                                      # number or name; may be left out
    like: ptnl:fig1                                     # the exhibit that the runs fill; may be left out
    fixed: {closely: [digits], four: [], datasets: []}  # the same in every run
    axes:                                               # crossed: every combination is a run
      noise_rates: [[0.0], [0.5]]                       # the values, one a run
      seeds: {range: [1, 16, 1]}                        # start, stop (included), step; [1], [2], ... where a list is declared
    where: "not (noise_rates == [0.5] and seeds == [2])"  # combinations to keep
    runs: [{noise_rates: [0.125], seeds: [1]}]          # further runs, one by one
    gpu_minutes: 2                                      # of a run at paper scale, an estimate
    paper: {fixed: ..., axes: ..., where: ..., runs: ...}   # what replaces those above at paper scale, each as a whole
"""

import ast
import itertools
import math
from pathlib import Path

from clipnotes.errors import ClipnotesError, shown
from clipnotes.paths import notebooks_dir
from clipnotes.running.execute import overrides
from clipnotes.series.notebooks import Notebook
from clipnotes.series.parameters import check_together
from clipnotes.yaml_files import read_yaml

SCALES = ("pocket", "paper")
MOST = 100_000  # combinations of a grid, and values of one of its ranges
_SPACE = {"fixed": dict, "axes": dict, "where": str, "runs": list}
_KEYS = {"title": str, "notebook": (str, int), "like": str, "gpu_minutes": (int, float), "paper": dict} | _SPACE
_TYPES = {dict: "name: value pairs", list: "a list", str: "a text", (str, int): "a number or name", (int, float): "a number"}

_FILTER = (ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.cmpop, ast.Name,
           ast.Load, ast.Constant, ast.List, ast.Tuple)


def read_grid(path: str | Path, scale: str = "pocket") -> dict:
    """Return the content of the grid file `path`, or of notebooks/grids/PATH.yaml, as it holds at `scale`.

    ClipnotesError: no such file, no valid YAML, an unknown key, a value of another type, no axes and no runs.
    """
    folder = notebooks_dir() / "grids"
    file = Path(path) if Path(path).is_file() else folder / f"{path}.yaml"
    if not file.is_file():
        names = ", ".join(sorted(each.stem for each in folder.glob("*.yaml"))) or "none"
        raise ClipnotesError(f"There is no grid {str(path)!r}: give a YAML file, or one of {folder}: {names}.")
    grid = read_yaml(file, f"Grid {file.name}")
    _check_keys(file.name, grid, _KEYS)
    if scale not in SCALES:
        raise ClipnotesError(f"The scale is {scale!r}; allowed: {', '.join(SCALES)}.")
    paper = grid.pop("paper", None)
    if scale == "paper":
        if paper is None:
            raise ClipnotesError(f"Grid {file.name} has no part `paper`: add one, or run it at the pocket scale.")
        _check_keys(f"{file.name}, part paper,", paper, _SPACE)
        grid |= paper
    if not grid.get("axes") and not grid.get("runs"):
        raise ClipnotesError(f"Grid {file.name} has neither axes nor runs: add at least one of them.")
    if "where" in grid and not grid.get("axes"):
        raise ClipnotesError(f"Grid {file.name} has where: {shown(grid['where'])}, but no axes to choose "
                             "combinations of: add axes, or leave it out.")
    return grid


def _check_keys(name, content, allowed):
    if not isinstance(content, dict):
        raise ClipnotesError(f"Grid {name} holds {shown(content)}, but must hold the keys {', '.join(allowed)}.")
    for key, value in content.items():
        if key not in allowed:
            raise ClipnotesError(f"Grid {name} has the unknown key {shown(key)}; allowed: {', '.join(allowed)}.")
        if not isinstance(value, allowed[key]):
            raise ClipnotesError(f"Grid {name} has {key}: {shown(value)}, but {key} must be {_TYPES[allowed[key]]}.")


def expand(grid: dict, notebook: Notebook) -> list[dict]:
    """Return the parameters of every run of `grid` (see `read_grid`), checked for `notebook`: a list of dicts, each once.

    Crossed axes come first, the last axis fastest, then the explicit runs; file names are absolute.
    ClipnotesError: an unknown parameter, a bad value, a bad range or filter, nothing left.
    """
    fixed = overrides(notebook, grid.get("fixed", {}), together=False)
    axes = {name: _axis(notebook, name, values) for name, values in grid.get("axes", {}).items()}
    twice = sorted(set(fixed) & set(axes))
    if twice:
        raise ClipnotesError(f"Parameter {twice[0]} is fixed and an axis of the grid: leave out one of them.")
    count = math.prod(map(len, axes.values()))
    if count > MOST:
        sizes = " x ".join(f"{name} {len(values)}" for name, values in axes.items())
        raise ClipnotesError(f"The axes of the grid make {count:,} combinations ({sizes}); allowed: up to {MOST:,}. Split the "
                             "grid.")
    crossed = [fixed | dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())] if axes else []
    if "where" in grid:
        keep = _filter(grid["where"], notebook)
        crossed = [parameters for parameters in crossed if keep(parameters)]
    explicit = []
    for number, run in enumerate(grid.get("runs", []), 1):
        if not isinstance(run, dict):
            raise ClipnotesError(f"Run {number} of the grid is {shown(run)}, but must be name: value pairs.")
        explicit.append(fixed | overrides(notebook, run, together=False))
    runs = list({repr(sorted(run.items())): run for run in crossed + explicit}.values())
    _check_contexts(notebook, runs)
    if not runs:
        raise ClipnotesError(f"The filter {shown(grid['where'])} keeps no combination of the grid: widen it or the axes.")
    return runs


def _check_contexts(notebook, runs):
    """Check what hangs together with another parameter of its run, each combination of such values once."""
    names = {name for p in notebook.parameters if p.context for name in (p.name, p.context)}
    parts = [{name: value for name, value in run.items() if name in names} for run in runs]
    for part in {repr(part): part for part in parts}.values():
        check_together(notebook.parameters, part)


def _axis(notebook, name, values):
    """The checked values of an axis; each is checked once, not in every combination."""
    if isinstance(values, dict):
        is_list = name in {parameter.name for parameter in notebook.parameters if parameter.is_list}
        values = [[number] if is_list else number for number in _range(name, values)]
    if not isinstance(values, list) or not values:
        raise ClipnotesError(f"Axis {name} of the grid is {shown(values)}, but must be a list of values or "
                             "{range: [start, stop, step]}.")
    return [overrides(notebook, {name: value}, together=False)[name] for value in values]


def _range(name, values):
    numbers = values.get("range") if set(values) == {"range"} else None
    valid = isinstance(numbers, list) and len(numbers) == 3 and all(
        type(number) in (int, float) and abs(number) < 2**53 for number in numbers)  # neither infinite nor NaN
    if not valid or numbers[2] == 0 or (numbers[1] - numbers[0]) / numbers[2] < 0:
        raise ClipnotesError(f"Axis {name} of the grid is {shown(values)}, but a range must read {{range: [start, stop, "
                             "step]}, three numbers whose step leads from start to stop.")
    start, stop, step = numbers
    steps = (stop - start) / step + 1e-9
    if steps >= MOST:
        raise ClipnotesError(f"Axis {name} of the grid is {shown(values)}, which has {steps:,.0f} steps; allowed: up to "
                             f"{MOST:,}.")
    return [round(start + step * k, 12) for k in range(int(steps) + 1)]  # rounded: 0.3, not 0.30000000000000004


def _filter(text, notebook):
    """The filter of a grid as a function of a run's parameters; names mean effective values, defaults included.

    Only comparisons, and, or, not, in, literals, lists and parameters' names are let through: nothing can be called.
    """
    defaults = {parameter.name: parameter.default for parameter in notebook.parameters}
    subject = f"The filter {shown(text)} of the grid"
    try:
        tree = ast.parse(text.strip(), mode="eval")
        code = compile(tree, "where", "eval")
        nodes = list(ast.walk(tree))
        strange = [ast.unparse(node) for node in nodes if not isinstance(node, _FILTER)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two of nesting without end
        raise ClipnotesError(f"{subject} cannot be read: write, for example, loss == 'ce'.") from None
    if strange:
        raise ClipnotesError(f"{subject} holds {shown(strange[0])}; allowed are comparisons, and, or, not, in, numbers, texts, "
                             "lists and names of parameters.")
    for name in (node.id for node in nodes if isinstance(node, ast.Name)):
        if name not in defaults:
            raise ClipnotesError(f"{subject} names {shown(name)}; the notebook has {', '.join(defaults)}.")

    def keep(parameters):
        try:
            return bool(eval(code, {"__builtins__": {}}, defaults | parameters))
        except TypeError as error:
            raise ClipnotesError(f"{subject} compares what cannot be compared: {error}.") from None

    return keep

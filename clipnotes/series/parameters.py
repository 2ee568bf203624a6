"""The parameters of a notebook: read from its one tagged cell, checked before anything runs.

A line reads `name: type = value  # help [domain]`, and a list may go on over several lines, the help after its end. Papermill
understands name, type, value and help; the domain in brackets at the end of the help is ours, see `clipnotes.series.domains`.
"""

import ast
import difflib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from clipnotes.errors import ClipnotesError, shown
from clipnotes.folder_names import absolute_name
from clipnotes.paths import data_root
from clipnotes.series.domains import LARGEST, context_of, repeated, violated
from clipnotes.text_files import read_json
from clipnotes.yaml_files import load_yaml, read_yaml

_SCALARS = {"int": int, "float": float, "str": str, "bool": bool}
TYPES = [*_SCALARS, *(f"list[{name}]" for name in _SCALARS)]

_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LINE = re.compile(r"(?P<name>\w+) *: *(?P<type>[^=#]+?) *= *(?P<default>[^=#]+?) *# *(?P<help>[^=#]+)")


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell; `default` is a Python value, `domain` the text in brackets without `or empty`."""

    name: str
    type: str
    default: object
    help: str
    domain: str = ""
    may_be_empty: bool = False

    @property
    def is_list(self) -> bool:
        return self.type.startswith("list[")

    @property
    def context(self) -> str | None:
        """The name of the parameter that the domain depends on."""
        return context_of(self.domain)

    @property
    def shown_domain(self) -> str:
        """The domain as its line has it, in brackets; empty where there is none."""
        text = f"{self.domain} {'or empty' * self.may_be_empty}".strip()
        return f"[{text}]" if text else ""

    @property
    def element(self) -> str:
        """The scalar type's name: "int" for both `int` and `list[int]`."""
        return self.type.removeprefix("list[").removesuffix("]")


def read_parameters(path: str | Path) -> list[Parameter]:
    """Return the parameters of the notebook at `path`, in the order of its cell.

    Only lines that papermill understands are taken: it drops others without a word. Papermill itself is not asked, since
    importing it takes seconds, which every notebook would pay when it starts.
    ClipnotesError: not one parameters cell, or a line without type, help or valid default.
    """
    path = Path(path)
    cell = _parameters_cell(path)
    parameters = []
    for statement in _statements(path, cell):
        lines = cell.splitlines()[statement.lineno - 1:statement.end_lineno]
        line = _LINE.fullmatch("".join(part.strip() for part in lines))  # as papermill joins them
        if line is None:
            raise ClipnotesError(f"Parameter line {ast.unparse(statement)!r} of {path.name} cannot be read: write `name: type "
                                 "= value  # help`, with no other equals sign, no # inside a string and the help after the "
                                 "value's end.")
        parameters.append(_parameter(path, **line.groupdict()))
    for parameter in parameters:
        if parameter.domain not in ("dataset", "correction") and not parameter.context:  # these need slow imports
            _alone(parameter, parameter.default)
    return parameters


def _statements(path, cell):
    try:
        return ast.parse(cell).body
    except (SyntaxError, ValueError) as error:
        raise ClipnotesError(f"The parameters of {path.name} are no valid Python: {error}.") from None


def read_cells(path: Path) -> dict:
    """The content of a notebook file, whose cells have a type, tags and one text as source.

    ClipnotesError: it cannot be read, is no JSON, or has not the form of a notebook.
    """
    content = read_json(path, f"Notebook {path.name}")
    try:
        metadata = dict(content["metadata"])
        cells = [{"cell_type": str(cell["cell_type"]), "tags": list(cell["metadata"].get("tags", [])),
                  "source": "".join(cell["source"])} for cell in content["cells"]]
        return {"metadata": metadata, "cells": cells}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ClipnotesError(f"Notebook {path.name} in {path.parent} has not the form of a notebook, a JSON object with "
                             "metadata and cells: restore it.") from None


def _parameters_cell(path):
    tagged = [cell["source"] for cell in read_cells(path)["cells"] if "parameters" in cell["tags"]]
    if len(tagged) != 1:
        raise ClipnotesError(f"{path.name} has {len(tagged)} cells tagged 'parameters', but needs one.")
    return tagged[0]


def _parameter(path, name, type, default, help):
    if type not in TYPES:
        raise ClipnotesError(f"Parameter {name} of {path.name} has type {type!r}; allowed: {', '.join(TYPES)}.")
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):
        raise ClipnotesError(f"Parameter {name} of {path.name} is {default}, but must be a literal.") from None
    text, domain = re.fullmatch(r"(.*?)\s*(?:\[([^\[\]]*)\])?", help).groups()
    domain, empty = re.fullmatch(r"\s*(.*?)\s*(\bor empty)?\s*", domain or "").groups()
    value = data_root(value) if name == "data_root" else value
    return Parameter(name, type, value, text, domain, bool(empty))


def check(parameters: list[Parameter], values: dict, together: bool = True) -> dict:
    """Return `values` with ints made floats where a float is declared and ~ made the home folder; the rest must fit as it is.

    together: check also what hangs together with the value of another parameter, its default where `values` has none.
    ClipnotesError: a name that is not declared, a value of another type, a value outside the domain.
    """
    declared = {parameter.name: parameter for parameter in parameters}
    for name in values:
        if name not in declared:
            raise ClipnotesError(_unknown(name, declared))
    checked = {name: _alone(declared[name], value) for name, value in values.items()}
    if together:
        check_together(parameters, checked)
    return checked


def check_together(parameters: list[Parameter], values: dict) -> None:
    """Check those of the values, right by themselves, whose domain depends on another parameter."""
    effective = {parameter.name: parameter.default for parameter in parameters} | values
    for parameter in parameters:
        context = parameter.context
        if context and context not in effective:
            raise ClipnotesError(f"Parameter {parameter.name} declares the domain [{parameter.domain}], but there is no "
                                 f"parameter {context}.")
        if context and (parameter.name in values or context in values):
            value = effective[parameter.name]
            for element in value if parameter.is_list else [value]:
                _within(parameter, element, value, effective[context])


def parse(parameters: list[Parameter], texts: dict[str, str]) -> dict:
    """Turn command-line texts {name: text} into checked values: a str is taken as written, others as YAML."""
    types = {parameter.name: parameter.type for parameter in parameters}
    values = {}
    for name, text in texts.items():
        try:
            values[name] = text if types.get(name, "str") == "str" else load_yaml(text)
        except ClipnotesError:
            raise ClipnotesError(f"Parameter {name} is {shown(text)}, which is not a valid {types[name]}.") from None
    return check(parameters, values)


def _unknown(name, declared):
    close = difflib.get_close_matches(str(name), declared, n=1)
    guess = f"did you mean {close[0]!r}? The" if close else "the"
    separator = "; " if close else ": "
    return f"Unknown parameter {shown(name)}{separator}{guess} notebook has {', '.join(declared) or 'none'}."


def _alone(parameter, value):
    """The value, checked for all that concerns no other parameter."""
    if not parameter.is_list:
        return _element(parameter, value)
    if not isinstance(value, list | tuple):
        raise _wrong_type(parameter, value)
    if not value and not parameter.may_be_empty:
        raise ClipnotesError(f"Parameter {parameter.name} is [], but needs at least one value{_example(parameter)}.")
    elements = [_element(parameter, element, whole=value) for element in value]
    if twice := repeated([absolute_name(element) for element in elements]):
        raise ClipnotesError(f"Parameter {parameter.name} is {shown(value)}, but has {twice} more than once: keep one of them.")
    return elements


def _element(parameter, value, whole=None):
    wanted = _SCALARS[parameter.element]
    quoted = value if whole is None else whole
    if wanted is float and type(value) is int and abs(value) < 2**1000:
        value = float(value)
    # bool is a subclass of int, so isinstance would let True pass as 1
    if type(value) is not wanted:
        raise _wrong_type(parameter, quoted)
    if wanted is float and not math.isfinite(value):
        raise _outside(parameter, value, quoted, "finite numbers")
    if wanted is int and abs(value) > LARGEST:
        raise _outside(parameter, value, quoted, f"whole numbers up to {LARGEST}")
    if wanted is str and _UNWRITABLE.search(value):
        raise _outside(parameter, value, quoted, "one line of text in UTF-8")
    if wanted is str and value.startswith("~"):
        value = os.path.expanduser(value)  # a shell does so only at the start of a word, not after the = of -p
    if not parameter.context:
        _within(parameter, value, quoted)
    return value


def _within(parameter, value, quoted, folder=""):
    allowed = parameter.domain and violated(parameter.name, parameter.domain, value, folder)
    if allowed:
        raise _outside(parameter, value, quoted, allowed)


def _outside(parameter, value, quoted, allowed):
    element = f" with the element {shown(value)}" if parameter.is_list else ""
    return ClipnotesError(f"Parameter {parameter.name} is {shown(quoted)}{element}; allowed: {allowed}.")


def _wrong_type(parameter, value):
    subject = f"Parameter {parameter.name} is {shown(value)} ({type(value).__name__})"
    return ClipnotesError(f"{subject}, but must be {parameter.type}{_example(parameter)}.")


def _example(parameter):
    return f", for example {parameter.default!r}" if parameter.default not in ("", []) else ""


def read_values(path: str | Path) -> dict:
    """Return the parameters {name: value} of a YAML file, as `papermill -f` takes it; nothing is checked but the form.

    ClipnotesError: no such file, no valid YAML, or something else than `name: value` lines.
    """
    path = Path(path)
    if not path.is_file():
        raise ClipnotesError(f"There is no parameter file {str(path)!r}: give a YAML file of lines `name: value`.")
    content = read_yaml(path, f"Parameter file {path.name}")
    if not isinstance(content or {}, dict):
        raise ClipnotesError(f"Parameter file {path.name} holds a {type(content).__name__}, but must hold lines `name: value`.")
    return content or {}

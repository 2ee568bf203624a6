"""The parameters of a notebook: read from its one tagged cell, checked before anything runs.

A line reads `name: type = value  # help [domain]`. Papermill understands name, type, value and help; the
domain in brackets at the end of the help is ours:

    [1..64]  [0..1]  [0..]     a range, ends included; either end may be missing
    [ce | gce]                 choices
    [dataset]                  a name that clipnotes.data.list_datasets() knows, a manifest's file name, or folder:PATH
    [file]                     an existing file, or the empty string for none
    [path]                     the same, or an existing folder

For a list the domain holds for every element.
"""

import ast
import difflib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from clipnotes.errors import ClipnotesError
from clipnotes.folder_names import is_folder
from clipnotes.yaml_files import load_yaml, read_yaml

_SCALARS = {"int": int, "float": float, "str": str, "bool": bool}
TYPES = [*_SCALARS, *(f"list[{name}]" for name in _SCALARS)]


_LINE = re.compile(r"(?P<name>\w+) *: *(?P<type>[^=#]+?) *= *(?P<default>[^=#]+?) *# *(?P<help>[^=#]+)")


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell; `default` is a Python value, `domain` the text in brackets."""

    name: str
    type: str
    default: object
    help: str
    domain: str = ""

    @property
    def is_list(self):
        return self.type.startswith("list[")

    @property
    def element(self):
        """The scalar type's name: "int" for both `int` and `list[int]`."""
        return self.type.removeprefix("list[").removesuffix("]")


def read_parameters(path):
    """Return the parameters of the notebook at `path`, in the order of its cell.

    Only lines that papermill understands are taken: it drops others without a word. Papermill itself is not asked, since
    importing it takes seconds, which every notebook would pay when it starts.
    ClipnotesError: not one parameters cell, or a line without type, help or valid default.
    """
    path = Path(path)
    cell = _parameters_cell(path)
    parameters = []
    for statement in ast.parse(cell).body:
        line = _LINE.fullmatch(cell.splitlines()[statement.lineno - 1])
        if line is None or statement.end_lineno != statement.lineno:
            raise ClipnotesError(
                f"Parameter line {ast.unparse(statement)!r} of {path.name} cannot be read: write `name: type = value  # help` "
                f"on one line, with no other equals sign and no # inside a string."
            )
        parameters.append(_parameter(path, **line.groupdict()))
    check(parameters, {p.name: p.default for p in parameters if p.domain != "dataset"})
    return parameters


def _parameters_cell(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ClipnotesError(f"{path.name} has {len(tagged)} cells tagged 'parameters', but needs one.")
    return tagged[0]


def _parameter(path, name, type, default, help):
    if type not in TYPES:
        raise ClipnotesError(
            f"Parameter {name} of {path.name} has type {type!r}; allowed: {', '.join(TYPES)}."
        )
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):
        raise ClipnotesError(
            f"Parameter {name} of {path.name} is {default}, but must be a literal."
        ) from None
    text, domain = re.fullmatch(r"(.*?)\s*(?:\[([^\[\]]*)\])?", help).groups()
    return Parameter(name, type, value, text, (domain or "").strip())


def check(parameters, values):
    """Return `values` (a dict) with ints made floats where a float is declared; the rest must fit as it is.

    ClipnotesError: a name that is not declared, a value of another type, a value outside the domain.
    """
    declared = {parameter.name: parameter for parameter in parameters}
    for name in values:
        if name not in declared:
            raise ClipnotesError(_unknown(name, declared))
    return {name: _checked(declared[name], value) for name, value in values.items()}


def parse(parameters, texts):
    """Turn command-line texts {name: text} into checked values: a str is taken as written, others as YAML."""
    types = {parameter.name: parameter.type for parameter in parameters}
    values = {}
    for name, text in texts.items():
        try:
            values[name] = text if types.get(name, "str") == "str" else load_yaml(text)
        except ClipnotesError:
            raise ClipnotesError(
                f"Parameter {name} is {text!r}, which is not a valid {types[name]}."
            ) from None
    return check(parameters, values)


def _unknown(name, declared):
    close = difflib.get_close_matches(name, declared, n=1)
    guess = f"did you mean {close[0]!r}? The" if close else "the"
    separator = "; " if close else ": "
    return f"Unknown parameter {name!r}{separator}{guess} notebook has {', '.join(declared) or 'none'}."


def _checked(parameter, value):
    if not parameter.is_list:
        return _element(parameter, value)
    if not isinstance(value, list | tuple):
        raise _wrong_type(parameter, value)
    return [_element(parameter, element, whole=value) for element in value]


def _element(parameter, value, whole=None):
    wanted = _SCALARS[parameter.element]
    shown = value if whole is None else whole
    if wanted is float and type(value) is int:
        value = float(value)
    # bool is a subclass of int, so isinstance would let True pass as 1
    if type(value) is not wanted:
        raise _wrong_type(parameter, shown)
    allowed = None if parameter.domain == "" else _violated(parameter, value)
    if wanted is float and not math.isfinite(value):
        allowed = "finite numbers"
    if allowed:
        element = "" if whole is None else f" with the element {value!r}"
        raise ClipnotesError(f"Parameter {parameter.name} is {shown!r}{element}; allowed: {allowed}.")
    return value


def _wrong_type(parameter, value):
    example = f", for example {parameter.default!r}" if parameter.default not in ("", []) else ""
    subject = f"Parameter {parameter.name} is {value!r} ({type(value).__name__})"
    return ClipnotesError(f"{subject}, but must be {parameter.type}{example}.")


def _violated(parameter, value):
    """Return what the domain allows when `value` is outside it, else None."""
    domain = parameter.domain
    if domain == "dataset":
        if is_folder(value):
            from clipnotes.data import load_manifest

            load_manifest(value)  # says itself what is wrong with the folder
            return None
        from clipnotes.data import list_datasets

        names = list_datasets()
        known = value in names or (value.endswith(".yaml") and Path(value).is_file())
        return None if known else f"the data sets {', '.join(names)}, the file of a manifest (.yaml), or folder:PATH of images"
    if domain in ("file", "path"):
        exists = value == "" or Path(value).is_file() or domain == "path" and Path(value).is_dir()
        what = "file" if domain == "file" else "file or folder"
        return None if exists else f"the path of an existing {what}, or an empty string for none"
    if "|" in domain:
        choices = [choice.strip() for choice in domain.split("|")]
        return None if str(value) in choices else ", ".join(choices)
    if ".." in domain:
        return _outside_range(domain, value)
    raise ClipnotesError(
        f"Parameter {parameter.name} declares the domain [{domain}]; "
        f"known are [low..high], [one | two], [dataset], [file], [path]."
    )


def _outside_range(domain, value):
    low, _, high = (end.strip() for end in domain.partition(".."))
    inside = (not low or value >= float(low)) and (not high or value <= float(high))
    ends = f"from {low}" * bool(low) + " " * bool(low and high) + f"up to {high}" * bool(high)
    return None if inside else f"values {ends}"


def read_values(path):
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

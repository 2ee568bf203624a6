"""The one way to check what comes in: features, labels, class names, numbers, choices.

Whatever does not fit is refused with one `ClipnotesError` sentence that names it, its value and what is allowed:

    x = feature_matrix(x, "x", width=clip.dim)       # float [N, d] or [V, N, d]; lists, numpy, pandas and torch alike
    y = class_labels(y, "y", x.shape[-2], n_classes)  # int64 [N]
    names = class_names(names)                       # list of str
    shots = Whole(1)(shots, "shots")                 # a rule is called with (value, name) and hands the value back
    rate = Number(0, 1)(rate, "noise rate")
    OneOf("ce", "gce", "mae")(loss, "loss")

A rule can also stand for later, in a table such as `{"epochs": Whole(1), "lr": Number(0)}`: see `check_all`.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from clipnotes.errors import ClipnotesError, shown

if TYPE_CHECKING:
    import torch

NUMBERED = "give the number of each one's class, from 0 in the order of the class names"
MOST_CLASSES = 10**6  # a label beyond this, where nothing says how many classes there are, is no class


# --- features, labels, class names --------------------------------------------------------------------------------


def feature_matrix(x: Any, name: str = "x", width: int | None = None, views: bool = True) -> torch.Tensor:
    """Features [N, d], or of V views [V, N, d], as a tensor of the values given: nothing is averaged or made unit.

    x: a tensor, array, data frame or nested list. float64 tensors and arrays stay so, all else becomes float32.
    width: the d that is expected, if any. views: whether views [V, N, d] are taken.
    Raises ClipnotesError for what is not numbers, other shapes, no rows, NaN or infinite values, another width.
    """
    import torch

    values = as_tensor(x, name)
    if values.dtype == torch.bool or values.is_complex():
        raise ClipnotesError(f"{name} holds values of type {type_name(values)}; features are real numbers.")
    values = values if str(getattr(x, "dtype", "")).endswith("float64") else values.float()
    if values.ndim not in (2, 3)[:1 + views]:
        also = " or, with V views, [V, N, d]" if views else ""
        raise ClipnotesError(f"{name} has shape {list(values.shape)}, but must be [N, d]{also}.")
    if not values.numel():
        raise ClipnotesError(f"{name} has shape {list(values.shape)}, so no features; give at least one row.")
    if not torch.isfinite(values).all():
        rows = (~torch.isfinite(values)).any(-1).sum().item()
        raise ClipnotesError(f"{rows} rows of {name} hold NaN or infinite values; encode them again.")
    if width is not None and values.shape[-1] != width:
        raise ClipnotesError(f"{name} has features of size d = {values.shape[-1]}, but d = {width} is needed; "
                             "both must come from one model.")
    return values


def class_labels(y: Any, name: str = "y", n: int | None = None, n_classes: int | None = None,
                 of: str = "rows of features") -> torch.Tensor:
    """Labels int64 [N], each in 0 .. n_classes - 1, from a tensor, array, series or list of whole numbers.

    n: how many there must be, one for each of the n `of`; 0 is allowed. Without it there must be one at least.
    Raises ClipnotesError for values of another type than whole numbers (fractions, bools, text; also 1.0, since a label
    that went through floats may have lost its value), for another shape or length and for labels out of range.
    """
    import torch

    values = as_tensor(y, name, NUMBERED)
    if values.numel() and (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool):
        raise ClipnotesError(f"{name} holds values of type {type_name(values)}; labels must be whole numbers (integers).")
    values = values.long()
    if n is not None and values.shape != (n,):
        raise ClipnotesError(f"{name} has shape {list(values.shape)}, but there are {n} {of}; give one label each.")
    if n is None and (values.ndim != 1 or not len(values)):
        raise ClipnotesError(f"{name} has shape {list(values.shape)}; give labels [N], one or more.")
    if not values.numel():
        return values
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= (n_classes or MOST_CLASSES):
        allowed = (f"0 to {n_classes - 1}, as there are {n_classes} classes" if n_classes else
                   "0 or more" if low < 0 else f"below {MOST_CLASSES:,}")
        raise ClipnotesError(f"Label {low if low < 0 else high} in {name} is out of range; labels must be {allowed}.")
    return values


def class_names(names: Any, name: str = "classnames") -> list[str]:
    """Class names, in the order of labels, as a list of strings.

    Raises ClipnotesError for a single string, no names, and names that are blank or not text. Two classes may bear one
    name (some of ImageNet's do); whoever needs them distinct says so.
    """
    if isinstance(names, str | bytes) or not hasattr(names, "__iter__"):
        raise ClipnotesError(f"{name} = {shown(names)} is no list of names; give one name a class, such as ['cat', 'dog'].")
    names = [str(each) if isinstance(each, str) else each for each in names]  # numpy's strings become Python's
    if not names:
        raise ClipnotesError(f"{name} is empty; give one name a class.")
    for place, each in enumerate(names):
        if not isinstance(each, str) or not each.strip():
            raise ClipnotesError(f"{name}[{place}] = {shown(each)} is no class name; give text that is not blank.")
    return names


def as_tensor(values: Any, name: str, instead: str = "give a tensor, an array or lists of numbers") -> torch.Tensor:
    """A tensor, array, series, data frame or nested list as a tensor, of Python's numbers too, as pandas' nullable types hold.

    ClipnotesError where it holds no numbers, or masked ones; instead: what to do then, for its sentence.
    """
    import numpy as np
    import torch

    if isinstance(values, torch.Tensor):
        return values.detach()
    try:
        array = np.asarray(values)
        array = np.array(array.tolist()) if array.dtype == object else array
    except (TypeError, ValueError):  # rows of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "biufc":
        raise ClipnotesError(f"{name} = {shown(values)} is no array of numbers; {instead}.")
    if np.ma.is_masked(values):
        raise ClipnotesError(f"{name} = {shown(values)} has masked values; leave out their rows.")
    exact = {"u": np.int64, "f": np.float64}  # in place of types that torch does not compute with
    odd = array.dtype.kind == "u" and array.dtype.itemsize > 1 or array.dtype.itemsize > 8 and array.dtype.kind == "f"
    dtype = exact[array.dtype.kind] if odd else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))  # copied only where torch could not share it


def type_name(values: torch.Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


# --- single values ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`, each left out where the range is open there; a bool is none, nor is text.

    optional: whether None may stand in its place. Called with (value, name); returns the value as Python's own float
    (int, for whole numbers).
    """
    low: float = -math.inf
    high: float = math.inf
    above: bool = False  # low itself is left out
    below: bool = False  # high itself is left out
    optional: bool = False

    kind, number, python = "number", Real, float  # no annotations: not fields

    def __call__(self, value: Any, name: str) -> Any:
        if value is None and self.optional:
            return None
        if not isinstance(value, self.number) or isinstance(value, bool):
            raise ClipnotesError(f"{name} = {shown(value)} is no {self.kind}; it must be {self.allowed}.")
        inside = (self.low < value if self.above else self.low <= value) and \
                 (value < self.high if self.below else value <= self.high)
        if not inside or not math.isfinite(value):
            raise ClipnotesError(f"{name} = {shown(value)} is out of range; it must be {self.allowed}.")
        return self.python(value)

    @property
    def allowed(self) -> str:
        low = math.isfinite(self.low) and f"{'above' if self.above else 'from'} {self.low:g}"
        high = math.isfinite(self.high) and f"{'below' if self.below else 'to'} {self.high:g}"
        if low and high:
            range = f" {low} {'to ' * self.below}{high}" if not self.above else f" {low} and {'up ' * (not self.below)}{high}"
        elif low:
            range = f" {low}" if self.above else f" of {self.low:g} or more"
        else:
            range = f" of at most {self.high:g}" if high else ""
        return f"a {'finite ' * (not range)}{self.kind}{range}{' or None' * self.optional}"


@dataclass(frozen=True)
class Whole(Number):
    """A whole number; 2.0 is none."""
    kind, number, python = "whole number", Integral, int


SEED = Whole(0, 2**63 - 1)


class OneOf:
    """One of the choices given, of any type."""

    def __init__(self, *choices: Any) -> None:
        self.choices = choices

    def __call__(self, value: Any, name: str) -> Any:
        if not any(same(value, choice) for choice in self.choices):
            names = [repr(choice) for choice in self.choices]
            allowed = " or ".join([", ".join(names[:-1]), names[-1]] if names[:-1] else names)
            raise ClipnotesError(f"{name} = {shown(value)} is unknown; choose {allowed}.")
        return value


def same(value: Any, choice: Any) -> bool:
    """Whether they are equal and of one kind, so that neither 1 is taken for True nor 1.0 for 1."""
    return isinstance(value, type(choice)) and isinstance(value, bool) == isinstance(choice, bool) and value == choice


class Instance:
    """A value of one of the types given, such as bool or str; what: those types in words."""

    def __init__(self, *types: type, what: str) -> None:
        self.types, self.what = types, what

    def __call__(self, value: Any, name: str) -> Any:
        if not isinstance(value, self.types):
            raise ClipnotesError(f"{name} = {shown(value)} is no {self.what}; give one.")
        return value


FLAG = OneOf(True, False)
TEXT = Instance(str, what="text")


class Several:
    """A list or tuple of values that each follow a rule, `n` of them, or at least one where n is None."""

    def __init__(self, rule: Any, n: int | None = None) -> None:
        self.rule, self.n = rule, n

    def __call__(self, values: Any, name: str) -> tuple:
        values = values.tolist() if hasattr(values, "tolist") else values  # arrays and tensors
        if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != (self.n or max(1, len(values))):
            raise ClipnotesError(f"{name} = {shown(values)} does not fit; give a list of {self.n or 'one or more'} values.")
        return tuple(self.rule(value, f"{name}[{i}]") for i, value in enumerate(values))


def check_all(rules: dict[str, Any], values: Any) -> None:
    """Call every rule of {name: rule} on the attribute of that name of `values`."""
    for name, rule in rules.items():
        rule(getattr(values, name), name)

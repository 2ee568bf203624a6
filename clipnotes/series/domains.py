"""What a parameter's value may be beyond its type: the domains in brackets at the end of a parameter line.

    [1..64]  [0..1]  [0..]     a range, ends included; either end may be missing
    [ce | gce]                 choices
    [dataset]                  a name that clipnotes.data.list_datasets() knows, a manifest's file name, or folder:PATH
    [dataset in NAME]          the same; where the parameter NAME names a folder, a feature file there, without its suffix
    [correction]               corrections of notebook 03, joined by plus signs
    [file]                     an existing file, or the empty string for none
    [folder]                   an existing folder, or the empty string for none
    [path]                     an existing file or folder, or the empty string for none

A domain of a list holds for every element, and a list holds at least one value, each once; `or empty` at the domain's end
lets it be empty: [dataset or empty], [or empty].
"""

import os
import re
from pathlib import Path

from clipnotes.errors import ClipnotesError, shown
from clipnotes.folder_names import is_folder

LARGEST = 2**31 - 1  # of whole numbers: what every library takes as a seed
FEATURE_SUFFIXES = (".npz", ".safetensors")
_PATHS = {"file": (os.path.isfile, "file"), "folder": (os.path.isdir, "folder"), "path": (os.path.exists, "file or folder")}
_IN = re.compile(r"dataset in (\w+)")


def context_of(domain: str) -> str | None:
    """The name of the parameter on whose value the domain depends."""
    found = _IN.fullmatch(domain)
    return found and found[1]


def violated(name: str, domain: str, value: object, folder: str = "") -> str | None:
    """What the domain of the parameter `name` allows where one value is outside it, else None.

    folder: the value of the parameter that `context_of` names. ClipnotesError: the domain itself cannot be read, or an image
    folder says by itself what is wrong with it.
    """
    if domain == "dataset" or context_of(domain):
        return _outside_folder(value, folder) if folder else _no_dataset(value)
    if domain == "correction":
        return _no_correction(value)
    if domain in _PATHS:
        exists, what = _PATHS[domain]
        return None if value == "" or exists(value) else f"the path of an existing {what}, or an empty string for none"
    if "|" in domain:
        choices = [choice.strip() for choice in domain.split("|")]
        return None if str(value) in choices else ", ".join(choices)
    if ".." in domain:
        return _outside_range(domain, value)
    raise ClipnotesError(f"Parameter {name} declares the domain [{domain}]; known are [low..high], [one | two], [dataset], "
                         "[dataset in NAME], [correction], [file], [folder], [path], each with `or empty` for a list.")


def _no_dataset(value):
    from clipnotes.data import list_datasets

    if is_folder(value):
        from clipnotes.data import load_task

        load_task(value)  # says itself what is wrong with the folder
        return None
    names = list_datasets()
    known = value in names or (value.endswith(".yaml") and os.path.isfile(value))
    return None if known else f"the data sets {', '.join(names)}, the file of a manifest (.yaml), or folder:PATH of images"


def _outside_folder(value, folder):
    there = sorted({path.stem for path in feature_files(folder)})
    return None if value in there else f"the feature files in {folder}: {', '.join(there) or 'there are none'}"


def feature_files(folder: str | Path) -> list[Path]:
    """The files in a folder that may hold features."""
    return [path for path in Path(folder).iterdir() if path.suffix in FEATURE_SUFFIXES]


def _no_correction(value):
    from clipnotes.analysis.corrected import IN_ENCODER, ON_FEATURES, parts_of

    try:
        parts_of(value)
    except ClipnotesError:
        return (f"parts joined by +, at most one of {', '.join(IN_ENCODER)} and that first, then any of "
                f"{', '.join(ON_FEATURES)}")
    return None


def _outside_range(domain, value):
    low, _, high = (end.strip() for end in domain.partition(".."))
    inside = (not low or value >= float(low)) and (not high or value <= float(high))
    ends = f"from {low}" * bool(low) + " " * bool(low and high) + f"up to {high}" * bool(high)
    return None if inside else f"values {ends}"


def repeated(values: list) -> str | None:
    """The first value of a list that stands there twice, as a sentence quotes it, else None."""
    seen = set()
    for value in values:
        if value in seen:
            return shown(value)
        seen.add(value)
    return None

"""Names of data sets that are folders of one's own images: `folder:PATH`, or a short name where figures show it."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipnotes.paths import manifests_dir

FOLDER = "folder:"


class FolderName(str):
    """A short name, as figures show it, that knows the whole `folder:PATH`, as which data sets load."""
    __slots__ = ("full",)


def is_folder(name: object) -> bool:
    return isinstance(name, str) and name.startswith(FOLDER)


def folder_of(name: str) -> Path:
    """The absolute path in a `folder:PATH`; ~ is the home folder."""
    return Path(os.path.abspath(os.path.expanduser(name.removeprefix(FOLDER))))


def absolute_name(name: str) -> str:
    """`folder:PATH` with an absolute path, which holds in any current folder; other names as they are."""
    return f"{FOLDER}{folder_of(name)}" if is_folder(name) else name


def full_name(name: str) -> str:
    """The `folder:PATH` of a short name; other names as they are."""
    return name.full if isinstance(name, FolderName) else name


def short_names(values: Any) -> dict[str, FolderName]:
    """{`folder:PATH`: its short name} of all image folders in a value, a list or a dict of values.

    A short name is the last part of the path; where a shipped data set or another of these folders has that name, parts of
    the path before it are added.
    """
    found = {}  # short -> absolute `folder:PATH`

    def shorten(name):
        if is_folder(name):
            parts, full = folder_of(name).parts, absolute_name(name)
            shorts = ("/".join(parts[-k:]) for k in range(1, len(parts) + 1))
            short = FolderName(next(short for short in shorts if not (manifests_dir() / f"{short}.yaml").exists()
                                    and found.setdefault(short, full) == full))
            short.full, names[name] = full, short

    names = {}
    in_names(shorten, values)
    return names


def in_names(change: Callable[[str], Any], value: Any) -> Any:
    """`value` with `change` applied to all texts: itself, those of a list or of a dict."""
    if isinstance(value, list):
        return [in_names(change, each) for each in value]
    if isinstance(value, dict):
        return {key: in_names(change, each) for key, each in value.items()}
    return change(value) if isinstance(value, str) else value

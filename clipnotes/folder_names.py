"""Names of data sets that are folders of one's own images: `folder:PATH`, or a short name where figures show it."""

import os
from pathlib import Path

from clipnotes.paths import manifests_dir

FOLDER = "folder:"
_FULL = {}  # short name -> absolute `folder:PATH`; filled by `short_name`, for this process


def is_folder(name):
    return isinstance(name, str) and name.startswith(FOLDER)


def folder_of(name):
    """The absolute path in a `folder:PATH`; ~ is the home folder."""
    return Path(os.path.abspath(os.path.expanduser(name.removeprefix(FOLDER))))


def absolute_name(name):
    """`folder:PATH` with an absolute path, which holds in any current folder; other names as they are."""
    return f"{FOLDER}{folder_of(name)}" if is_folder(name) else name


def short_name(name):
    """The last part of a `folder:PATH`, by which this process knows the folder from now on; other names as they are.

    Where a shipped data set or another folder has that name, parts of the path before it are added.
    """
    if not is_folder(name):
        return name
    full, parts = absolute_name(name), folder_of(name).parts
    for k in range(1, len(parts) + 1):
        short = "/".join(parts[-k:])
        if not (manifests_dir() / f"{short}.yaml").exists() and _FULL.setdefault(short, full) == full:
            return short
    return full


def full_name(name):
    """The `folder:PATH` that a short name of this process stands for; other names as they are."""
    return _FULL.get(name, name)


def in_names(change, value):
    """`value` with `change`, one of the functions above, applied to all texts: itself, those of a list or of a dict."""
    if isinstance(value, list):
        return [in_names(change, each) for each in value]
    if isinstance(value, dict):
        return {key: in_names(change, each) for key, each in value.items()}
    return change(value) if isinstance(value, str) else value

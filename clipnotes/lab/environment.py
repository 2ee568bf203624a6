"""Is everything here that the series needs? A table for notebook 00 and for bug reports."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator

import pandas as pd
import torch

from clipnotes.backbone.clip import POCKET
from clipnotes.data.cache import cache_dir
from clipnotes.lab.provenance import LIBRARIES
from clipnotes.pocket.model import WEIGHTS

TOOLS = ["papermill", "jupyterlab"]


def environment_check() -> pd.DataFrame:
    """A DataFrame with one row a thing needed: what was found, what is needed, whether it is fine ("yes" or advice)."""
    rows = [*libraries(), *pocket_weights(), *cache(), gpu()]
    return pd.DataFrame([{"what": what, "found": found, "needed": needed, "fine": "yes" if fine else advice}
                         for what, found, needed, fine, advice in rows])


def libraries() -> Iterator[tuple]:
    yield "Python", platform.python_version(), "3.11 or newer", sys.version_info >= (3, 11), "install a newer Python"
    for library in [*LIBRARIES, *TOOLS]:
        try:
            version = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        yield library, version or "missing", "any", bool(version), "run `make install`"


def pocket_weights() -> Iterator[tuple]:
    for name in POCKET:
        there = (WEIGHTS / f"{name}.safetensors").is_file()
        yield f"weights of {name}", "here" if there else "missing", "here", there, "reinstall clipnotes"


def cache() -> Iterator[tuple]:
    """Whether features can be kept: in the cache folder, or the first one above it that exists."""
    folder = next(path for path in (cache_dir(), *cache_dir().parents) if path.exists())
    free, writable = shutil.disk_usage(folder).free / 1e9, os.access(folder, os.W_OK)
    yield ("feature cache", "writable" if writable else "read-only", "writable", writable,
           "set CLIPNOTES_CACHE to a folder you may write")
    yield "free disk space", "enough" if free > 1 else f"{free:.1f} GB", "1 GB", free > 1, "free some space"


def gpu() -> tuple:
    return "GPU", "CUDA" if torch.cuda.is_available() else "none", "not needed at pocket scale", True, ""

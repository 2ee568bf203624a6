"""Is everything here that the series needs? A table for notebook 00 and for bug reports."""

import importlib.metadata
import os
import platform
import shutil
import sys

import pandas as pd

from clipnotes.backbone.clip import POCKET
from clipnotes.lab.provenance import LIBRARIES

TOOLS = ["papermill", "jupyterlab"]


def environment_check():
    """A DataFrame with one row a thing needed: what was found, what is needed, whether it is fine ("yes" or advice)."""
    import torch

    from clipnotes.data.cache import cache_dir
    from clipnotes.pocket.model import WEIGHTS

    rows = [
        (
            "Python",
            platform.python_version(),
            "3.11 or newer",
            sys.version_info >= (3, 11),
            "install a newer Python",
        )
    ]
    for library in [*LIBRARIES, *TOOLS]:
        try:
            version = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        rows.append((library, version or "missing", "any", bool(version), "run `make install`"))
    for name in POCKET:
        there = (WEIGHTS / f"{name}.safetensors").is_file()
        rows.append(
            (f"weights of {name}", "here" if there else "missing", "here", there, "reinstall clipnotes")
        )
    folder = cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    writable = os.access(folder, os.W_OK)
    rows.append(
        (
            "feature cache",
            "writable" if writable else "read-only",
            "writable",
            writable,
            "set CLIPNOTES_CACHE to a folder you may write",
        )
    )
    rows.append(("free disk space", "enough" if free > 1 else f"{free:.1f} GB", "1 GB", free > 1, "free some space"))
    accelerator = "CUDA" if torch.cuda.is_available() else "none"
    rows.append(("GPU", accelerator, "not needed at pocket scale", True, ""))
    return pd.DataFrame(
        [
            {"what": what, "found": found, "needed": needed, "fine": "yes" if fine else advice}
            for what, found, needed, fine, advice in rows
        ]
    )

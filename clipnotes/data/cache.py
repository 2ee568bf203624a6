"""The disk cache: tensors under a key of all that shapes them, and the parts of those that are being made."""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from clipnotes.checked_files import checksum
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write, clear_place, lock

FORMAT = 1  # a change makes all older files foreign
PART_SECONDS = 30  # between two parts: what a killed run loses at most, and so long that writing them costs nothing


def cache_dir() -> Path:
    """Folder of the feature cache: $CLIPNOTES_CACHE, else clipnotes in the user's cache folder.

    ClipnotesError: neither is named, and the user has no home folder.
    """
    named, caches = os.environ.get("CLIPNOTES_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named) if named else Path(caches or Path.home() / ".cache") / "clipnotes"
    except RuntimeError:
        raise ClipnotesError("There is no home folder that could hold the feature cache: set CLIPNOTES_CACHE to a folder that "
                             "you may write.") from None


def cached(key: dict, compute: Callable) -> torch.Tensor:
    """A tensor from the cache file of `key` (a JSON-able dict of all that shapes it), else computed and stored.

    The file repeats the key and a checksum; one that is damaged or was made for another key is never used but replaced.
    Of several processes that need the same one, one computes and the others wait for it.
    """
    folder = cache_dir() / "features"
    path = path_in(folder, key)
    with lock(path):
        x = read_cached(path, key)
        if x is None:
            x = compute()
            if store(path, key, x):
                shutil.rmtree(parts_of(key), ignore_errors=True)
        return x


def resumed(key: dict, batches: Callable, **detail: Any) -> torch.Tensor:
    """Rows [N, d] that come in batches, going on where a killed run was; for the `compute` of `cached(key, compute)`.

    batches: called with the number of rows that are kept already, returns an iterator over tensors [B, d] of the rows
    from there on. detail: what shapes the batches beside the key, such as their size. Parts lie beside the cache file
    until it is there; each is whole batches, so that rows come out the same bit for bit.
    """
    folder, kept, start = parts_of(key), [], 0

    def part():
        name = key | detail | {"start": start}
        return path_in(folder, name), name

    while (x := read_cached(*part())) is not None:
        kept.append(x)
        start += len(x)
    new, since = [], time.monotonic()
    with closing(batches(start)) as stream:
        for batch in stream:
            new.append(batch)
            if len(batch) and time.monotonic() - since >= PART_SECONDS:
                kept.append(torch.cat(new))
                store(*part(), kept[-1])
                start += len(kept[-1])
                new, since = [], time.monotonic()
    return torch.cat([*kept, *new])


def path_in(folder: Path, key: dict) -> Path:
    """The file of a key."""
    return folder / f"{hashlib.sha256(as_text(key).encode()).hexdigest()[:32]}.safetensors"


def parts_of(key: dict) -> Path:
    """Folder of the parts of the tensor of a key."""
    return path_in(cache_dir() / "features", key).with_suffix(".parts")


def as_text(key: dict) -> str:
    return json.dumps(key, sort_keys=True)


def store(path: Path, key: dict, x: torch.Tensor) -> bool:
    """Write a tensor under its key; whether it could be written. A full disk costs time at the next run, not a result."""
    from safetensors.torch import save

    try:
        clear_place(path)
        with atomic_write(path, "wb") as file:
            file.write(save({"x": x}, metadata={"key": as_text(key), "checksum": checksum(x)}))
    except OSError as error:
        warnings.warn(f"features could not be kept in {path.parent} ({error}); set CLIPNOTES_CACHE to another folder",
                      stacklevel=2)
        return False
    return True


def read_cached(path: Path, key: dict) -> torch.Tensor | None:
    """The tensor of a cache file, None where it is missing, damaged or another key's."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata, x = file.metadata() or {}, file.get_tensor("x")
    except (SafetensorError, OSError):
        return None
    return x if metadata.get("key") == as_text(key) and metadata.get("checksum") == checksum(x) else None

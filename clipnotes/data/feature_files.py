"""Files of features: arrays and lists of texts by name, as `.npz` or `.safetensors`; nothing pickled is ever read."""
from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from clipnotes.data.images import SPLITS
from clipnotes.errors import ClipnotesError
from clipnotes.file_kinds import kind_of
from clipnotes.files import atomic_write

TEXTS = ("classnames", *(f"{split}_path" for split in SPLITS))  # lists of texts: in .safetensors as JSON in the metadata
KEYS = (*(f"{split}_{part}" for split in SPLITS for part in "xy"), "text", *TEXTS)


def check_file_name(path: str | Path) -> Path:
    """The Path of a bank to be written; ClipnotesError for an ending that no bank has."""
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise ClipnotesError(f"Cannot save a bank as {path.name}; the name must end in .npz or .safetensors.")
    return path


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays, those of texts too, whole or not at all."""
    path = check_file_name(path)
    if path.suffix == ".npz":
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, **arrays)
    else:
        from safetensors.numpy import save

        lists = {key: json.dumps(a.tolist()) for key, a in arrays.items() if a.dtype.kind == "U"}
        with atomic_write(path, "wb") as file:
            file.write(save({key: a for key, a in arrays.items() if a.dtype.kind != "U"}, metadata=lists))


def read(path: str | Path) -> dict[str, Any]:
    """{key: array, tensor or list of texts} of the KEYS of a feature file; ClipnotesError where it is missing, of another kind,
    damaged, or holds none of them."""
    path = Path(path)
    if not path.is_file():
        raise ClipnotesError(f"Feature file {path} does not exist; check the path, or make it with `clipnotes features`.")
    readers = {".npz": read_npz, ".safetensors": read_safetensors}
    try:
        reader = readers.get(path.suffix.lower())
        content = reader(path) if reader else None
    except ClipnotesError:
        raise
    except OSError as error:
        raise refused(path, f"cannot be opened ({error.strerror})") if error.strerror else damaged(path) from error
    except (ValueError, KeyError, EOFError, RuntimeError, SafetensorError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(path) from error
    if content is None:
        raise refused(path, f"is {kind_of(path) or f'of the type {path.suffix}' if path.suffix else 'of no known type'}")
    if not content:
        raise refused(path, "holds none of these arrays")
    return content


def damaged(path: Path) -> ClipnotesError:
    kind = kind_of(path)
    expected = path.suffix.lower() == ".npz" and (kind or "").startswith("a zip archive")
    return refused(path, f"is {kind}" if kind and not expected else "is damaged or was written by something else")


def refused(path: Path, problem: str) -> ClipnotesError:
    return ClipnotesError(f"Feature file {path} {problem}; a feature file is .npz or .safetensors with the numbers test_x "
                          "[N, d] and test_y [N] and, where known, train_x, train_y, val_x, val_y, text and classnames.")


def read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        found = {}
        for key in (key for key in KEYS if key in file.files):
            try:
                found[key] = file[key]
            except ValueError as error:
                if "Object arrays" not in str(error):
                    raise
                raise refused(path, f"has Python objects in {key}, which are never read") from error
        return {key: a.tolist() if a.dtype.kind == "U" else a for key, a in found.items()}


def read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        lists = {key: text for key, text in (file.metadata() or {}).items() if key in TEXTS}
        tensors = {key: file.get_tensor(key) for key in KEYS if key in file.keys()}  # noqa: SIM118
    try:
        return tensors | {key: json.loads(text) for key, text in lists.items()}
    except (ValueError, RecursionError) as error:
        raise refused(path, f"has metadata {', '.join(lists)} that are no JSON lists of texts") from error

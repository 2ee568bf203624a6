"""Files of features: arrays and lists of texts by name, as `.npz` or `.safetensors`; nothing pickled is ever read."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write


def check_file_name(path: str | Path) -> Path:
    """The Path of a bank to be written; ClipnotesError for an ending that no bank has."""
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise ClipnotesError(f"cannot save a bank as {path.name}; the name must end in .npz or .safetensors")
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


def read(path: str | Path) -> dict[str, torch.Tensor | list]:
    """{key: tensor, or list of texts} of a feature file; ClipnotesError where it is missing, foreign or damaged."""
    path = Path(path)
    if not path.is_file():
        raise ClipnotesError(f"feature file {path} does not exist; check the path, or make it with `clipnotes features`")
    try:
        return read_npz(path) if path.suffix == ".npz" else read_safetensors(path)
    except Exception as error:  # each library raises its own for damaged files
        raise ClipnotesError(f"feature file {path} cannot be read ({error}); it must be a .npz without pickled "
                             "objects or a .safetensors file") from error


def read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key].tolist() if file[key].dtype.kind == "U" else torch.from_numpy(file[key].astype(
            np.float32 if file[key].dtype.kind == "f" else np.int64)) for key in file.files}


def read_safetensors(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        lists = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        return {key: file.get_tensor(key) for key in file.keys()} | lists  # noqa: SIM118

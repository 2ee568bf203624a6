"""Weights as tensors, read from files that may come from anywhere: nothing that such a file holds is ever run.

A TorchScript archive (the form of OpenAI's .pt files) brings code of its own, which TorchScript's loader runs. Here only its
tensors are read: the zip's `data.pkl` names them, and it is read by an unpickler that can build nothing else.
"""
from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

STORAGES = {f"{kind}Storage": dtype for kind, dtype in (
    ("Float", torch.float32), ("Half", torch.float16), ("BFloat16", torch.bfloat16), ("Double", torch.float64),
    ("Long", torch.int64), ("Int", torch.int32), ("Short", torch.int16), ("Char", torch.int8), ("Byte", torch.uint8),
    ("Bool", torch.bool))}
LISTS = {"build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"}


def is_script_archive(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive, the form of OpenAI's own .pt files."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in entry for entry in archive.namelist())


def check_tensors_alone(path: str | Path) -> None:
    """Raise ValueError, in words, for a checkpoint that holds anything but tensors, plain numbers, texts and their lists.

    OSError where it cannot be read. Only the structure is read where the format allows it. Loaders that try again with
    less care after an error of their own never see a file that did not pass.
    """
    if str(path).endswith((".safetensors", ".npz")):  # formats of arrays alone
        return
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ValueError("it is damaged or holds objects besides tensors") from error


def read_script_archive(path: str | Path) -> dict[str, torch.Tensor]:
    """{name: tensor} of all parameters and buffers of a TorchScript archive, in their own types.

    The bytes of every tensor are checked against the zip's checksum. Raises ValueError for an archive that is damaged or
    holds what no archive of weights needs; nothing in it is run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return dict(named_tensors(TensorUnpickler(archive).load()))
    except Exception as error:  # a damaged pickle can fail in any way; what it may call is listed in the unpickler
        raise ValueError(f"the archive is damaged or is no archive of weights: {error}") from error


class ScriptModule:
    """Stands for any class of the archive's own: holds its attributes and can do nothing."""

    attributes: dict = {}

    def __setstate__(self, state):
        self.attributes = dict(state)


class TensorUnpickler(pickle.Unpickler):
    """Reads the `data.pkl` of a TorchScript archive into `ScriptModule`s and tensors; no other object can come about."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        found = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1:
            raise ValueError(f"it has {len(found)} files data.pkl")
        self.archive, self.root = archive, found[0].removesuffix("data.pkl")
        if f"{self.root}byteorder" in archive.namelist() and self.read("byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        super().__init__(io.BytesIO(self.read("data.pkl")))

    def read(self, name: str) -> bytes:
        """An entry's bytes. TorchScript stores them as they are, so that none can be larger than the file."""
        entry = self.archive.getinfo(f"{self.root}{name}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its entry {name!r} is compressed")
        return self.archive.read(entry)

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return ScriptModule
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset)
        if (module, name) == ("collections", "OrderedDict"):
            return dict  # of hooks, always empty
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch.jit._pickle" and name in LISTS | {"restore_type_tag"}:
            return lambda value, *_: value
        raise ValueError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: tuple) -> torch.Tensor:
        """The storage, a flat tensor, that an id ("storage", dtype, key, device, number of elements) names."""
        _, dtype, key, _, n = pid
        content = bytearray(self.read(f"data/{key}"))
        if len(content) != n * dtype.itemsize:
            raise ValueError(f"storage {key!r} has {len(content)} bytes for {n} numbers")
        return torch.frombuffer(content, dtype=dtype) if n else torch.empty(0, dtype=dtype)


def named_tensors(root: ScriptModule) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (dotted name, tensor) of a module and all below it; a module that stands at several places counts once."""
    waiting, seen = [("", root)], set()
    while waiting:
        prefix, module = waiting.pop()
        if not isinstance(module, ScriptModule):
            raise ValueError("it holds no module")
        if id(module) in seen:
            continue
        seen.add(id(module))
        for name, value in module.attributes.items():
            if isinstance(value, torch.Tensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, ScriptModule):
                waiting.append((f"{prefix}{name}.", value))

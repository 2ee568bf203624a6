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
WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training code keeps the weights, outermost first
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, and of modules that hold the model
ARCHIVE_NUMBERS = {"input_resolution", "context_length", "vocab_size"}  # beside the weights of OpenAI's archives
LISTS = {"build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"}


def is_script_archive(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive, the form of OpenAI's own .pt files."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in entry for entry in archive.namelist())


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """{name: tensor} of the weights in a file: OpenAI's archive, .safetensors, or a checkpoint of torch.save.

    A checkpoint may hold them under one of WRAPPERS; the PREFIXES that wrappers of modules put before all names are left out.
    Raises ValueError, in words, for a file that holds anything but tensors, plain numbers, texts and their lists, or no
    weights, and whatever torch and safetensors raise for damaged files. Nothing that a file holds is run.
    """
    if is_script_archive(path):
        state = read_script_archive(path)
        return {name: tensor for name, tensor in state.items() if name not in ARCHIVE_NUMBERS}
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return bare_names(load_file(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ValueError(f"it is damaged or holds objects besides tensors{strangers(path)}") from error
    return bare_names(unwrapped(content))


def strangers(path: str | Path) -> str:
    """Which objects a checkpoint holds besides tensors, in words; "" where it cannot be told."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it is damaged, or of an old form
        return ""
    return f", namely {', '.join(sorted(found)[:3])}; save its state_dict alone" if found else ""


def unwrapped(content: Any) -> dict[str, torch.Tensor]:
    """The weights in what a checkpoint holds; ValueError where there are none."""
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(each, torch.Tensor) for each in content.values()):
        holds = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"it holds no weights by name, but {holds or 'nothing'}")
    return content


def bare_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights under their names without the PREFIXES of wrappers."""
    while prefix := next((prefix for prefix in PREFIXES if state and all(name.startswith(prefix) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}  # of compiled parts


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

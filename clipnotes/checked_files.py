"""Files that show whether they are whole: what they hold is written with a checksum of it, which reading holds it against."""
from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clipnotes.file_kinds import kind_of
from clipnotes.files import atomic_write

STATE = b"clipnotes state 1\n"  # then the sha256 of the rest, 32 bytes, and the rest as torch.save wrote it


class Damaged(ValueError):
    """A file that is not what it was written as, or was written by something else; the sentence goes on "PATH ..."."""


def checksum(x: torch.Tensor) -> str:
    """The sha256 of a tensor's type, shape and values."""
    digest = hashlib.sha256(f"{x.dtype} {list(x.shape)} ".encode())
    digest.update(x.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def checksum_of_all(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, str]) -> str:
    """One checksum of named tensors and facts."""
    parts = [dict(facts), {name: checksum(tensor) for name, tensor in tensors.items()}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, str]) -> None:
    """Write named tensors and facts (texts) as .safetensors with a checksum, whole or not at all."""
    from safetensors.torch import save

    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path, "wb") as file:
        file.write(save(tensors, metadata={**facts, "checksum": checksum_of_all(tensors, facts)}))


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors by name, facts by name) as `write_tensors` wrote them; `Damaged` for anything else, OSError where the file
    cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = Path(path).read_bytes()
    try:
        tensors = load(content)
        facts = json.loads(content[8:8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        what = kind_of(path)
        raise Damaged(f"is {what}" if what else f"cannot be read as .safetensors: {error}") from error
    if "checksum" not in facts:
        raise Damaged("has no checksum")
    if facts.pop("checksum") != checksum_of_all(tensors, facts):
        raise Damaged("was changed since it was written: its checksum is another")
    return tensors, facts


def write_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write the state of a training (tensors, numbers and texts in dicts and lists) with a checksum, whole or not at all."""
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_write(path, "wb") as file:
        file.write(STATE + hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())


def read_state(path: str | Path) -> dict[str, Any]:
    """What `write_state` wrote, on the CPU; `Damaged` for anything else, OSError where the file cannot be read."""
    with open(path, "rb") as file:
        mark, digest, content = file.read(len(STATE)), file.read(32), file.read()
    if mark != STATE:
        raise Damaged(f"is {kind_of(path)}" if kind_of(path) else "was not written as the state of a training")
    if hashlib.sha256(content).digest() != digest:
        raise Damaged("was changed since it was written: its checksum is another")
    try:
        return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # torch and pickle raise their own
        raise Damaged("holds other things than the state of a training") from error

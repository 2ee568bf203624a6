"""Files of what was learnt beside a frozen CLIP: safetensors that say what they hold and which CLIP they belong to."""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from clipnotes.backbone.clip import Clip
from clipnotes.checked_files import Damaged, read_tensors, write_tensors
from clipnotes.errors import ClipnotesError

T = TypeVar("T")


@dataclass(frozen=True)
class LearntFiles:
    """Files of one kind. what: "adapters" or "prompts"; format: the mark that they bear; writer: who wrote them."""

    what: str
    format: str
    writer: str

    def save(self, path: str | Path, clip: Clip, tensors: Mapping[str, torch.Tensor], **facts: object) -> None:
        """Write {name: tensor} as .safetensors, whole or not at all, with the CLIP's name and fingerprint, facts that JSON
        can hold, and a checksum. Raises ClipnotesError for another suffix and for tensors with NaN or infinite values."""
        if Path(path).suffix != ".safetensors":
            raise ClipnotesError(f"Cannot save {self.what} as {Path(path).name}; the name must end in .safetensors.")
        if broken := not_finite(tensors):
            raise ClipnotesError(f"Cannot save {self.what} to {path}: {broken}; train them at a lower rate.")
        texts = {name: json.dumps(fact, default=lambda number: number.item()) for name, fact in facts.items()}
        write_tensors(path, tensors, {"format": self.format, "model": clip.name, "base": clip.fingerprint} | texts)

    def load(self, path: str | Path, clip: Clip, make: Callable[[dict, dict], T]) -> T:
        """make(tensors, facts): what a file holds, on the CLIP that it was made for.

        Raises ClipnotesError for a missing file, one that was changed since it was written or that another program wrote,
        values that are not finite, and another CLIP (weights or preprocessing).
        """
        if not os.path.isfile(path):
            raise ClipnotesError(f"{path} does not exist; check the path, or train {self.what} and save them there.")
        try:
            tensors, facts = read_tensors(path)
            if facts.pop("format", None) != self.format:
                raise ValueError(f"it is not of the format {self.format!r}")
            if broken := not_finite(tensors):
                raise ValueError(broken)
            model, base = facts.pop("model"), facts.pop("base")
            facts = {name: json.loads(fact) for name, fact in facts.items()}
            learnt = make(tensors, facts) if base == clip.fingerprint else None
        except (OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
            reason = " ".join(f"it {error}".split() if isinstance(error, Damaged) else str(error).split())[:200]
            raise ClipnotesError(f"{path} does not hold {self.what} that can be read ({reason}); give a file that "
                                 f"{self.writer} wrote.") from error
        if learnt is None:
            raise ClipnotesError(f"The {self.what} in {path} belong to {model} with fingerprint {base}, not to {clip.name} "
                                 f"with fingerprint {clip.fingerprint}; load the model that they belong to.")
        return learnt


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Words on the first tensor that holds NaN or infinite values; None where there is none."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            return f"{name} holds NaN or infinite values"
    return None

"""Files of what was learnt beside a frozen CLIP: safetensors that say what they hold and which CLIP they belong to."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write


@dataclass(frozen=True)
class LearntFiles:
    """Files of one kind. what: "adapters" or "prompts"; format: the mark that they bear; writer: who wrote them."""

    what: str
    format: str
    writer: str

    def save(self, path, clip, tensors, **facts):
        """Write {name: tensor} as .safetensors, whole or not at all, with the CLIP's name and fingerprint and facts that
        JSON can hold. Raises ClipnotesError for another suffix."""
        from safetensors.torch import save

        if Path(path).suffix != ".safetensors":
            raise ClipnotesError(f"cannot save {self.what} as {Path(path).name}; the name must end in .safetensors")
        metadata = {"format": self.format, "model": clip.name, "base": clip.fingerprint}
        metadata |= {name: json.dumps(fact, default=int) for name, fact in facts.items()}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        with atomic_write(path, "wb") as file:
            file.write(save(tensors, metadata=metadata))

    def load(self, path, clip, make):
        """make(tensors, facts): what a file holds, on the CLIP that it was made for.

        Raises ClipnotesError for a missing, damaged or foreign file and for another CLIP (weights or preprocessing).
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise ClipnotesError(f"{path} does not exist; check the path, or train {self.what} and save them there")
        try:
            with safe_open(path, "pt") as file:
                facts = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if facts.pop("format", None) != self.format:
                raise ValueError(f"it is not of the format {self.format!r}")
            model, base = facts.pop("model"), facts.pop("base")
            facts = {name: json.loads(fact) for name, fact in facts.items()}
            learnt = make(tensors, facts) if base == clip.fingerprint else None
        except (SafetensorError, OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ClipnotesError(f"{path} does not hold {self.what} that can be read ({reason}); give a file that "
                                 f"{self.writer} wrote") from error
        if learnt is None:
            raise ClipnotesError(f"the {self.what} in {path} belong to {model} with fingerprint {base}, not to {clip.name} "
                                 f"with fingerprint {clip.fingerprint}; load the model that they belong to")
        return learnt

"""Which device computes: one rule for loading, training and encoding."""
from __future__ import annotations

import torch

from clipnotes.errors import ClipnotesError, first_line


def choose_device(name: str = "auto") -> str:
    """A torch device by its name, checked; "auto" is the GPU of CUDA or ROCm where there is one, else the CPU.

    Apple's "mps" is taken only where it is asked for, since nothing here was measured on it. All is computed in float32. On a
    GPU the TF32 convolutions, which torch has on by default, are switched off for the process: they keep
    three digits of their input. Raises ClipnotesError for a device that torch does not know or that is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except Exception as error:  # what torch raises differs from device to device
        raise ClipnotesError(f"device = {str(name)!r} cannot be used on this machine ({first_line(error, 120)}); choose auto, "
                             "cpu, cuda or another device of torch's that it has.") from error
    if torch.device(name).type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return str(name)

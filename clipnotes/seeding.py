"""Seeds: every draw from a stream of its own, so that one draw never shifts another."""
from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator(seed: int, purpose: str = "") -> torch.Generator:
    """A torch generator for a purpose in words, such as "batches"; without one, that of the seed itself."""
    return torch.Generator().manual_seed(zlib.crc32(f"{purpose} {seed}".encode()) if purpose else seed)


@contextmanager
def fixed_random(*entropy: int) -> Iterator[None]:
    """Inside the block torch's global randomness on the CPU is a function of some numbers; after it all is as before.

    For code that takes no generator, such as torchvision's transforms. Other devices are left alone: torch.manual_seed would
    seed them, too, and where they were never used it is hundreds of times as slow.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        yield

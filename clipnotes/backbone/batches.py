"""Batches of preprocessed images, read by other processes beside the encoder where that works here."""
from __future__ import annotations

import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Listener
from typing import Any

import torch


def batches_of(data: torch.utils.data.Dataset, rows: Sequence[Sequence], workers: int = 0,
               pin_memory: bool = False) -> Iterator[Any]:
    """Yield the collated items of `data` at every list of `rows`, read ahead by `workers` processes.

    Processes hand tensors over in shared memory and by a socket in the folder of temporary files. Where there is too little of
    the one (a container has 64 MB) or no place for the other (its path may have about 100 characters), the rest is read by this
    process, which a warning says. So it is where a worker dies or cannot be started; an error of the data themselves is raised
    as it is.
    """
    done, trouble = 0, hindrance() if workers else ""
    if workers and not trouble:
        watch_again = None
        try:
            batches = iter(loader(data, rows, workers, pin_memory))
            watch_again = leave_deaths_to_the_loader()
            for batch in batches:
                yield batch
                done += 1
            return
        except Exception as error:  # whatever it is: the data's own errors come again below
            trouble = str(error).strip().rsplit("\n", 1)[-1] or type(error).__name__
        finally:
            batches = None  # joins the workers, while nobody watches
            if watch_again:
                watch_again()
    for batch in loader(data, rows[done:], 0, pin_memory):
        if trouble:
            warnings.warn(f"images are read without worker processes, which is slower, since those fail here ({trouble}); more "
                          "shared memory (docker run --shm-size=2g) or a shorter path in TMPDIR may help", stacklevel=2)
            trouble = ""
        yield batch


def loader(data: torch.utils.data.Dataset, rows: Sequence[Sequence], workers: int,
           pin_memory: bool) -> torch.utils.data.DataLoader:
    own = torch.Generator()  # with the global one, features from a cache would leave another random state than new ones
    return torch.utils.data.DataLoader(data, batch_sampler=rows, num_workers=workers, generator=own, pin_memory=pin_memory)


def leave_deaths_to_the_loader() -> Callable[[], object]:
    """Take away torch's watch over dying workers, and return what sets it up again.

    It raises in whatever line the main thread is at, which may be one of the encoder's; the loader itself looks every 5 s.
    """
    main = threading.current_thread() is threading.main_thread()  # no other may set it up, nor does torch from another
    watch = signal.getsignal(signal.SIGCHLD) if main and hasattr(signal, "SIGCHLD") else None
    if watch is None:  # also where it is not Python's, so that nothing could set it up again
        return lambda: None
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return lambda: signal.signal(signal.SIGCHLD, watch)


def hindrance() -> str:
    """Why a worker could hand over nothing here, "" where it could: it would wait for ever, and so would who waits for it."""
    try:
        with Listener():
            multiprocessing.Lock()
        return ""
    except OSError as error:
        return str(error)

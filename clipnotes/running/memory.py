"""A share of memory for a notebook's kernel, watched from outside: who exceeds it is stopped, not the machine."""

import time
from contextlib import suppress
from threading import Thread

import psutil
from jupyter_client import AsyncKernelManager

INTERVAL = 0.5  # seconds between two looks


def limited_manager(limit):
    """A kernel manager class whose kernel is killed once it, its processes and this one hold more than `limit` bytes.

    Counted is resident memory. `error`, an attribute of the class, is None until then, afterwards one line. Nobody else
    watches: for the operating system and for Dask a kernel is a process of its own.
    """

    class LimitedKernelManager(AsyncKernelManager):
        error = None

        async def _async_post_start_kernel(self, **settings):
            await super()._async_post_start_kernel(**settings)
            Thread(target=_watch, args=(psutil.Process(self.provisioner.pid), limit, type(self)), daemon=True).start()

    return LimitedKernelManager


def _watch(kernel, limit, manager):
    """Look until the kernel is gone."""
    with suppress(psutil.NoSuchProcess):
        while True:
            family = [kernel, *kernel.children(recursive=True)]
            used = kernel.memory_info().rss + sum(map(_resident, [*family[1:], psutil.Process()]))
            if used > limit:
                manager.error = (f"MemoryError: the run held {used / 1e9:.2f} GB, more than its worker's share of "
                                 f"{limit / 1e9:.2f} GB, and was stopped: use fewer workers or a smaller run.")
                for process in family:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                return
            time.sleep(INTERVAL)


def _resident(process):
    with suppress(psutil.NoSuchProcess):
        return process.memory_info().rss
    return 0

"""The kernel of a notebook that runs without a person: of this very Python, whatever kernels and settings its user has, told
which folder is held for it, and kept to its share of memory."""

import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec

from clipnotes.series.run_folder import HELD

INTERVAL = 0.5  # seconds between two looks
TRIM = "MALLOC_TRIM_THRESHOLD_"  # Dask has its workers give freed memory back at once: a training step would take it anew
INLINE = "module://matplotlib_inline.backend_inline"  # figures as outputs of their cell; a window would need a screen


def kernel_manager(out: Path, limit: float = math.inf) -> type[AsyncKernelManager]:
    """A kernel manager class for one run, whose folder `out` this process holds.

    Its kernel is killed once it, its processes and this one hold more than `limit` bytes of resident memory. `error`, an
    attribute of the class, is None until then, afterwards one line. Nobody else watches: for the operating system and for Dask
    a kernel is a process of its own.
    """

    class RunKernelManager(AsyncKernelManager):
        error = None
        kernel_spec = KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                                 language="python")  # one registered as "python3" may belong to another environment

        async def _async_pre_start_kernel(self, **settings):
            environment = settings.pop("env", os.environ) | {HELD: str(out.absolute()), "MPLBACKEND": INLINE}
            if environment.get(TRIM) == "65536":
                del environment[TRIM]
            return await super()._async_pre_start_kernel(env=environment, **settings)

        async def _async_post_start_kernel(self, **settings):
            await super()._async_post_start_kernel(**settings)
            if limit < math.inf:
                Thread(target=_watch, args=(psutil.Process(self.provisioner.pid), limit, type(self)), daemon=True).start()

    return RunKernelManager


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

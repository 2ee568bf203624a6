"""Where the runs of a sweep are computed: a local Dask cluster with one worker a core, or a scheduler that runs already."""

import os
from contextlib import contextmanager
from importlib.util import find_spec

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

from clipnotes.errors import ClipnotesError


@contextmanager
def local_client(workers=None, retries=2):
    """A Client of `workers` processes on this machine, one run at a time in each; one a core by default.

    Each has an equal share of the memory, and as many threads for torch as cores fall to it, unless OMP_NUM_THREADS says
    otherwise. A run whose worker dies is given to another one up to `retries` times.
    """
    workers = workers or CPU_COUNT
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, CPU_COUNT // workers))
    settings = {
        "distributed.scheduler.allowed-failures": retries,
        "distributed.scheduler.worker-saturation": 1.0,  # runs wait at the scheduler: a dying worker takes along only its own
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs="CRITICAL",
            env={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def remote_client(address):
    """A Client of the scheduler at `address`; its own settings say how often a run may lose its worker."""
    try:
        client = Client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise ClipnotesError(f"No Dask scheduler answers at {address!r} ({error}): start one with `dask scheduler`, which "
                             "prints its address.") from None
    with client:
        yield client


def dashboard(client):
    """The dashboard's address, or how to get one; a running scheduler knows itself what is installed there."""
    if client.cluster is None or find_spec("bokeh"):
        return client.dashboard_link
    return "none, since bokeh is not installed (pip install 'clipnotes[cluster]')"

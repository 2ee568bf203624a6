"""Where notebooks are computed beside each other: Dask workers of this machine, or a scheduler that runs already."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, WorkerPlugin
from distributed.core import rpc
from distributed.security import Security

from clipnotes.errors import ClipnotesError, shown

TIMEOUT = 20  # seconds in which a running scheduler must answer


@contextmanager
def client_for(runs: int, workers: int = 1, scheduler: str | None = None, retries: int = 0) -> Iterator[Client | None]:
    """A Client of `workers` processes on this machine for these runs, or of a running scheduler; None if one by one will do."""
    if not scheduler and (workers == 1 or not runs):
        yield None
        return
    with remote_client(scheduler) if scheduler else local_client(workers, retries, runs) as client:
        yield client


@contextmanager
def local_client(workers: int, retries: int = 2, runs: int | None = None) -> Iterator[Client]:
    """A Client of `workers` processes on this machine, fewer where there are fewer runs, one run at a time in each.

    Each has an equal share of the memory, and as many threads for torch as cores fall to each of `workers`, unless
    OMP_NUM_THREADS says otherwise; threads that wait sleep, not spin. A run whose worker dies is given to another one up to
    `retries` times. All connections need credentials made for this cluster: nobody else on the machine can have anything run.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, CPU_COUNT // workers))
    policy = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    settings = {
        "distributed.scheduler.allowed-failures": retries,
        "distributed.scheduler.worker-saturation": 1.0,  # runs wait at the scheduler: a dying worker takes along only its own
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=min(workers, runs or workers), threads_per_worker=1, processes=True,
            dashboard_address="127.0.0.1:0", silence_logs="CRITICAL", security=Security.temporary(),
            env={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": policy},
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_LeaveCtrlC())
        yield client


class _LeaveCtrlC(WorkerPlugin):
    """A terminal sends Ctrl-C to every process; it is the command that heeds it, and ends its workers."""

    def setup(self, worker):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def remote_client(address: str) -> Iterator[Client]:
    """A Client of the scheduler at `address`; its own settings say how often a run may lose its worker.

    ClipnotesError: none answers there within TIMEOUT seconds.
    """
    reason = f"no answer in {TIMEOUT} seconds"
    try:
        kind = asyncio.run(asyncio.wait_for(_kind(address), TIMEOUT))  # a Client would wait on for who listens and is silent
        if kind == "Scheduler":
            client = Client(address, timeout=TIMEOUT)
        else:
            client, reason = None, f"a {kind} listens there"
    except (OSError, ValueError) as error:
        client, reason = None, str(error) or reason
    except Exception:  # what listens there may send anything
        client, reason = None, "what listens there speaks another language"
    if client is None:
        raise ClipnotesError(f"No Dask scheduler answers at {shown(address)} ({reason}): start one with `dask scheduler`, "
                             "which prints its address.")
    with client:
        yield client


async def _kind(address):
    """What listens at an address, in its own words: Scheduler, Worker, Nanny."""
    credentials = Security().get_connection_args("client")
    async with rpc(address, timeout=TIMEOUT, deserialize=False, connection_args=credentials) as listener:  # no unpickling
        return (await listener.identity())["type"]


def dashboard(client: Client) -> str:
    """The dashboard's address, or how to get one; a running scheduler knows itself what is installed there."""
    if client.cluster is None or find_spec("bokeh"):
        return client.dashboard_link
    return "none, since bokeh is not installed (pip install 'clipnotes[cluster]')"

"""Grids of runs on Dask: planned, computed beside each other, killed, resumed, on workers of another command."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import psutil
import pytest
from conftest import write_notebook
from distributed import Client
from distributed.security import Security
from recorded import finish_toy, holding

from clipnotes.cli.main import main
from clipnotes.data.cache import cached
from clipnotes.errors import ClipnotesError
from clipnotes.running import cluster, engine
from clipnotes.running.cluster import local_client, remote_client
from clipnotes.running.engine import Job, run_job
from clipnotes.running.execute import run_notebook
from clipnotes.running.sweep import describe, plan, sweep
from clipnotes.series.notebooks import find
from clipnotes.series.run_folder import read_facts, write_facts

# as lab.start, without the seconds that torch and git take
START = """\
from pathlib import Path
import os, time
import numpy as np
from clipnotes.lab.run import Run
from clipnotes.series.notebooks import find
run = Run(find("{name}"), {name: globals()[name] for name in "shots rate loss seeds flip features out".split()})"""

BODY = """\
with open("attempts", "a") as stream:
    print(seeds[0], file=stream)
while Path(f"block{seeds[0]}").exists():
    time.sleep(0.05)
if Path(f"break{seeds[0]}").exists():
    raise KeyError("broken on purpose")
if Path(f"hog{seeds[0]}").exists():
    hog = b"x" * 1_500_000_000
    time.sleep(60)
x = np.random.default_rng(seeds[0]).normal(size=(200, 200))
run.record(metric="norm", value=np.linalg.norm(x @ x), method="Toy", seed=seeds[0])"""


@pytest.fixture
def quick_notebook(toy_notebook, monkeypatch):
    """01_toy as a notebook that takes a second; the files blockS, breakS and hogS in the folder stop the run of seed S."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # in the workers and in the serial runs: other sums, other last digits
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    return write_notebook(toy_notebook, start=START, body=BODY)


def grid(seeds):
    Path("grid.yaml").write_text(f"title: Toys\nfixed: {{flip: true}}\naxes:\n  seeds: {{range: [1, {seeds}, 1]}}\n")
    return {seed: id for seed, id in enumerate(plan(find("01"), "grid.yaml", "out").runs, 1)}


@contextmanager
def command(*options):
    """`clipnotes sweep` in a session of its own, of which nothing is left afterwards."""
    def heed_ctrl_c():  # which a test suite that runs in the background would pass on as ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    arguments = [sys.executable, "-m", "clipnotes", "sweep", "01", "--grid", "grid.yaml", "--out", "out", *options]
    process = subprocess.Popen(arguments, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=heed_ctrl_c)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition, process=None, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def started(*seeds):
    text = Path("attempts").read_text().split() if Path("attempts").exists() else []
    return set(map(str, seeds)) <= set(text)


def whole():
    return {path.parent.name for path in Path("out/runs").glob("*/run.json")
            if read_facts(path.parent).get("status") == "complete"}


def test_killed_workers_and_commands_leave_every_run_once_and_as_a_serial_run_has_it(quick_notebook):
    ids = grid(4)
    Path("block1").touch()
    Path("block3").touch()
    with command("--workers", "2") as process:
        wait_for(lambda: started(1, 2), process)
        kernel = next(p for p in psutil.Process(process.pid).children(recursive=True) if "ipykernel_launcher" in p.cmdline())
        worker = kernel.parent()
        kernels = worker.children(recursive=True)
        worker.kill()
        assert not psutil.wait_procs(kernels, timeout=30)[1], "a kernel dies with its worker"
        Path("block1").unlink()
        wait_for(lambda: started(1, 3) and len(whole()) >= 2, process)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        assert not psutil.wait_procs(family, timeout=30)[1], "workers and kernels die with the command"
    before = {id: Path("out/runs", id, "run.json").stat().st_mtime_ns for id in whole()}
    assert ids[3] not in before and read_facts(Path("out/runs", ids[3]))["status"] == "running"
    Path("block3").unlink()

    assert sweep(find("01"), "grid.yaml", "out", workers=1, resume=True, report=lambda text: None) == {}

    assert sorted(path.name for path in Path("out/runs").iterdir()) == sorted(ids.values())
    assert before == {id: Path("out/runs", id, "run.json").stat().st_mtime_ns for id in before}, "what was done is not redone"
    assert set(plan(find("01"), "grid.yaml", "out").states.values()) == {"done"}
    content = json.loads(Path("out/sweep.json").read_text())
    assert content["notebook"] == "01_toy"
    assert content["runs"] == [{"id": ids[seed], "parameters": {"flip": True, "seeds": [seed]}} for seed in ids]
    for seed in (1, 3):
        run_notebook(find("01"), {"flip": True, "seeds": [seed]}, f"serial/{seed}", progress=False)
        assert Path("out/runs", ids[seed], "results.csv").read_bytes() == Path(f"serial/{seed}/results.csv").read_bytes()


def test_failures_are_retried_listed_and_resumed_and_stale_runs_noticed(quick_notebook, capfd):
    ids = grid(2)
    Path("break2").touch()
    arguments = ["sweep", "01", "--grid", "grid.yaml", "--out", "out", "--workers", "2", "--retries", "1"]
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capfd.readouterr()
    assert caught.value.code == 1
    assert "01_toy, Toys (pocket scale). Runs: 2 (2 missing), 2 to do." in out
    assert f"failed: {ids[2]} seeds=[2]: KeyError: 'broken on purpose'\n1 runs failed" in err
    assert "Compute Failed" not in err, "the workers' logs do not break the bar"
    assert sorted(Path("attempts").read_text().split()) == ["1", "2", "2"]
    assert read_facts(Path("out/runs", ids[2]))["status"] == "failed"
    assert "broken on purpose" in Path("out/runs", ids[2], "notebook.ipynb").read_text()
    assert sorted(path.name for path in Path("out/runs").iterdir()) == sorted(ids.values())

    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "out holds a sweep already: add --resume" in capfd.readouterr().err

    assert plan(find("01"), "grid.yaml", "out").waiting() == [ids[2]]
    quick_notebook.write_text(quick_notebook.read_text().replace("(200, 200)", "(200, 201)"))
    planned = plan(find("01"), "grid.yaml", "out")
    text = describe(planned)
    assert "Runs: 2 (1 failed, 1 stale), 1 to do." in text
    assert f"stale: {ids[1]} seeds=[1] (other code in the notebook)" in text and "--rerun-stale" in text
    assert (planned.waiting(), planned.waiting(rerun_stale=True)) == ([ids[2]], [ids[1], ids[2]])


def test_a_sweep_that_is_done_is_left_as_it_is(toy_notebook, capsys):
    (id,) = grid(1).values()
    finish_toy(Path("out/runs", id), page=False, flip=True, seeds=[1])
    Path("out/sweep.json").write_text(json.dumps({"notebook": "01_toy", "runs": []}))
    before = Path("out/runs", id, "run.json").stat().st_mtime_ns
    with pytest.raises(SystemExit) as caught:
        main(["sweep", "01", "--grid", "grid.yaml", "--out", "out", "--resume"])
    out = capsys.readouterr().out
    assert caught.value.code == 0 and "Runs: 1 (1 done), 0 to do.\nFinished without a failure: out\n" in out
    assert Path("out/runs", id, "run.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_stops_at_once_and_keeps_what_is_done(quick_notebook, workers):
    ids = grid(2)
    Path("block2").touch()
    with command("--workers", str(workers)) as process:
        wait_for(lambda: started(2) and whole() == {ids[1]}, process)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=60)
        assert not psutil.wait_procs(family, timeout=30)[1]
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "Stopped. What is done is kept; go on with --resume."
    assert "Traceback" not in err
    assert whole() == {ids[1]}


@contextmanager
def dask(*arguments, **settings):
    process = subprocess.Popen([sys.executable, "-m", "dask", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, **settings)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def test_workers_of_a_running_scheduler_compute_and_keep_to_their_memory(quick_notebook, tmp_path):
    ids = grid(3)
    Path("hog3").touch()
    Path("elsewhere").mkdir()  # the kernels start in the command's folder all the same
    file = ["--scheduler-file", str(tmp_path / "scheduler.json")]
    worker = ["worker", *file, "--nthreads", "1", "--no-dashboard", "--memory-limit", "1GB"]
    with (
        dask("scheduler", *file, "--port", "0", "--no-dashboard", "--host", "127.0.0.1") as scheduler,
        dask(*worker, cwd="elsewhere") as first,
        dask(*worker, cwd="elsewhere") as second,
    ):
        wait_for((tmp_path / "scheduler.json").exists, scheduler)
        address = json.loads((tmp_path / "scheduler.json").read_text())["address"]
        failed = sweep(find("01"), "grid.yaml", "out", scheduler=address, retries=0, report=lambda text: None)
        assert first.poll() is None and second.poll() is None, "the workers outlive a run that is too large"
    assert list(failed) == [f"{ids[3]} seeds=[3]"]
    message = r"MemoryError: the run held [12]\.\d\d GB, more than its worker's share of 1\.00 GB, and was stopped: use fewer"
    assert re.match(message, failed[f"{ids[3]} seeds=[3]"])
    assert read_facts(Path("out/runs", ids[3]))["error"] == failed[f"{ids[3]} seeds=[3]"]
    assert list(plan(find("01"), "grid.yaml", "out").states.values()) == ["done", "done", "failed"]
    assert not list(Path("elsewhere").glob("attempts"))


def test_what_cannot_start_is_said_before_anything_runs(quick_notebook):
    grid(1)
    with pytest.raises(ClipnotesError, match="No Dask scheduler answers at 'nowhere'"):
        sweep(find("01"), "grid.yaml", "out", scheduler="nowhere", report=lambda text: None)
    with pytest.raises(ClipnotesError, match="--workers is 2, but a scheduler brings its own"):
        sweep(find("01"), "grid.yaml", "out", scheduler="tcp://127.0.0.1:1", workers=2)
    with pytest.raises(ClipnotesError, match="holds a sweep of 01_toy, not of 02_more"):
        plan(find("02"), "grid.yaml", "out")
    Path("grid.yaml").write_text("notebook: 2\nruns: [{shots: 1}]")
    with pytest.raises(ClipnotesError, match="Grid grid.yaml is for the notebook 2, not for 01_toy"):
        plan(find("01"), "grid.yaml", "new")
    grid(1)
    Path("out/sweep.json").write_text("[")
    with pytest.raises(ClipnotesError, match="sweep.json .* is no valid JSON .* Delete it or add --force: the runs beside it"):
        plan(find("01"), "grid.yaml", "out")


# --- plans --------------------------------------------------------------------------------------------------------


def test_a_thousand_runs_are_planned_in_two_seconds(toy_notebook):
    Path("grid.yaml").write_text("axes: {shots: {range: [1, 10, 1]}, rate: {range: [0, 0.9, 0.1]}, seeds: {range: [1, 10, 1]}}")
    began = time.process_time()
    planned = plan(find("01"), "grid.yaml", "out")
    text = describe(planned, workers=4)
    assert time.process_time() - began < 2
    assert "Runs: 1000 (1000 missing), 1000 to do." in text and "no estimate" in text
    assert not Path("out").exists()


def test_a_plan_tells_done_failed_and_stale_runs_apart_and_estimates(toy_notebook, monkeypatch):
    ids = grid(5)
    folders = {seed: Path("out/runs", id) for seed, id in ids.items()}
    for seed, seconds in ((1, 100), (2, 300), (3, 200)):
        finish_toy(folders[seed], page=False, flip=True, seeds=[seed], facts={"seconds": seconds})
    write_facts(folders[3], read_facts(folders[3]) | {"versions": {"clipnotes": "0.0.9"}})
    write_facts(folders[4], {"notebook": "01_toy", "status": "failed", "parameters": {}})
    Path("out/runs/01-another").mkdir()

    planned = plan(find("01"), "grid.yaml", "out")

    assert list(planned.states.values()) == ["done", "done", "stale", "failed", "missing"]
    assert planned.waiting() == [ids[4], ids[5]] and planned.waiting(rerun_stale=True) == [ids[3], ids[4], ids[5]]
    text = describe(planned, workers=2)
    assert "Runs: 5 (2 done, 1 failed, 1 stale, 1 missing), 2 to do." in text
    assert f"stale: {ids[3]} seeds=[3] (by clipnotes 0.0.9, not {read_facts(folders[1])['versions']['clipnotes']})" in text
    assert "1 further runs in" in text
    assert "About 03:20 on 2 workers: 200.0 s a run is the median of the finished ones (2)." in text
    assert "About 06:40 of one worker" in describe(planned)
    (folders[1] / "results.csv").unlink()
    planned = plan(find("01"), "grid.yaml", "out")
    assert planned.states[ids[1]] == "damaged" and ids[1] in planned.waiting(), "a run that lost a file runs again"
    assert "1 damaged" in describe(planned)


@pytest.mark.parametrize("name", ["results.csv", "figures/fig1_toy.png", "notebook.ipynb", "run.json"])
def test_a_damaged_run_is_computed_again(toy_notebook, name):
    (id,) = grid(1).values()
    folder = finish_toy(Path("out/runs", id), page=False, flip=True, seeds=[1])
    assert plan(find("01"), "grid.yaml", "out").waiting() == []
    (folder / name).write_bytes(b"")
    assert plan(find("01"), "grid.yaml", "out").states == {id: "damaged"}
    assert plan(find("01"), "grid.yaml", "out").waiting() == [id]


def test_a_user_s_files_stay_unless_forced(toy_notebook, monkeypatch):
    (id,) = grid(1).values()
    notes = Path("out/runs/.notes/idea.txt")
    for file in (notes, Path("out/runs", id, "results.csv")):
        file.parent.mkdir(parents=True)
        file.write_text("mine")
    monkeypatch.setattr(engine, "run_notebook", lambda notebook, parameters, out, **settings: {"status": "complete"})
    quiet = {"workers": 1, "report": lambda text: None}
    with pytest.raises(ClipnotesError, match=f"runs/{id}/results.csv is there already, and no run of clipnotes made it so: "):
        sweep(find("01"), "grid.yaml", "out", **quiet)
    assert not Path("out/sweep.json").exists()
    sweep(find("01"), "grid.yaml", "out", force=True, **quiet)
    Path("out/sweep.json").write_text('["mine"]')
    with pytest.raises(ClipnotesError, match="sweep.json is damaged or of another making: its content must be object"):
        sweep(find("01"), "grid.yaml", "out", resume=True, **quiet)
    assert Path("out/sweep.json").read_text() == '["mine"]'
    sweep(find("01"), "grid.yaml", "out", force=True, **quiet)
    assert json.loads(Path("out/sweep.json").read_text())["notebook"] == "01_toy" and notes.read_text() == "mine"


def test_a_second_command_in_the_folder_is_refused(toy_notebook, monkeypatch):
    grid(1)
    monkeypatch.setattr("clipnotes.series.run_folder.PATIENCE", 0.1)
    with holding("out"), pytest.raises(ClipnotesError, match="out is in use by another run: wait until that is over"):
        sweep(find("01"), "grid.yaml", "out", workers=1, report=lambda text: None)
    assert not Path("out/sweep.json").exists()


def test_the_grid_estimates_a_paper_scale_sweep_that_has_not_begun(toy_notebook):
    Path("grid.yaml").write_text("gpu_minutes: 3\nruns: [{shots: 1}]\npaper: {axes: {seeds: {range: [1, 40, 1]}}, runs: []}")
    text = describe(plan(find("01"), "grid.yaml", "out", "paper"))
    assert "Runs: 40 (40 missing)" in text and "About 2.0 hours of one GPU, if the grid's 3 minutes a run are right." in text


def test_a_run_that_is_there_is_not_computed_again(toy_notebook):
    """Dask asks again for what a worker had done when that worker dies: its answers die with it."""
    (id,) = grid(1).values()
    folder = finish_toy(Path("out/runs", id), page=False, flip=True, seeds=[1], facts={"seconds": 12.5})
    before = (folder / "run.json").stat().st_mtime_ns
    facts = run_job(Job(find("01"), {"flip": True, "seeds": [1]}, folder, page=False, resume=True))
    assert facts["seconds"] == 12.5 and (folder / "run.json").stat().st_mtime_ns == before


def test_a_run_that_kills_its_workers_is_recorded_as_failed(toy_notebook):
    (id,) = grid(1).values()
    folder = finish_toy(Path("out/runs", id), status="failed", flip=True, seeds=[1], facts={"error": "an earlier one"})
    engine._keep_failure(Job(find("01"), {"flip": True, "seeds": [1]}, folder), "KilledWorker: the run's workers died 3 times")
    facts = read_facts(folder)
    assert (facts["status"], facts["error"]) == ("failed", "KilledWorker: the run's workers died 3 times")
    assert plan(find("01"), "grid.yaml", "out").waiting() == [id]


# --- workers and the feature cache --------------------------------------------------------------------------------


@contextmanager
def listening(answer):
    """The address of a server that calls answer(connection) for each that comes."""
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        def serve():
            with suppress(OSError):
                while True:
                    connections.append(server.accept()[0])
                    answer(connections[-1])

        Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.0 400 Bad Request\r\n\r\n", bytes(64), b"\xff" * 64, 2 * b"\1\0\0\0\0\0\0\0"])
def test_what_listens_elsewhere_is_no_scheduler_and_that_is_said_in_time(sent, monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT", 1)
    began = time.monotonic()
    with listening(lambda connection: connection.sendall(sent)) as address:
        with pytest.raises(ClipnotesError, match=f"No Dask scheduler answers at '{address}' .*: start one with"):
            with remote_client(address):
                pytest.fail("there is none")
    assert time.monotonic() - began < 10


def test_nobody_else_on_the_machine_can_use_the_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "TIMEOUT", 2)
    with local_client(workers=1) as client:
        addresses = [client.scheduler.address, *client.scheduler_info()["workers"]]
        assert len(addresses) == 2 and all(address.startswith("tls://") for address in addresses)
        for address in addresses:
            with pytest.raises(ClipnotesError, match="No Dask scheduler answers"), remote_client(address.replace("tls", "tcp")):
                pytest.fail("without encryption")
        with pytest.raises(OSError):
            Client(addresses[0], security=Security.temporary(), timeout=2)  # credentials of one's own making
        assert client.submit(sum, [1, 2]).result() == 3


def need(name, seconds, kill_once=""):
    """Features that are slow to compute; says how often that was begun, and dies in the middle where told to."""
    import torch

    def compute():
        with open("computed", "a") as stream:
            print(name, file=stream)
        time.sleep(seconds)
        if kill_once and not Path(kill_once).exists():
            Path(kill_once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.arange(3.0)

    return cached({"format": 1, "test": name}, compute).tolist()


def test_workers_share_features_and_one_that_dies_does_not_block_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with local_client(workers=2, retries=1) as client:
        twice = client.map(need, ["once"] * 2, [1.0] * 2, key=["once-1", "once-2"])
        assert client.gather(twice) == [[0, 1, 2]] * 2
        assert len(set(client.who_has(twice).values())) == 2, "two workers were at it"
        assert set(client.run(os.environ.get, "OMP_NUM_THREADS").values()) == {"3"}, "the user's choice"
        assert list(client.nthreads().values()) == [1, 1]
        assert Path("computed").read_text().split() == ["once"]
        twice = client.map(need, ["dying"] * 2, [1.0] * 2, kill_once="killed", key=["dying-1", "dying-2"])
        assert client.gather(twice) == [[0, 1, 2]] * 2
        assert Path("computed").read_text().split() == ["once", "dying", "dying"]

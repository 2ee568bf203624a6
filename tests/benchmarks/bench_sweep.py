"""What a sweep costs beyond papermill: runs of a small notebook, in a plain loop of papermill and as a sweep.

    python tests/benchmarks/bench_sweep.py [runs]

Both compute the same runs one after the other (the sweep with one worker) in the same process environment. A sweep starts
its cluster once; the overhead of a run is what is left when that is taken off.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))


def main(runs=20):
    import papermill
    from conftest import write_notebook

    from clipnotes.running.cluster import local_client
    from clipnotes.running.engine import Job, compute
    from clipnotes.running.sweep import plan
    from clipnotes.series.notebooks import find

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ |= {"CLIPNOTES_NOTEBOOKS": f"{folder}/notebooks", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        notebook = write_notebook(Path(folder, "notebooks", "01_toy.ipynb"))
        Path("grid.yaml").write_text(f"axes: {{seeds: {{range: [1, {runs}, 1]}}}}")
        planned = plan(find("01"), "grid.yaml", "out")
        (planned.out / "runs").mkdir(parents=True)

        def run(id, client):
            ((_, facts),) = compute([Job(planned.notebook, planned.runs[id], planned.out / "runs" / id, page=False)], client)
            assert facts["status"] == "complete", facts

        def loop(id, parameters):
            out = Path(folder, "loop", id)
            out.mkdir(parents=True)
            papermill.execute_notebook(
                str(notebook), str(out / "notebook.ipynb"), parameters=parameters | {"out": str(out)}, kernel_name="python3",
                progress_bar=False, extra_arguments=["--log-level=ERROR"],
            )

        began = time.perf_counter()
        with local_client(workers=1) as client:
            ids = list(planned.runs)
            run(ids[0], client)
            started = time.perf_counter() - began
            loop(ids[0], planned.runs[ids[0]])
            # taking turns: other work on the machine meets both alike
            seconds = {"papermill": 0.0, "sweep": 0.0}
            for id in ids[1:]:
                began = time.perf_counter()
                loop(id, planned.runs[id])
                middle = time.perf_counter()
                run(id, client)
                seconds["papermill"] += middle - began
                seconds["sweep"] += time.perf_counter() - middle
        for id in ids:
            files = [Path(folder, "loop", id, "results.csv"), planned.out / "runs" / id / "results.csv"]
            assert files[0].read_bytes() == files[1].read_bytes()
    count = len(ids) - 1
    for name, total in seconds.items():
        print(f"{name:<10} {total / count:.2f} s a run (mean of {count})")
    print(f"ratio {seconds['sweep'] / seconds['papermill']:.3f}; start of the cluster with its first run {started:.1f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

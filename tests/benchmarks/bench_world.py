"""How fast the pocket world is drawn: a batch at once against one picture at a time, both in this run.

python tests/benchmarks/bench_world.py [pictures] [repeats]
"""

import sys
import time

import numpy as np
import torch

from clipnotes.pocket import drawing, world


def best_seconds(work, repeats):
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main(n=512, repeats=5):
    torch.set_num_threads(1)
    started = time.perf_counter()
    drawing.glyph_templates()
    print(f"shape templates, once a process: {time.perf_counter() - started:.2f} s")
    f = world.sample_pretraining(np.random.default_rng(0), n)
    singles = [f[np.array([i])] for i in range(min(n, 128))]
    drawing.draw(f)  # warm up
    sampling = best_seconds(lambda: world.sample_pretraining(np.random.default_rng(0), n), repeats)
    together = best_seconds(lambda: drawing.draw(f), repeats)
    alone = best_seconds(lambda: [drawing.draw(one) for one in singles], repeats) / len(singles) * n
    print(f"one core, best of {repeats} repeats of {n} pictures:")
    print(f"  sampling factors     {n / sampling:10,.0f} pictures/s")
    print(f"  drawing, one batch   {n / together:10,.0f} pictures/s")
    print(f"  drawing, one by one  {n / alone:10,.0f} pictures/s")
    print(f"  ratio                {alone / together:10.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

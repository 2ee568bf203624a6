"""The bootstrap of the overlap area: first-order resampling of histograms against exact resampling of pairs.

    python tests/benchmarks/bench_overlap.py [rows] [draws]

Exact resampling redraws the rows and counts all N^2 pairs again in every draw; the first order needs one matrix
product for all draws. Both standard deviations are printed, so that speed is not had for nothing.
"""

import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

from clipnotes.analysis.overlap import image_histograms, resampled_areas


def features(n, classes=20, d=64):
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    x = rng.normal(size=(classes, d))[y] + 1.5 * rng.normal(size=(n, d))
    return F.normalize(torch.from_numpy(x).float(), dim=1), torch.from_numpy(y)


def exact_areas(x, y, bins, draws, seed=0):
    kind = ((x @ x.T + 1) * (bins / 2)).long().clamp(0, bins - 1) + bins * (y[:, None] == y[None])
    kind.fill_diagonal_(2 * bins)  # a row is no pair with its copies
    rng, areas = np.random.default_rng(seed), []
    for _ in range(draws):
        rows = torch.from_numpy(rng.integers(len(x), size=len(x)))
        counts = torch.bincount(kind[rows][:, rows].reshape(-1), minlength=2 * bins + 1)[:-1].double()
        unpaired, paired = counts.reshape(2, bins)
        areas.append(torch.minimum(paired / paired.sum(), unpaired / unpaired.sum()).sum().item())
    return np.array(areas)


def main(n=1000, draws=100, bins=200):
    torch.set_num_threads(1)
    x, y = features(n)
    started = time.perf_counter()
    exact = exact_areas(x, y, bins, draws)
    slow = time.perf_counter() - started
    started = time.perf_counter()
    histograms = image_histograms(x, y, x, y, bins, same_set=True)
    counted = time.perf_counter() - started
    fast_areas = resampled_areas(*histograms, draws, 1, same_set=True)
    fast = time.perf_counter() - started
    print(f"one core, {n} rows, {bins} bins, {draws} draws:")
    print(f"  exact resampling   {slow:8.2f} s, std of the area {exact.std(ddof=1):.5f}")
    print(f"  first order        {fast:8.2f} s ({counted:.2f} of it counting), std {fast_areas.std(ddof=1):.5f}")
    print(f"  ratio              {slow / fast:8.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

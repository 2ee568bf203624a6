"""Cache models against plainly written loops of the published scheme, on the same random arrays.

    python tests/benchmarks/bench_caches.py [rows] [keys] [classes] [evaluations]

The published searches evaluate 4,000 (Tip-Adapter) and 200,000 (Tip-X) settings one by one. Their loops are restated
here and timed on a FEW evaluations; the time of the whole grid is that times their number, i.e. EXTRAPOLATED. Ours are
timed whole. Accuracies on whole grids come from `search(grid=...)`, which the tests hold equal to the published tables.
"""

import sys
import time
from threading import Event, Thread

import torch
import torch.nn.functional as F

from clipnotes.methods import APE, TipAdapter, TipX
from clipnotes.methods.caches import kl_affinity
from clipnotes.methods.caches_search import GRIDS


def arrays(n, m, c, d=512):
    """Features around class centres, class texts somewhat off these centres."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=generator) / d**0.5

    common, centres = 3 * noise(1, d), noise(c, d)
    key_y, y = torch.arange(m) * c // m, torch.arange(n) % c
    keys, x = (F.normalize(common + centres[labels] + 5 * noise(len(labels), d), dim=1) for labels in (key_y, y))
    return x, y, keys, key_y, F.normalize(centres + 1.5 * noise(c, d), dim=1)


def published_tip(x, y, keys, one_hot, text, alpha, beta):
    """One evaluation: the affinity and both products anew."""
    logits = 100 * x @ text.T + alpha * torch.exp(-beta * (1 - x @ keys.T)) @ one_hot
    return (logits.argmax(1) == y).float().mean().item()


def published_cached(zero_shot, cosines, extra, y, values, alpha, beta):
    """One evaluation of paper A's Tip-X loop and of APE's: exponential and product in the innermost loop, rest given."""
    logits = zero_shot + alpha * torch.exp(-beta * (1 - cosines)) @ values + extra
    return (logits.argmax(1) == y).float().mean().item()


def published_kl(p, q, batch=100):
    """Every pair of distributions side by side in memory, a hundred rows at a time."""
    out = torch.zeros(len(p), len(q))
    for start in range(0, len(p), batch):
        rows = p[start:start + batch].repeat_interleave(len(q), 0)  # [batch M, C]
        columns = q.repeat(min(batch, len(p) - start), 1)
        out[start:start + batch] = (rows * (rows.log() - columns.log())).sum(1).reshape(-1, len(q))
    return out


def resident():
    """Memory of this process in MB, where the system tells."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 2**20
    except OSError:
        return float("nan")


def timed(function, repeat=1):
    """(result, seconds: the median of `repeat` calls, growth of resident memory in MB at its peak)."""
    done, before, peak = Event(), resident(), [0.0]

    def watch():
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident() - before)

    watcher = Thread(target=watch)
    watcher.start()
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - started)
    done.set()
    watcher.join()
    return result, sorted(seconds)[len(seconds) // 2], peak[0]


def main(n=2000, m=1600, c=100, evaluations=5):
    torch.set_num_threads(1)
    x, y, keys, key_y, text = arrays(n, m, c)
    one_hot = F.one_hot(key_y, c).float()
    print(f"one thread, {n} validation rows, {m} keys, {c} classes, d = {x.shape[1]}; "
          f"loops timed on {evaluations} evaluations and extrapolated")

    log_p, log_q = ((v @ text.T / 0.5).log_softmax(1) for v in (x, keys))
    plain, slow, slow_memory = timed(lambda: published_kl(log_p.exp(), log_q.exp()))
    kl, fast, fast_memory = timed(lambda: kl_affinity(log_p, log_q), 5)
    print(f"KL affinity:   loop {slow:8.2f} s, +{slow_memory:5.0f} MB; one product {fast:7.3f} s, +{fast_memory:4.0f} MB; "
          f"ratio {slow / fast:8.0f}; largest difference {(plain - kl).abs().max():.1e}")

    cosines, zero_shot = x @ keys.T, 100 * x @ text.T
    phi = ((kl - kl.min()) / (kl.max() - kl.min()) * (cosines.max() - cosines.min()) + cosines.min()).float()
    kl_votes = phi @ one_hot
    loops = {
        "Tip-Adapter": (4000, lambda i: published_tip(x, y, keys, one_hot, text, 1 + i, 5.0)),
        "Tip-X": (200_000, lambda i: published_cached(zero_shot, cosines, -2.0 * kl_votes, y, one_hot, 1 + i, 5.0)),
        "APE": (80_000, lambda i: published_cached(zero_shot, cosines, 0, y, one_hot * torch.rand(m, 1), 1 + i, 5.0)),
    }
    models = {"Tip-Adapter": (TipAdapter(), ["tip-adapter", "paper-a"]), "Tip-X": (TipX(), ["paper-a"]),
              "APE": (APE(), ["ape"])}
    print(f"zero-shot accuracy {100 * (zero_shot.argmax(1) == y).float().mean():.2f} %")
    for name, (number, loop) in loops.items():
        model, grids = models[name]
        model.fit(keys, key_y, text)
        slow = timed(lambda loop=loop: [loop(i) for i in range(evaluations)], 3)[1] / evaluations * number
        _, fast, memory = timed(lambda model=model: model.search(x, y))
        print(f"{name} search: loop {slow:8.0f} s (extrapolated to {number}); exact {fast:6.2f} s, +{memory:.0f} MB; "
              f"ratio {slow / fast:7.0f}; accuracy {100 * model.val_accuracy_:.2f} %")
        for grid in grids:
            _, fast, memory = timed(lambda model=model, grid=grid: model.search(x, y, grid=grid))
            values = GRIDS[grid]
            size = len(values.alphas) * len(values.betas) * (len(values.gammas) if model.has_gamma else 1)
            print(f"    on the grid of {grid}, {size} settings: {fast:6.2f} s, +{memory:.0f} MB; "
                  f"ratio {slow / number * size / fast:7.0f}; accuracy {100 * model.val_accuracy_:.2f} %")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

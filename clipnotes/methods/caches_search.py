"""Search of alpha, beta and gamma for cache models: exact in alpha, or the published grids in their tie order.

For fixed beta and gamma the logits are base + alpha slope, so every row is right on ONE interval of alpha: the wrong
classes each rule out a half line. All accuracies follow from the ends of these intervals, without further logits.
"""
from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from clipnotes.checks import Number, Several
from clipnotes.errors import ClipnotesError

if TYPE_CHECKING:
    from clipnotes.methods.caches import TipAdapter

BETAS = tuple(np.geomspace(0.1, 50, 40))
PLOT_ALPHAS = (0.0, *np.geomspace(0.01, 100, 81))  # of the surface after an exact search
FAR = 1e38  # stands for infinity among bounds; twice it is still a float32
UNHEARD = 1e15  # an alpha this large, for votes of 1, would drown the zero-shot logits in any precision
RESOLVED = 1e-5  # relative width of an interval of alpha that float32 logits still tell apart


@dataclass(frozen=True)
class Grid:
    """Values to try and the order of the loops over them, outermost first; of equal accuracies the first one wins.

    stale_range: at test time the code that used this grid scaled the KL to the range of the validation affinities.
    """
    alphas: tuple
    betas: tuple
    gammas: tuple = (0.0,)
    order: tuple = ("alpha", "beta", "gamma")
    stale_range: bool = False

    def __post_init__(self) -> None:
        for name in ("alphas", "betas", "gammas"):
            object.__setattr__(self, name, axis(name, getattr(self, name)))
        if sorted(self.order) != ["alpha", "beta", "gamma"]:
            raise ClipnotesError(f'order = {self.order} must name each of "alpha", "beta" and "gamma" once.')


def axis(name: str, values: Iterable[float]) -> tuple[float, ...]:
    """The values of one axis as a tuple of floats; ClipnotesError if there are none or one is out of range."""
    return Several(Number(0))(values, name)


def half_open(low: float, high: float, n: int) -> np.ndarray:
    """n values from low on, evenly spaced, high itself left out."""
    return low + np.arange(n) * (high - low) / n


def tip_adapter_grid(alpha_max: float = 3.0, beta_max: float = 7.0, n_alphas: int = 20, n_betas: int = 200) -> Grid:
    """Tip-Adapter's grid, whose maxima depend on the data set; the defaults are those of ImageNet."""
    return Grid(half_open(0.1, alpha_max, n_alphas), half_open(0.1, beta_max, n_betas), order=("beta", "alpha", "gamma"))


def ape_grid(beta_max: float = 7.0, alpha_max: float = 7.0, gamma_max: float = 1.0, n_gammas: int = 20) -> Grid:
    """APE's grid, whose maxima depend on the data set; the defaults are those of most of them."""
    return Grid(half_open(0.1, alpha_max, 20), half_open(0.1, beta_max, 200), half_open(0, gamma_max, n_gammas),
                ("beta", "alpha", "gamma"))


GRIDS = {
    "paper-a": Grid(np.linspace(0, 20, 200), np.linspace(0, 20, 20), np.linspace(0, 30, 50)),
    "tip-adapter": tip_adapter_grid(),
    "sus-x": Grid(half_open(0.1, 50, 20), half_open(1, 50, 200), half_open(0.1, 30, 50), stale_range=True),
    "ape": ape_grid(),
}


def named_grid(grid: Grid | str, betas: Iterable[float] | None, gammas: Iterable[float] | None) -> Grid:
    """The `Grid` of that name, or the one given."""
    if betas is not None or gammas is not None:
        raise ClipnotesError("Betas and gammas were given beside grid; put them into a Grid, or leave grid out.")
    if isinstance(grid, Grid):
        return grid
    if grid not in GRIDS:
        raise ClipnotesError(f"Grid {grid!r} is unknown; it must be a Grid or one of {', '.join(GRIDS)}.")
    return GRIDS[grid]


@dataclass(frozen=True)
class Found:
    """The best setting; intervals: (low, high) of `all_intervals` over the axes of `grid`; curve: best of every beta."""
    alpha: float
    beta: float
    gamma: float
    grid: Grid
    intervals: tuple
    curve: object

    @functools.cached_property
    def table(self) -> np.ndarray:
        """Accuracies [alphas, betas, gammas] over the axes of `grid`: for pictures, so only made when asked for."""
        return accuracies(*self.intervals, self.grid.alphas)

    @property
    def surface(self) -> pd.DataFrame:
        """Accuracy over alpha (rows) and beta (columns), at the best gamma of each pair: a DataFrame."""
        return pd.DataFrame(self.table.max(2), pd.Index(self.grid.alphas, name="alpha"),
                            pd.Index(self.grid.betas, name="beta"))


def best_over_alpha(model: TipAdapter, x: torch.Tensor, y: torch.Tensor, affinity_x: torch.Tensor,
                    betas: Iterable[float] | None = None, gammas: Iterable[float] | None = None) -> Found:
    """The best alpha in [0, inf) for every beta and gamma, and the best of all; ties as in `TipAdapter.search`."""
    if gammas is not None and not model.has_gamma:
        raise ClipnotesError(f"Gammas were given, but {type(model).__name__} has no gamma; leave them out.")
    grid = Grid(PLOT_ALPHAS, sorted(BETAS if betas is None else betas),
                sorted(model.default_gammas if gammas is None else gammas))
    betas, gammas = grid.betas, grid.gammas
    low, high = all_intervals(model, x, y, affinity_x, betas, gammas)
    alphas, counts = (np.array(part) for part in zip(*map(sweep, low, high), strict=True))  # [B, G] each
    b, g = np.unravel_index(counts.argmax(), counts.shape)  # the first maximum: smallest beta, then gamma
    rows = [(beta, gammas[j], alphas[i, j], counts[i, j] / len(y))
            for i, (beta, j) in enumerate(zip(betas, counts.argmax(1), strict=True))]
    return Found(float(alphas[b, g]), betas[b], gammas[g], grid, (low, high), curve(rows))


def best_on_grid(model: TipAdapter, x: torch.Tensor, y: torch.Tensor, affinity_x: torch.Tensor, grid: Grid) -> Found:
    """The best setting of a grid; the first one in its loop order wins."""
    grid = grid if model.has_gamma else replace(grid, gammas=(0.0,))
    intervals = all_intervals(model, x, y, affinity_x, grid.betas, grid.gammas)
    table = accuracies(*intervals, grid.alphas)
    order = [("alpha", "beta", "gamma").index(name) for name in grid.order]

    def first_best(table: np.ndarray) -> tuple[int, ...]:
        place = np.unravel_index(table.transpose(order).argmax(), [table.shape[a] for a in order])
        return tuple(int(place[order.index(a)]) for a in range(3))

    rows = []
    for i, beta in enumerate(grid.betas):
        a, _, g = first_best(table[:, [i]])
        rows.append((beta, grid.gammas[g], grid.alphas[a], table[a, i, g]))
    a, b, g = first_best(table)
    return Found(grid.alphas[a], grid.betas[b], grid.gammas[g], grid, intervals, curve(rows))


def curve(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["beta", "gamma", "alpha", "accuracy"])


def all_intervals(model: TipAdapter, x: torch.Tensor, y: torch.Tensor, affinity_x: torch.Tensor, betas: Sequence[float],
                  gammas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """`right_intervals` of every row at every beta and gamma: (low, high), numpy [B, G, N] each."""
    constant, per_gamma = model.fixed_terms(x, affinity_x)  # [C, N]
    margin, change = lead(constant, y), lead(per_gamma, y, tie=0)
    low, high = (np.empty((len(betas), len(gammas), len(y)), constant.numpy().dtype) for _ in range(2))
    for rows, i, js, votes in model.votes(affinity_x, betas, gammas):
        gain = lead(votes, y[rows], tie=0)
        for j, *ends in right_intervals(margin[:, rows], change[:, rows], gain, {j: gammas[j] for j in js}):
            low[i, j, rows], high[i, j, rows] = ends
    return low, high


def lead(table: torch.Tensor, y: torch.Tensor, tie: float = 1e-12) -> torch.Tensor:
    """By how much the true class is ahead of each class of a table [C, n]; a tie counts for the class argmax takes."""
    own = y[None]
    ahead = table.gather(0, own) - table
    if tie:
        ahead += torch.where(torch.arange(len(table))[:, None] >= own, tie, -tie)
    return ahead


def right_intervals(margin: torch.Tensor, change: torch.Tensor, gain: torch.Tensor,
                    gammas: dict[Any, float]) -> Iterator[tuple]:
    """Yield (key, low, high), for each {key: gamma} the open intervals of alpha on which rows are right, [n] each.

    Right means that the true class leads: margin + gamma change + alpha gain > 0, [C, n], for every class. So alpha lies
    above -margin / gain where the gain is positive, below it where negative. No alpha is right where low >= high.
    """
    scale = gain.abs().max().clamp(min=1e-38)  # votes of large betas are tiny, yet a large alpha makes them count
    gain = gain / scale + 1e-30  # where it is 0 the bound is far off, on the side that the margin's sign says
    inverse, sign = -1 / gain, gain.sign()
    # A bound of the other kind is moved out of sight; adding is several times faster than masks.
    no_low, no_high = FAR * (sign - 1), FAR * (sign + 1)
    bound, kept = torch.empty_like(gain), torch.empty_like(gain)
    for key, gamma in gammas.items():
        torch.add(margin, change, alpha=gamma, out=bound).mul_(inverse)
        low, high = torch.add(bound, no_low, out=kept).amax(0), torch.add(bound, no_high, out=kept).amin(0)
        yield key, low.masked_fill(low > UNHEARD, torch.inf) / scale, high / scale


def sorted_ends(low: np.ndarray, high: np.ndarray) -> Iterator[np.ndarray]:
    """Lower and upper ends [G, N] in ascending order, those of empty intervals at infinity."""
    empty = ~(np.maximum(low, 0) < high)
    return (np.sort(np.where(empty, np.inf, ends), axis=-1) for ends in (low, high))


def sweep(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The alpha in [0, inf) that most of N intervals (low, high) [G, N] hold, and how many: [G] each.

    The alpha returned lies inside the first best stretch between neighbouring ends: 0 if that begins there, else its
    middle, or just above its beginning where it is long. Stretches too narrow for float32 logits are passed over.
    """
    low, high = sorted_ends(low, high)
    low = np.maximum(low, 0)
    starts = np.sort(np.concatenate([np.zeros_like(low[:, :1]), low, high], 1), 1)  # [G, 2 N + 1]
    begun, ended = (torch.searchsorted(torch.from_numpy(ends), torch.from_numpy(starts), right=True).numpy()
                    for ends in (low, high))
    upper = np.append(starts[:, 1:], np.full_like(starts[:, :1], np.inf), 1)
    with np.errstate(invalid="ignore"):  # infinite ends
        wide = upper - starts > RESOLVED * (1 + starts)
    counts = np.where(wide | ((starts == 0) & (upper > 0)), begun - ended, 0)
    best = np.arange(len(counts)), counts.argmax(1)
    start, end, counts = (values[best] for values in (starts.astype(float), upper.astype(float), counts))
    inside = start + np.minimum(end - start, 0.1 * (1 + start)) / 2
    return np.where((start == 0) | (counts == 0), 0.0, inside), counts


def accuracies(low: np.ndarray, high: np.ndarray, alphas: Sequence[float]) -> np.ndarray:
    """Share of N intervals (low, high) [B, G, N] that hold each of A alphas, float64 [A, B, G]."""
    table = np.empty((len(alphas), *low.shape[:2]))
    values = torch.tensor(alphas, dtype=torch.float64).expand(low.shape[1], -1).contiguous()
    for b in range(len(low)):
        begin, end = (torch.from_numpy(ends).double() for ends in sorted_ends(low[b], high[b]))
        held = torch.searchsorted(begin, values) - torch.searchsorted(end, values, right=True)  # [G, A]
        table[:, b] = held.T.numpy() / low.shape[2]
    return table


def climb(model: TipAdapter, x: torch.Tensor, y: torch.Tensor, affinity_x: torch.Tensor) -> tuple[float, float]:
    """From the model's alpha and gamma, the best gamma for that alpha, the best alpha for that gamma and so on.

    Returns (alpha, gamma) as soon as neither gains; beta stays.
    """
    constant, per_gamma = model.fixed_terms(x, affinity_x)
    votes = torch.empty_like(constant)
    for rows, _, _, part in model.votes(affinity_x, [model.beta_], [model.gamma_]):
        votes[:, rows] = part

    def right(alpha: float, gamma: float) -> int:
        return int(((constant + gamma * per_gamma + alpha * votes).argmax(0) == y).sum())

    def best(base: torch.Tensor, slope: torch.Tensor) -> float:
        (_, low, high), = right_intervals(lead(base, y), torch.zeros_like(base), lead(slope, y, tie=0), {0: 0.0})
        return float(sweep(low[None].numpy(), high[None].numpy())[0][0])

    alpha, gamma, gained = model.alpha_, model.gamma_, True
    while gained:
        gained = False
        for which in ("gamma", "alpha"):
            new = ((alpha, best(constant + alpha * votes, per_gamma)) if which == "gamma" else
                   (best(constant + gamma * per_gamma, votes), gamma))
            if right(*new) > right(alpha, gamma):
                (alpha, gamma), gained = new, True
    return alpha, gamma

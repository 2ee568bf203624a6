"""The training of paper B (CoOp's), shared by prompts, probes and fine-tuning: one schedule, one order of batches."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from clipnotes.checks import SEED, Instance, Number, Whole, check_all
from clipnotes.errors import ClipnotesError
from clipnotes.seeding import generator

RATE = Number(0, 1000)  # of learning or decay; beyond it nothing is ever learnt, and float32 soon ends


@dataclass(frozen=True)
class SGDConfig:
    """SGD as in paper B, section 4, and the code behind it. ClipnotesError for values out of range."""
    epochs: int = 50
    batch_size: int = 32
    lr: float = 0.002
    warmup_lr: float = 1e-5
    momentum: float = 0.9
    weight_decay: float = 5e-4

    rules: ClassVar = {"epochs": Whole(1), "batch_size": Whole(1), "lr": RATE, "warmup_lr": RATE, "momentum": Number(0, 1),
                       "weight_decay": RATE}

    def __post_init__(self) -> None:
        check_all(self.rules, self)

    def brief(self) -> dict[str, float]:
        """The settings that recipes differ in, for a table."""
        return {"epochs": self.epochs, "lr": self.lr}


PAPER = SGDConfig()
TRAINING = {"sgd": Instance(SGDConfig, what="SGDConfig"), "seed": SEED}  # of every method that is trained so


def learning_rate(epoch: int, epochs: int = 50, lr: float = 0.002, warmup_lr: float = 1e-5) -> float:
    """Rate of an epoch, counted from 1: warmup_lr in the first, then lr/2 (1 + cos(pi (epoch - 2) / epochs)).

    The warm-up does not use up the cosine, so the rate never quite reaches 0 (paper B's code).
    """
    return warmup_lr if epoch == 1 else lr / 2 * (1 + math.cos(math.pi * (epoch - 2) / epochs))


def batch_rows(n: int, batch_size: int, epochs: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield the rows of every epoch's batches, int64 [steps, b]: a new order each time.

    The last incomplete batch is left out, unless there is no other: then b = n.
    """
    random, size = generator(seed, "batches"), min(batch_size, n)
    for _ in range(epochs):
        yield torch.randperm(n, generator=random)[:n - n % size].view(-1, size)


def batch_views(n_views: int, n: int, epochs: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield the view that every row shows in an epoch, int64 [n], of `n_views`."""
    random = generator(seed, "views")
    for _ in range(epochs):
        yield torch.randint(n_views, (n,), generator=random)


def train(config: SGDConfig, seed: int, parameters: Iterable[torch.nn.Parameter], batch_loss: Callable, n: int,
          n_views: int = 1, after_epoch: Callable | None = None, desc: str = "training", progress: bool = True) -> list[float]:
    """Minimise batch_loss(views [b], rows [b]) over the rows 0 .. n - 1; returns the mean loss of every epoch.

    seed: of the order of the rows and the choice of views. after_epoch(epoch), if given, is called when an epoch (from 1) is
    done. Raises ClipnotesError where the loss diverges.
    """
    from clipnotes.progress import progress_bar

    parameters = list(parameters)
    optimizer = torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay,
                                fused=True)  # tensor by tensor, steps took a fifth of the time of TEnc-FT
    order = zip(batch_rows(n, config.batch_size, config.epochs, seed), batch_views(n_views, n, config.epochs, seed),
                strict=True)
    losses = []
    bar = progress_bar(order, desc=desc, total=config.epochs, unit="epoch", leave=False, disable=not progress)
    for epoch, (batches, views) in enumerate(bar, 1):
        optimizer.param_groups[0]["lr"] = learning_rate(epoch, config.epochs, config.lr, config.warmup_lr)
        total = 0.0
        for rows in batches:
            loss = batch_loss(views[rows], rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / len(batches))
        check_finite(losses[-1], parameters, epoch, config.lr)
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
        if after_epoch:
            after_epoch(epoch)
    return losses


def check_finite(loss: float, learnt: Iterable[torch.Tensor], epoch: int, lr: float) -> None:
    """ClipnotesError where the loss of an epoch, or anything learnt by its last step, is not finite."""
    if not math.isfinite(loss):
        raise ClipnotesError(f"The loss became {loss} in epoch {epoch} with lr = {lr}; lower lr.")
    if not all(torch.isfinite(tensor.detach().sum()) for tensor in learnt):
        raise ClipnotesError(f"What is learnt became infinite or NaN in epoch {epoch} with lr = {lr}; lower lr.")

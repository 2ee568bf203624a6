"""Supervised training of the adapters inside the image encoder (arXiv 2409.11338; recipe of the authors' code).

What every training of adapters shares stands below: recipes, the order of images, steps, checkpoints.
"""
from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from clipnotes.backbone.adapters import AdaptedClip, Adapters, attach
from clipnotes.backbone.batches import batches_of
from clipnotes.backbone.clip import Clip
from clipnotes.backbone.pictures import ImageReader, pixel_statistics
from clipnotes.checked_files import Damaged, read_state, write_state
from clipnotes.checks import FLAG, SEED, Number, Whole, check_all, class_labels
from clipnotes.errors import ClipnotesError, in_words
from clipnotes.seeding import generator

# Of what every training of adapters has.
RULES = {"epochs": Whole(1), "batch_size": Whole(1), "lr": Number(0), "weight_decay": Number(0), "width": Whole(1),
         "scale": Number(0, above=True), "seed": SEED}


@dataclass(frozen=True)
class SupervisedConfig:
    """The authors' settings but for the pixels: AdamW, constant rate, torch's other defaults, no augmentation.

    width, scale: of new adapters. normalise: whether pixels get CLIP's mean and standard deviation, as they do wherever
    features are used. The authors' training leaves this out: their adapters learn on pixels from 0 to 1.
    seed: of the head's start, the order of images and the dropout; that of the adapters' start is theirs.
    """
    epochs: int = 1
    lr: float = 8e-3
    weight_decay: float = 0.01
    batch_size: int = 128
    normalise: bool = True
    width: int = 64
    scale: float = 0.03
    seed: int = 0

    rules: ClassVar = RULES | {"normalise": FLAG}

    def __post_init__(self) -> None:
        check_all(self.rules, self)


# "pocket" was chosen for the pocket backbones, on validation splits.
SUPERVISED_RECIPES = {"paper": SupervisedConfig(normalise=False), "pocket": SupervisedConfig(scale=0.1, lr=1e-3, epochs=8)}


def train_supervised(clip: Clip, images: Any, labels: Any, adapters: Adapters | None = None, recipe: str | None = None,
                     checkpoint: str | Path | None = None, save_every: int = 50, workers: int = 0, progress: bool = True,
                     **options: Any) -> AdaptedClip:
    """Train adapters to tell generic classes apart; returns the `AdaptedClip` of the trained adapters.

    A linear head on the raw corrected features [N, d] is trained along with softmax cross entropy and thrown away. Only
    adapters and head learn; the encoder stays frozen, its batch norms in evaluation mode.
    images: of any kind that `Clip.encode_images` takes. labels: int [N], from 0. adapters: `Adapters` to start from,
    trained in place; default: new ones. recipe: "paper" or "pocket" (`SUPERVISED_RECIPES`); default: the defaults of
    `SupervisedConfig`. options: its fields, which go before the recipe's. Each epoch leaves out the last incomplete batch, as
    the authors do, unless there is no other.
    checkpoint: file that keeps the state every `save_every` steps; a killed run goes on from it to the same weights.
    The result's `trained` has the recipe, which `save` keeps, its `losses` one number a step.

    Raises ClipnotesError for labels that do not fit, bad options, a checkpoint of another training, and divergence.
    """
    config = configured(SupervisedConfig(), SUPERVISED_RECIPES, recipe, options, adapters)
    labels = class_labels(labels, "labels", len(images), of="images").cpu()
    adapters = adapters or Adapters(clip.model.visual, width=config.width, scale=config.scale)
    adapted = attach(clip, adapters)
    identity = {"config": asdict(config), "adapters": adapted.adapters.settings, "start": adapted.fingerprint,
                "labels": hashlib.sha256(labels.numpy().tobytes()).hexdigest()}
    data = LabelledImages(ImageReader(images, training_preprocess(clip, config.normalise)), labels)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        head = nn.Linear(clip.dim, int(labels.max()) + 1).to(clip.device)
        learning = [*adapted.adapters.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(learning, lr=config.lr, weight_decay=config.weight_decay)
        parts = {"adapters": adapted.adapters, "head": head, "optimizer": optimizer}
        state = Checkpoint(checkpoint, save_every, identity, parts)
        step = partial(supervised_step, adapted, head, optimizer)
        adapted.adapters.train()
        adapted.losses = run_steps(step, data, batch_order(config, len(labels)), state, config, clip.name, workers, progress)
    adapted.adapters.eval()
    adapted.trained = {"method": "supervised", **asdict(config), "images": len(labels), "classes": head.out_features}
    return adapted


def supervised_step(adapted: AdaptedClip, head: nn.Module, optimizer: torch.optim.Optimizer, number: int, batch: torch.Tensor,
                    target: torch.Tensor) -> torch.Tensor:
    """The loss of a batch [B, 3, s, s] with labels [B], which adapters and head then learn from."""
    loss = F.cross_entropy(head(adapted.forward(batch)), target.to(adapted.device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


class LabelledImages(torch.utils.data.Dataset):
    def __init__(self, reader: ImageReader, labels: torch.Tensor) -> None:
        self.reader, self.labels = reader, labels

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.reader[index], self.labels[index]


def training_preprocess(clip: Clip, normalise: bool) -> Callable:
    """The CLIP's preprocessing, without its last step, the normalisation of pixels, where asked."""
    from torchvision.transforms import Compose

    if normalise:
        return clip.preprocess
    pixel_statistics(clip, "normalise=False", "leave it True")
    return Compose(clip.preprocess.transforms[:-1])


# --- what every training of adapters shares -----------------------------------------------------------------------


def configured(default: Any, recipes: dict[str, Any], recipe: str | None, options: dict, adapters: Adapters | None) -> Any:
    """A config of the kind of `default`: that or the named recipe, changed by options, of the form of adapters given."""
    if recipe is not None and recipe not in recipes:
        raise ClipnotesError(f"Unknown recipe {recipe!r}; choose from {', '.join(recipes)}, or None for the defaults.")
    made = {} if adapters is None else {name: adapters.settings[name] for name in ("width", "scale")}
    if set(made) & set(options):
        raise ClipnotesError("Width and scale are options of new adapters, but adapters that are already made were given; "
                             "give one or the other.")
    return replace(default if recipe is None else recipes[recipe], **options | made)


def batch_order(config: Any, n: int) -> list[list[int]]:
    """The rows of every step of the training, as lists of ints."""
    random, size = generator(config.seed), min(config.batch_size, n)
    orders = [torch.randperm(n, generator=random)[:n - n % size] for _ in range(config.epochs)]
    return [rows.tolist() for order in orders for rows in order.split(size)]


def run_steps(step: Callable, data: torch.utils.data.Dataset, batches: list, state: Checkpoint, config: Any, name: str,
              workers: int, progress: bool) -> list[float]:
    """Call loss = step(number, *batch) for every list of rows in `batches`, from where the checkpoint stands.

    Returns the losses of all steps, one float each. Raises ClipnotesError where one is not finite.
    """
    from clipnotes.progress import progress_bar

    losses = state.resume()
    bar = progress_bar(total=len(batches), initial=len(losses), desc=f"training adapters of {name}", disable=not progress)
    for batch in batches_of(data, batches[len(losses):], workers):
        torch.manual_seed(config.seed + 1 + len(losses))  # dropout is a function of (seed, step): resumed runs agree
        losses.append(step(len(losses), *batch).item())
        if not math.isfinite(losses[-1]):
            raise ClipnotesError(f"The loss became {losses[-1]} at step {len(losses)} with lr = {config.lr}; lower it.")
        bar.update()
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
        if len(losses) % state.every == 0 or len(losses) == len(batches):
            state.keep(losses)
    bar.close()
    return losses


class CheckpointError(ClipnotesError):
    """A checkpoint that this training cannot go on from."""


@dataclass
class Checkpoint:
    """The state of a training in a file, or nowhere where path is None.

    identity: what makes it this training and no other. parts: name -> whatever has a state_dict.
    """
    path: str | Path | None
    every: int  # steps from one writing to the next
    identity: dict
    parts: dict

    def keep(self, losses: list[float]) -> None:
        """Write the state, if there is a path. One that cannot be written costs time after a kill, not the training."""
        if not self.path:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        try:
            write_state(self.path, {"identity": self.identity, "losses": losses, **state})
        except OSError as error:
            warnings.warn(f"the checkpoint {self.path} cannot be written ({error.strerror or error}); the training goes on, "
                          "but starts afresh if it is killed", stacklevel=2)

    def resume(self) -> list[float]:
        """The losses of the steps that are done, with the state after them put into the parts; [] where no file is.

        Raises CheckpointError for a file that is damaged or foreign, and for the state of another training.
        """
        if not self.path or not os.path.isfile(self.path):
            return []
        try:
            state = read_state(self.path)
            saved = state["identity"]
        except (OSError, Damaged, KeyError, TypeError) as error:
            reason = f"it {error}" if isinstance(error, Damaged) else in_words(error)
            raise CheckpointError(f"Checkpoint {self.path} cannot be read ({reason}); delete it to start afresh.") from error
        if saved != self.identity:
            differ = ", ".join(name for name in self.identity if saved.get(name) != self.identity[name])
            raise CheckpointError(f"Checkpoint {self.path} belongs to another training (other {differ}); "
                                 "delete it, or give another file, to start afresh.")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return state["losses"]

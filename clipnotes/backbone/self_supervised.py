"""Self-supervised training of the adapters by DINO v1 (Caron et al. 2021, arXiv 2104.14294), as paper A's authors do it.

A student and a teacher share the frozen encoder and differ only in their adapters and heads. The student, on all crops
of an image, learns to predict what the teacher says of the image's other global crops; the teacher is a moving average
of the student. No label is involved.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from clipnotes.backbone.adapter_training import Checkpoint, batch_order, configured, run_steps
from clipnotes.backbone.adapters import AdaptedClip, Adapters, attach, encoder_form
from clipnotes.backbone.clip import Clip
from clipnotes.backbone.crops import CroppedImages
from clipnotes.backbone.dino_config import DINO_RECIPES, DinoConfig
from clipnotes.errors import ClipnotesError


def train_dino(clip: Clip, images: Any, adapters: Adapters | None = None, recipe: str | None = None,
               checkpoint: str | Path | None = None, save_every: int = 50, workers: int = 0, progress: bool = True,
               **options: Any) -> AdaptedClip:
    """Train adapters on images without labels; returns the `AdaptedClip` of the teacher's adapters after the last step.

    images: of any kind that `Clip.encode_images` takes. adapters: `Adapters` to start from; default: new ones.
    recipe: "paper" or "pocket" (`DINO_RECIPES`); default: the defaults of `DinoConfig`. options: its fields, which go before
    the recipe's. Dropout is off, as in the authors' code. Each epoch leaves out the last incomplete batch.
    checkpoint: file that keeps the state every `save_every` steps; a killed run goes on from it to the same weights.
    The result's `trained` has the recipe, which `save` keeps, its `losses` one number a step.

    Raises ClipnotesError for bad options, a checkpoint of another training, and divergence.
    """
    config = configured(DinoConfig(), DINO_RECIPES, recipe, options, adapters)
    check_fit(config, clip, len(images))
    student = attach(clip, adapters or Adapters(clip.model.visual, width=config.width, scale=config.scale))
    identity = {"config": asdict(config), "adapters": student.adapters.settings, "start": student.fingerprint,
                "images": len(images)}
    batches = batch_order(config, len(images))
    order = [[(number, row) for row in rows] for number, rows in enumerate(batches)]
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        pair = TeacherAndStudent(student, config, len(batches))
        state = Checkpoint(checkpoint, save_every, identity, pair.state())
        losses = run_steps(pair.step, CroppedImages(images, clip, config), order, state, config, clip.name, workers, progress)
    teacher = pair.teacher
    teacher.adapters.requires_grad_(True)
    teacher.losses, teacher.trained = losses, {"method": "dino", **asdict(config), "images": len(images)}
    return teacher


def check_fit(config: DinoConfig, clip: Clip, n_images: int) -> None:
    grid, _ = position_grid(clip.model.visual)
    stride = clip.image_size // grid
    if not n_images:
        raise ClipnotesError("No images to train on; give at least one.")
    if config.local_size < stride or config.local_size % stride:
        raise ClipnotesError(f"local_size = {config.local_size} does not fit {clip.name}, which sees an image in steps of "
                             f"{stride} pixels; give a multiple of {stride}.")


class TeacherAndStudent:
    """An adapted student, its teacher and the heads of both, with the step of a training of `n_steps` that changes them."""

    def __init__(self, student: AdaptedClip, config: DinoConfig, n_steps: int) -> None:
        self.plan, self.clip_norm = schedules(config, n_steps), config.clip_norm
        self.student = student
        self.teacher = attach(student.clip, copy.deepcopy(student.adapters).requires_grad_(False))
        self.head = Head(student.dim, config).requires_grad_(config.train_head).to(student.device)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.criterion = DinoLoss(config).to(student.device)
        self.pairs = [*zip(self.teacher.adapters.parameters(), student.adapters.parameters(), strict=True),
                      *zip(self.teacher_head.parameters(), self.head.parameters(), strict=True)]
        self.learning = [p for _, p in self.pairs if p.requires_grad]
        self.optimizer = torch.optim.AdamW([{"params": [p for p in self.learning if p.ndim > 1]},
                                            {"params": [p for p in self.learning if p.ndim == 1], "weight_decay": 0.0}])

    def state(self) -> dict[str, Any]:
        """All that changes, for a `Checkpoint`."""
        return {"student": self.student.adapters, "teacher": self.teacher.adapters, "head": self.head,
                "teacher_head": self.teacher_head, "criterion": self.criterion, "optimizer": self.optimizer}

    def step(self, number: int, *crops: torch.Tensor) -> torch.Tensor:
        """The loss of step `number` on crops [B, 3, s, s], the two global ones first, which the student then learns from."""
        now = {name: float(values[number]) for name, values in self.plan.items()}
        for group, decay in zip(self.optimizer.param_groups, (now["weight_decay"], 0.0), strict=True):
            group |= {"lr": now["lr"], "weight_decay": decay}
        with torch.no_grad():
            targets = self.teacher_head(encode_crops(self.teacher, crops[:2]))  # [2 B, K]
        loss = self.criterion(self.head(encode_crops(self.student, crops)), targets, now["temperature"])
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.learning:
            nn.utils.clip_grad_norm_(parameter, self.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in self.pairs:
                slow.lerp_(fast, 1 - now["momentum"])
        return loss


def schedules(config: DinoConfig, n_steps: int) -> dict[str, np.ndarray]:
    """What changes from step to step: name -> float64 [n_steps]."""
    steps_per_epoch = n_steps // config.epochs
    peak = config.peak_lr
    rise = np.linspace(0, peak, round(config.warmup_epochs * steps_per_epoch))
    warm = np.linspace(*config.teacher_temperatures, round(config.temperature_epochs * steps_per_epoch))
    return {"lr": np.append(rise, cosine(peak, config.min_lr, n_steps - len(rise)))[:n_steps],
            "weight_decay": cosine(config.weight_decay, config.final_weight_decay, n_steps),
            "momentum": cosine(config.momentum, 1.0, n_steps),
            "temperature": np.append(warm, np.full(n_steps, config.teacher_temperatures[1]))[:n_steps]}


def cosine(first: float, last: float, n: int) -> np.ndarray:
    """n values that leave `first` and would reach `last` at step n, along half a cosine."""
    return last + (first - last) * (1 + np.cos(np.pi * np.arange(n) / max(n, 1))) / 2


class Head(nn.Module):
    """Raw features [N, d] -> cosines with K prototypes [N, K]: three layers with GELU, unit norm, unit prototypes."""

    def __init__(self, dim: int, config: DinoConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.hidden),
                                    nn.GELU(), nn.Linear(config.hidden, config.bottleneck))
        for layer in self.layers[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.prototypes = nn.Linear(config.bottleneck, config.out_dim, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        unit_prototypes = F.normalize(self.prototypes.weight, dim=1)  # weight norm with all gains fixed at 1
        return F.normalize(self.layers(features), dim=1) @ unit_prototypes.T


class DinoLoss(nn.Module):
    """Cross entropy of the student's crops with what the teacher says of other global crops of the same images.

    With q_t = softmax((teacher_t - c) / T_teacher) and p_s = softmax(student_s / T_student): the mean of - q_t log p_s
    over images and over all pairs of a global crop t and another crop s. The centre c, a moving average of the teacher's
    outputs, keeps one prototype from taking all; it is updated after use.
    """

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.temperature, self.momentum = config.student_temperature, config.centre_momentum
        self.n_crops = 2 + config.local_crops
        self.register_buffer("centre", torch.zeros(config.out_dim))

    def forward(self, student: torch.Tensor, teacher: torch.Tensor, teacher_temperature: float) -> torch.Tensor:
        """Loss from the student's outputs [V B, K] on V crops and the teacher's [2 B, K] on the first two of them."""
        targets = F.softmax((teacher - self.centre) / teacher_temperature, dim=1).chunk(2)
        log_p = F.log_softmax(student / self.temperature, dim=1).chunk(self.n_crops)
        terms = [-(targets[t] * log_p[s]).sum(1).mean() for t in range(2) for s in range(self.n_crops) if s != t]
        self.centre.lerp_(teacher.mean(0), 1 - self.momentum)
        return torch.stack(terms).mean()


# --- encoding crops of other sizes ---------------------------------------------------------------------------------


def encode_crops(adapted: AdaptedClip, crops: Sequence[torch.Tensor]) -> torch.Tensor:
    """Raw corrected features [V B, d] of V crops [B, 3, s, s], all crops of a size in one pass."""
    features = []
    for size in dict.fromkeys(crop.shape[-1] for crop in crops):
        with interpolated_positions(adapted.model.visual, size * position_grid(adapted.model.visual)[0] // adapted.image_size):
            features.append(adapted.forward(torch.cat([crop for crop in crops if crop.shape[-1] == size])))
    return torch.cat(features)


def position_grid(visual: nn.Module) -> tuple[int, nn.Module]:
    """(places a side, the module that holds the position embeddings): a transformer itself, a ResNet's attention pool.

    Raises ClipnotesError for timm's encoders (SigLIP), which take images of their own size alone.
    """
    holder = visual.attnpool if encoder_form(visual)[0] else visual
    if not hasattr(holder, "positional_embedding"):
        raise ClipnotesError(f"Self-supervised training needs small crops, which the image encoder {type(visual).__name__} "
                             "does not take; train the adapters with labels, or use a model with open_clip's own encoder, "
                             "such as ViT-B-16.")
    return math.isqrt(len(holder.positional_embedding) - 1), holder


@contextmanager
def interpolated_positions(visual: nn.Module, n: int) -> Iterator[None]:
    """Inside the block the encoder takes images of n places a side: its position embeddings are interpolated (bicubic).

    A transformer and a ResNet's attention pool both hold them as [1 + g g, d], that of the class or mean token first.
    """
    grid, holder = position_grid(visual)
    original = holder.positional_embedding
    if n != grid:
        places = original[1:].T.reshape(1, -1, grid, grid)
        places = F.interpolate(places, size=(n, n), mode="bicubic", align_corners=False)
        positions = torch.cat([original[:1], places.flatten(2)[0].T])
        holder.positional_embedding = nn.Parameter(positions, requires_grad=False)
    try:
        yield
    finally:
        holder.positional_embedding = original

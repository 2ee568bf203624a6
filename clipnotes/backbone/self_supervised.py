"""Self-supervised training of the adapters by DINO v1 (Caron et al. 2021, arXiv 2104.14294), as paper A's authors do it.

A student and a teacher share the frozen encoder and differ only in their adapters and heads. The student, on all crops
of an image, learns to predict what the teacher says of the image's other global crops; the teacher is a moving average
of the student. No label is involved.
"""
from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from clipnotes.backbone.adapter_training import RULES, Checkpoint, batch_order, configured, run_steps
from clipnotes.backbone.adapters import AdaptedClip, Adapters, attach, encoder_form
from clipnotes.backbone.pictures import ImageReader, pixel_statistics
from clipnotes.checks import FLAG, Number, OneOf, Several, Whole, check_all
from clipnotes.errors import ClipnotesError
from clipnotes.seeding import fixed_random

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DinoConfig:
    """The authors' settings for ViT-B/16, but for the two that `DINO_RECIPES["paper"]` names.

    lr: peak at a batch of 256; it is scaled by batch_size / 256, rises linearly for `warmup_epochs` and falls on a
    cosine to min_lr. weight_decay rises on a cosine to final_weight_decay, momentum (of the teacher) to 1; the teacher's
    temperature rises linearly for `temperature_epochs`. Epochs of these may be fractions; all change step by step.
    clip_norm: largest gradient norm of each single parameter.
    train_head: False keeps the students' head at its random start, as the authors' code does.
    statistics: "clip" normalises pixels as they are wherever features are used, "imagenet" as the authors' training.
    local_size: pixels of a local crop, a multiple of the encoder's stride; global crops have the encoder's own size.
    flip, jitter (brightness, contrast, saturation, hue), grey, blur (of the first global, the second global and the
    local crops), solarise (of the second global crop): probabilities, or strengths in the case of jitter.
    """
    epochs: int = 10
    batch_size: int = 120
    lr: float = 8e-4
    min_lr: float = 2e-6
    warmup_epochs: float = 2.0
    weight_decay: float = 0.04
    final_weight_decay: float = 0.4
    clip_norm: float = 0.3
    momentum: float = 0.9998
    student_temperature: float = 0.1
    teacher_temperatures: tuple = (0.04, 0.07)
    temperature_epochs: float = 3.0
    centre_momentum: float = 0.9
    out_dim: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    train_head: bool = True
    local_crops: int = 10
    local_size: int = 96
    global_scale: tuple = (0.25, 1.0)
    local_scale: tuple = (0.05, 0.25)
    flip: float = 0.5
    jitter: tuple = (0.4, 0.4, 0.2, 0.1)
    grey: float = 0.2
    blur: tuple = (1.0, 0.1, 0.5)
    solarise: float = 0.2
    statistics: str = "clip"
    width: int = 64
    scale: float = 0.1
    seed: int = 0

    rules: ClassVar = RULES | {
        "min_lr": Number(0), "warmup_epochs": Number(0), "final_weight_decay": Number(0), "clip_norm": Number(0, above=True),
        "momentum": Number(0, 1), "student_temperature": Number(0, above=True), "temperature_epochs": Number(0),
        "teacher_temperatures": Several(Number(0, above=True), 2), "centre_momentum": Number(0, 1), "out_dim": Whole(1),
        "hidden": Whole(1), "bottleneck": Whole(1), "train_head": FLAG, "local_crops": Whole(0), "local_size": Whole(1),
        "global_scale": Several(Number(0, 1), 2), "local_scale": Several(Number(0, 1), 2), "flip": Number(0, 1),
        "jitter": Several(Number(0), 4), "grey": Number(0, 1), "blur": Several(Number(0, 1), 3), "solarise": Number(0, 1),
        "statistics": OneOf("clip", "imagenet")}

    def __post_init__(self) -> None:
        check_all(self.rules, self)


# "pocket": the best of twelve settings on validation splits, none of which lowered the overlap; a smaller head, fewer crops,
# and no augmentation that makes one drawn class look like another.
DINO_RECIPES = {
    "paper": DinoConfig(train_head=False, statistics="imagenet"),
    "pocket": DinoConfig(epochs=1, batch_size=32, lr=0.024, warmup_epochs=0.1, momentum=0.95, temperature_epochs=0.3,
                         out_dim=1024, hidden=512, bottleneck=64, local_crops=2, local_size=32, global_scale=(0.5, 1.0),
                         local_scale=(0.15, 0.5), flip=0.0, jitter=(0.4, 0.4, 0.2, 0.0), grey=0.0, blur=(0.0, 0.0, 0.0),
                         solarise=0.0, scale=0.3),
}


def train_dino(clip, images, adapters=None, recipe=None, checkpoint=None, save_every=50, workers=0, progress=True, **options):
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
    teacher = attach(clip, copy.deepcopy(student.adapters).requires_grad_(False))
    batches = batch_order(config, len(images))
    plan = schedules(config, len(batches))
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        head = Head(clip.dim, config).requires_grad_(config.train_head).to(clip.device)
        teacher_head = copy.deepcopy(head).requires_grad_(False)
        criterion = DinoLoss(config).to(clip.device)
        pairs = [*zip(teacher.adapters.parameters(), student.adapters.parameters(), strict=True),
                 *zip(teacher_head.parameters(), head.parameters(), strict=True)]
        learning = [p for _, p in pairs if p.requires_grad]
        optimizer = torch.optim.AdamW([{"params": [p for p in learning if p.ndim > 1]},
                                       {"params": [p for p in learning if p.ndim == 1], "weight_decay": 0.0}])

        def step(number, *crops):  # crops: the two global ones, then the local ones, [B, 3, s, s] each
            now = {name: float(values[number]) for name, values in plan.items()}
            for group, decay in zip(optimizer.param_groups, (now["weight_decay"], 0.0), strict=True):
                group |= {"lr": now["lr"], "weight_decay": decay}
            with torch.no_grad():
                targets = teacher_head(encode_crops(teacher, crops[:2]))  # [2 B, K]
            loss = criterion(head(encode_crops(student, crops)), targets, now["temperature"])
            optimizer.zero_grad()
            loss.backward()
            for parameter in learning:
                nn.utils.clip_grad_norm_(parameter, config.clip_norm)
            optimizer.step()
            with torch.no_grad():
                for slow, fast in pairs:
                    slow.lerp_(fast, 1 - now["momentum"])
            return loss

        identity = {"config": asdict(config), "adapters": student.adapters.settings, "start": student.fingerprint,
                    "images": len(images)}
        state = Checkpoint(checkpoint, save_every, identity,
                           {"student": student.adapters, "teacher": teacher.adapters, "head": head,
                            "teacher_head": teacher_head, "criterion": criterion, "optimizer": optimizer})
        order = [[(number, row) for row in rows] for number, rows in enumerate(batches)]
        data = CroppedImages(images, clip, config)
        teacher.losses = run_steps(step, data, order, state, config, clip.name, workers, progress)
    teacher.adapters.requires_grad_(True)
    teacher.trained = {"method": "dino", **asdict(config), "images": len(images)}
    return teacher


def check_fit(config, clip, n_images):
    grid, _ = position_grid(clip.model.visual)
    stride = clip.image_size // grid
    if not n_images:
        raise ClipnotesError("no images to train on; give at least one")
    if config.local_size < stride or config.local_size % stride:
        raise ClipnotesError(f"local_size = {config.local_size} does not fit {clip.name}, which sees an image in steps of "
                             f"{stride} pixels; give a multiple of {stride}")


def schedules(config, n_steps):
    """What changes from step to step: name -> float64 [n_steps]."""
    steps_per_epoch = n_steps // config.epochs
    peak = config.lr * config.batch_size / 256
    rise = np.linspace(0, peak, round(config.warmup_epochs * steps_per_epoch))
    warm = np.linspace(*config.teacher_temperatures, round(config.temperature_epochs * steps_per_epoch))
    return {"lr": np.append(rise, cosine(peak, config.min_lr, n_steps - len(rise)))[:n_steps],
            "weight_decay": cosine(config.weight_decay, config.final_weight_decay, n_steps),
            "momentum": cosine(config.momentum, 1.0, n_steps),
            "temperature": np.append(warm, np.full(n_steps, config.teacher_temperatures[1]))[:n_steps]}


def cosine(first, last, n):
    """n values that leave `first` and would reach `last` at step n, along half a cosine."""
    return last + (first - last) * (1 + np.cos(np.pi * np.arange(n) / max(n, 1))) / 2


class Head(nn.Module):
    """Raw features [N, d] -> cosines with K prototypes [N, K]: three layers with GELU, unit norm, unit prototypes."""

    def __init__(self, dim, config):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.hidden),
                                    nn.GELU(), nn.Linear(config.hidden, config.bottleneck))
        for layer in self.layers[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.prototypes = nn.Linear(config.bottleneck, config.out_dim, bias=False)

    def forward(self, features):
        unit_prototypes = F.normalize(self.prototypes.weight, dim=1)  # weight norm with all gains fixed at 1
        return F.normalize(self.layers(features), dim=1) @ unit_prototypes.T


class DinoLoss(nn.Module):
    """Cross entropy of the student's crops with what the teacher says of other global crops of the same images.

    With q_t = softmax((teacher_t - c) / T_teacher) and p_s = softmax(student_s / T_student): the mean of - q_t log p_s
    over images and over all pairs of a global crop t and another crop s. The centre c, a moving average of the teacher's
    outputs, keeps one prototype from taking all; it is updated after use.
    """

    def __init__(self, config):
        super().__init__()
        self.temperature, self.momentum = config.student_temperature, config.centre_momentum
        self.n_crops = 2 + config.local_crops
        self.register_buffer("centre", torch.zeros(config.out_dim))

    def forward(self, student, teacher, teacher_temperature):
        """Loss from the student's outputs [V B, K] on V crops and the teacher's [2 B, K] on the first two of them."""
        targets = F.softmax((teacher - self.centre) / teacher_temperature, dim=1).chunk(2)
        log_p = F.log_softmax(student / self.temperature, dim=1).chunk(self.n_crops)
        terms = [-(targets[t] * log_p[s]).sum(1).mean() for t in range(2) for s in range(self.n_crops) if s != t]
        self.centre.lerp_(teacher.mean(0), 1 - self.momentum)
        return torch.stack(terms).mean()


# --- crops --------------------------------------------------------------------------------------------------------


class CroppedImages(torch.utils.data.Dataset):
    """Images by (step, row) as lists of augmented crops, which are a function of (seed, step, row) alone."""

    def __init__(self, images, clip, config):
        from torchvision.transforms import v2

        large = crop_transform(clip, config, clip.image_size, config.global_scale, config.blur[0], 0.0)
        other = crop_transform(clip, config, clip.image_size, config.global_scale, config.blur[1], config.solarise)
        local = crop_transform(clip, config, config.local_size, config.local_scale, config.blur[2], 0.0)
        transforms = [large, other, *[local] * config.local_crops]
        tensor = v2.PILToTensor()
        self.reader = ImageReader(images, lambda image: [transform(tensor(image)) for transform in transforms])
        self.seed = config.seed

    def __getitem__(self, index):
        number, row = index
        with fixed_random(self.seed, number, row):
            return self.reader[row]


def crop_transform(clip, config, size, scale, blur, solarise):
    """uint8 image [3, H, W] -> normalised crop [3, size, size].

    The authors blur with a standard deviation of up to 2 pixels of 224; here it goes with the encoder's image size.
    """
    from torchvision.transforms import v2

    sigma = 2 * clip.image_size / 224
    mean, std = IMAGENET
    if config.statistics == "clip":
        mean, std = pixel_statistics(clip, "statistics='clip'", "choose 'imagenet'")
    return v2.Compose([
        v2.RandomResizedCrop(size, scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(config.flip),
        v2.RandomApply([v2.ColorJitter(*config.jitter)], 0.8),
        v2.RandomGrayscale(config.grey),
        v2.RandomApply([v2.GaussianBlur(2 * math.ceil(3 * sigma) + 1, (sigma / 20, sigma))], blur),
        v2.RandomSolarize(128, solarise),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean, std),
    ])


def encode_crops(adapted: AdaptedClip, crops):
    """Raw corrected features [V B, d] of V crops [B, 3, s, s], all crops of a size in one pass."""
    features = []
    for size in dict.fromkeys(crop.shape[-1] for crop in crops):
        with interpolated_positions(adapted.model.visual, size * position_grid(adapted.model.visual)[0] // adapted.image_size):
            features.append(adapted.forward(torch.cat([crop for crop in crops if crop.shape[-1] == size])))
    return torch.cat(features)


def position_grid(visual):
    """(places a side, the module that holds the position embeddings): a transformer itself, a ResNet's attention pool.

    Raises ClipnotesError for timm's encoders (SigLIP), which take images of their own size alone.
    """
    holder = visual.attnpool if encoder_form(visual)[0] else visual
    if not hasattr(holder, "positional_embedding"):
        raise ClipnotesError(f"self-supervised training needs small crops, which the image encoder {type(visual).__name__} "
                             "does not take; train the adapters with labels, or use a model with open_clip's own encoder, "
                             "such as ViT-B-16")
    return math.isqrt(len(holder.positional_embedding) - 1), holder


@contextmanager
def interpolated_positions(visual, n):
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

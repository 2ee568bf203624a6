"""What there is to set in the self-supervised training of the adapters, and the two recipes of it."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clipnotes.backbone.adapter_training import RULES
from clipnotes.checks import FLAG, Number, OneOf, Several, Whole, check_all


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

    @property
    def peak_lr(self) -> float:
        """The highest learning rate of the training, reached when the warm-up ends."""
        return self.lr * self.batch_size / 256


# "pocket": the best of twelve settings on validation splits, none of which lowered the overlap; a smaller head, fewer crops,
# and no augmentation that makes one drawn class look like another.
DINO_RECIPES = {
    "paper": DinoConfig(train_head=False, statistics="imagenet"),
    "pocket": DinoConfig(epochs=1, batch_size=32, lr=0.024, warmup_epochs=0.1, momentum=0.95, temperature_epochs=0.3,
                         out_dim=1024, hidden=512, bottleneck=64, local_crops=2, local_size=32, global_scale=(0.5, 1.0),
                         local_scale=(0.15, 0.5), flip=0.0, jitter=(0.4, 0.4, 0.2, 0.0), grey=0.0, blur=(0.0, 0.0, 0.0),
                         solarise=0.0, scale=0.3),
}

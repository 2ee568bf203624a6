"""The augmented crops of DINO: two large ones and several small ones of every image."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from clipnotes.backbone.clip import Clip
from clipnotes.backbone.dino_config import DinoConfig
from clipnotes.backbone.pictures import ImageReader, pixel_statistics
from clipnotes.seeding import fixed_random

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CroppedImages(torch.utils.data.Dataset):
    """Images by (step, row) as lists of augmented crops, which are a function of (seed, step, row) alone."""

    def __init__(self, images: Any, clip: Clip, config: DinoConfig) -> None:
        from torchvision.transforms import v2

        large = crop_transform(clip, config, clip.image_size, config.global_scale, config.blur[0], 0.0)
        other = crop_transform(clip, config, clip.image_size, config.global_scale, config.blur[1], config.solarise)
        local = crop_transform(clip, config, config.local_size, config.local_scale, config.blur[2], 0.0)
        transforms = [large, other, *[local] * config.local_crops]
        tensor = v2.PILToTensor()
        self.reader = ImageReader(images, lambda image: [transform(tensor(image)) for transform in transforms])
        self.seed = config.seed

    def __getitem__(self, index: tuple[int, int]) -> list[torch.Tensor]:
        number, row = index
        with fixed_random(self.seed, number, row):
            return self.reader[row]


def crop_transform(clip: Clip, config: DinoConfig, size: int, scale: tuple, blur: float, solarise: float) -> Callable:
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

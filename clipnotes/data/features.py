"""Features of a task's images under a CLIP, from the disk cache or encoded and kept."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from clipnotes.backbone.clip import VIEWS, Clip
from clipnotes.backbone.pictures import READING, ImageReader, RandomViews
from clipnotes.checks import SEED
from clipnotes.data.bank import FeatureBank, FeatureSplit
from clipnotes.data.cache import FORMAT, cached, resumed
from clipnotes.data.images import SPLITS, Split
from clipnotes.data.tasks import Task


def encode_task(clip: Clip, task: Task, batch_size: int = 64, progress: bool = True, workers: int | None = None, views: int = 1,
                crop: tuple[float, float] = (0.08, 1.0), view_seed: int = 1, splits: Sequence[str] = SPLITS,
                as_shown: bool = True) -> FeatureBank:
    """The FeatureBank of a task under a CLIP, the splits named from the disk cache where it holds them, else encoded and kept.

    Features are raw, as `Clip.encode_images` returns them; `text` is the zero-shot classifier of the task's templates.
    views: with V > 1 the training images are encoded as V random views each, train.x [V, N, d]; crop, view_seed: see
    `Clip.encode_views`. Validation and test images always show their plain view. as_shown: see `Clip.encode_images`. Splits
    without images, of sets for testing only, are left out. A killed encoding goes on where it was.
    """
    parts, options = {}, {"batch_size": batch_size, "progress": progress, "workers": workers, "as_shown": as_shown}
    for split in splits:
        part = getattr(task, split)
        if len(part):
            x = encode_split(clip, part, VIEWS(views, "views") if split == "train" else 1, crop, view_seed, **options)
            parts[split] = FeatureSplit(x, part.labels)
    return FeatureBank(task.name, parts, task.classnames, clip.classifier(task.classnames, task.templates))


def encode_split(clip: Clip, split: Split, views: int = 1, crop: tuple[float, float] = (0.08, 1.0), view_seed: int = 1,
                 batch_size: int = 64, as_shown: bool = True, **options: Any) -> torch.Tensor:
    """Raw features [N, d] of one split, [V, N, d] with V > 1 views, from the disk cache or encoded and kept.

    views, crop, view_seed: see `encode_task`. options: progress and workers of `Clip.encode_images`.
    """
    key = {"format": FORMAT, "model": clip.fingerprint, "images": split.fingerprint, "views": "plain"}
    if split.files or not as_shown:  # drawn pixels are read in one way only
        key["reading"] = READING if as_shown else "as CLIP's own code"
    if views > 1:
        key["views"] = {"n": views, "crop": [float(share) for share in crop], "seed": SEED(view_seed, "view_seed")}
    n = len(split)

    def batches(start):
        """Batches of all views, one view after the other, from row `start` of these V N rows on."""
        for view in range(start // max(n, 1), views):
            data = (ImageReader(split.images, clip.preprocess, as_shown) if views == 1 else
                    RandomViews(split.images, clip, crop, [view_seed, view]))
            yield from clip.encode_batches(data, max(0, start - view * n), batch_size, **options)

    def compute():
        rows = resumed(key, batches, batch_size=batch_size)
        return rows if views == 1 else rows.reshape(views, n, -1)

    return cached(key, compute)

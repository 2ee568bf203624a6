"""Load a CLIP, frozen, and encode images and texts with it."""
from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipnotes.backbone.batches import batches_of
from clipnotes.backbone.open_clip_models import POCKET, load_open_clip
from clipnotes.backbone.pictures import ImageReader, RandomViews
from clipnotes.backbone.text import classifier
from clipnotes.checks import TEXT, Several, Whole
from clipnotes.device import choose_device
from clipnotes.errors import ClipnotesError

VIEWS = Whole(1, 1000)  # of an image
LARGEST_SCALE = 1000  # CLIP's is held below 100, SigLIP's is 118


class Clip:
    """A frozen CLIP in evaluation mode: the open_clip model with its own preprocessing and tokenizer.

    Attributes: name; model (`open_clip` module); preprocess (PIL image -> tensor); tokenizer; dim (feature size d);
    image_size (pixels a side); logit_scale (1/temperature, 100 for released CLIP); device. SigLIP's logit_bias is left
    out: it is the same for every class, so neither softmax nor argmax over the classes sees it.
    """

    def __init__(self, name: str, model: torch.nn.Module, preprocess: Callable, tokenizer: Callable,
                 device: str = "cpu") -> None:
        self.name, self.preprocess, self.tokenizer, self.device = name, preprocess, tokenizer, device
        self.model = model.to(device).float().eval().requires_grad_(False)
        size = model.visual.image_size
        self.image_size = size if isinstance(size, int) else size[0]
        check_finite(model, name)
        self.logit_scale = scale_of(model, name)
        self.dim = self.encode_texts(["a"]).shape[1]

    def __repr__(self):
        return f"Clip({self.name!r}, dim={self.dim}, image_size={self.image_size}, logit_scale={self.logit_scale:.1f})"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash over all weights and the preprocessing: equal exactly when features are."""
        steps = re.sub(r" at 0x\w+", "", repr(self.preprocess))  # a function's address changes with every process
        digest = hashlib.sha256(steps.encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def encode_images(self, images: Any, batch_size: int = 64, progress: bool = True, workers: int | None = None,
                      as_shown: bool = True) -> torch.Tensor:
        """Raw (not unit) image features, float32 [N, d] on the CPU.

        images: paths, PIL images, or arrays as `open_image` takes them; also one array [N, H, W, 3]. Pictures are read as
        one sees them, upright and on white, which CLIP's own code does not do: as_shown=False reads them as it does, see
        `pictures`. workers: processes that read and resize images; None: see `default_workers`. Raises ClipnotesError for
        a missing or unreadable image, naming it.
        """
        return self.encode_pixels(ImageReader(images, self.preprocess, as_shown), batch_size, progress, workers)

    def encode_views(self, images: Any, n_views: int, crop: tuple[float, float] = (0.08, 1.0), seed: int = 1,
                     batch_size: int = 64, progress: bool = True, workers: int | None = None) -> torch.Tensor:
        """Features [V, N, d] of V random views of every image, otherwise as `encode_images`.

        A view is a random crop of a share of the area in the range `crop`, resized to the encoder's size, mirrored in half
        of the cases; what comes out depends on seed, view and row alone. Paper B trains on crops of 0.08 to 1, paper A
        averages keys over ten of 0.5 to 1.
        """
        return torch.stack([self.encode_pixels(RandomViews(images, self, crop, [seed, view]), batch_size, progress, workers)
                            for view in range(VIEWS(n_views, "n_views"))])

    def encode_pixels(self, data: torch.utils.data.Dataset, batch_size: int, progress: bool,
                      workers: int | None) -> torch.Tensor:
        """Features [N, d] of a dataset of preprocessed images."""
        return torch.cat(list(self.encode_batches(data, 0, batch_size, progress, workers)))

    @torch.inference_mode()
    def encode_batches(self, data: torch.utils.data.Dataset, start: int = 0, batch_size: int = 64, progress: bool = True,
                       workers: int | None = None) -> Iterator[torch.Tensor]:
        """Yield the features [B, d] of a dataset of preprocessed images, batch by batch from row `start` on.

        No more pixels are in memory than of a few batches. Where no row is left, one empty batch comes.
        """
        from clipnotes.progress import progress_bar

        rows = [[*range(first, min(first + batch_size, len(data)))] for first in range(start, len(data), batch_size)]
        workers = default_workers(data.images, len(data) - start, batch_size, self.device) if workers is None else workers
        batches = progress_bar(batches_of(data, rows, workers, on_gpu(self.device)), desc=f"encoding images with {self.name}",
                               initial=start // batch_size, total=start // batch_size + len(rows), leave=False,
                               disable=not progress or len(rows) < 4)
        if not rows:
            yield torch.empty(0, self.dim)
        for batch in batches:  # channels last: a third faster for ResNets on a CPU
            batch = batch.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            yield self.model.encode_image(batch, normalize=False).float().cpu()

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """Raw (not unit) text features, float32 [N, d] on the CPU; ClipnotesError for anything but a list of texts."""
        if len(texts) or isinstance(texts, str):
            texts = Several(TEXT)(texts, "texts")
        tokens = self.tokenizer(list(texts))
        parts = (part.to(self.device) for part in tokens.split(batch_size))
        return torch.cat([self.model.encode_text(part, normalize=False).float().cpu() for part in parts])

    def classifier(self, classnames: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
        """Zero-shot class weights [C, d], see `text.classifier`."""
        return classifier(self, classnames, templates)


def on_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


def default_workers(images: Any, n: int, batch_size: int, device: str) -> int:
    """Processes that read n images from files while the encoder works: all cores but one beside a GPU, else one.

    None for pixels in memory, whose preprocessing is quick, and for less than four batches, which end before workers start.
    """
    cores = os.cpu_count() or 1
    if isinstance(images, np.ndarray) or n <= 3 * batch_size:
        return 0
    return cores - 1 if on_gpu(device) else min(1, cores - 1)


def check_finite(model: torch.nn.Module, name: str) -> None:
    """ClipnotesError where weights hold NaN or infinite values; masks, which are no parameters, may hold the latter.

    Nothing here reads CoCa's decoder of captions, and open_clip leaves a part of it unset where it loads no weights.
    """
    broken = [each for each, tensor in model.named_parameters()
              if not each.startswith("text_decoder.") and not torch.isfinite(tensor).all()]
    broken += [each for each, tensor in model.named_buffers() if tensor.isnan().any()]
    if broken:
        raise ClipnotesError(f"Weights of {name} hold NaN or infinite values, {len(broken)} of them, such as {broken[0]}; get "
                             "the file again.")


def scale_of(model: torch.nn.Module, name: str) -> float:
    """1/temperature, the exponential of the weight `logit_scale`; ClipnotesError where it is no scale."""
    scale = float(model.logit_scale.exp())
    if not 0 < scale <= LARGEST_SCALE:
        raise ClipnotesError(f"Weights of {name} have logit_scale = {float(model.logit_scale):g}, which makes a scale of "
                             f"{scale:.3g}; it is the logarithm of a scale up to {LARGEST_SCALE}, 4.6 for CLIP's 100.")
    return scale


def load_clip(name: str = "pocket-vit", pretrained: str | Path | None = None, device: str = "auto") -> Clip:
    """Load a CLIP by name.

    name: "pocket-vit", "pocket-rn" or any model of open_clip ("RN50", "ViT-B-32", "ViT-B/16" ...).
    pretrained: an open_clip tag ("openai", "laion2b_s34b_b79k" ...), the path of a checkpoint (open_clip's
    .safetensors or .pt, or OpenAI's own .pt archive), or "random" for seeded untrained weights. Default: "openai";
    the pocket models take their own weights, or the path of others. OpenAI's weights always get QuickGELU. A file gets the
    preprocessing that all released weights of its architecture share.
    device: see `choose_device`.

    Raises ClipnotesError for an unknown model or tag, weights that are not there and cannot be downloaded, weights of
    another architecture or shape or that are not finite, an activation that does not fit the weights, and a tokenizer that
    cannot be had.
    """
    device = choose_device(device)
    if name in POCKET:
        from clipnotes.pocket.model import load

        return Clip(name, *load(name, pretrained), device=device)
    name = name if ":" in name else name.replace("/", "-")  # the former is no name, and said to be none
    return Clip(name, *load_open_clip(name, str(pretrained or "openai")), device=device)

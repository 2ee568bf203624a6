"""Load a CLIP, frozen, and encode images and texts with it."""
from __future__ import annotations

import functools
import hashlib
import os
import re
from pathlib import Path

import numpy as np
import torch

from clipnotes.backbone.open_clip_models import POCKET, load_open_clip
from clipnotes.backbone.text import classifier
from clipnotes.device import choose_device
from clipnotes.errors import ClipnotesError


class Clip:
    """A frozen CLIP in evaluation mode: the open_clip model with its own preprocessing and tokenizer.

    Attributes: name; model (`open_clip` module); preprocess (PIL image -> tensor); tokenizer; dim (feature size d);
    image_size (pixels a side); logit_scale (1/temperature, 100 for released CLIP); device. SigLIP's logit_bias is left
    out: it is the same for every class, so neither softmax nor argmax over the classes sees it.
    """

    def __init__(self, name, model, preprocess, tokenizer, device="cpu"):
        self.name, self.preprocess, self.tokenizer, self.device = name, preprocess, tokenizer, device
        self.model = model.to(device).float().eval().requires_grad_(False)
        size = model.visual.image_size
        self.image_size = size if isinstance(size, int) else size[0]
        self.logit_scale = float(model.logit_scale.exp())
        self.dim = self.encode_texts(["a"]).shape[1]

    def __repr__(self):
        return f"Clip({self.name!r}, dim={self.dim}, image_size={self.image_size}, logit_scale={self.logit_scale:.1f})"

    @functools.cached_property
    def fingerprint(self):
        """Hash over all weights and the preprocessing: equal exactly when features are."""
        steps = re.sub(r" at 0x\w+", "", repr(self.preprocess))  # a function's address changes with every process
        digest = hashlib.sha256(steps.encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def encode_images(self, images, batch_size=64, progress=True, workers=None):
        """Raw (not unit) image features, float32 [N, d] on the CPU.

        images: paths, PIL images, or uint8 arrays [H, W, 3] or [H, W]; also one uint8 array [N, H, W, 3]. Grey images
        are turned into RGB. workers: processes that read and resize images; None: see `default_workers`. Raises
        ClipnotesError for a missing or unreadable image, naming it.
        """
        return self.encode_pixels(ImageReader(images, self.preprocess), batch_size, progress, workers)

    def encode_views(self, images, n_views, crop=(0.08, 1.0), seed=1, batch_size=64, progress=True, workers=None):
        """Features [V, N, d] of V random views of every image, otherwise as `encode_images`.

        A view is a random crop of a share of the area in the range `crop`, resized to the encoder's size, mirrored in half
        of the cases; what comes out depends on seed, view and row alone. Paper B trains on crops of 0.08 to 1, paper A
        averages keys over ten of 0.5 to 1.
        """
        return torch.stack([self.encode_pixels(RandomViews(images, self, crop, [seed, view]), batch_size, progress, workers)
                            for view in range(n_views)])

    def encode_pixels(self, data, batch_size, progress, workers):
        """Features [N, d] of a dataset of preprocessed images."""
        return torch.cat(list(self.encode_batches(data, 0, batch_size, progress, workers)))

    @torch.inference_mode()
    def encode_batches(self, data, start=0, batch_size=64, progress=True, workers=None):
        """Yield the features [B, d] of a dataset of preprocessed images, batch by batch from row `start` on.

        No more pixels are in memory than of a few batches. Where no row is left, one empty batch comes.
        """
        from tqdm.auto import tqdm

        rows = torch.utils.data.Subset(data, range(start, len(data)))
        workers = default_workers(rows, batch_size, self.device) if workers is None else workers
        own = torch.Generator()  # with the global one, features from a cache would leave another random state than new ones
        loader = torch.utils.data.DataLoader(rows, batch_size, num_workers=workers, generator=own,
                                             pin_memory=on_gpu(self.device))
        batches = tqdm(loader, desc=f"encoding images with {self.name}", initial=start // batch_size,
                       total=start // batch_size + len(loader), leave=False, disable=not progress or len(loader) < 4)
        if not len(rows):
            yield torch.empty(0, self.dim)
        try:
            for batch in batches:  # channels last: a third faster for ResNets on a CPU
                batch = batch.to(self.device, memory_format=torch.channels_last, non_blocking=True)
                yield self.model.encode_image(batch, normalize=False).float().cpu()
        except ClipnotesError as error:
            if not workers:
                raise
            sentence = str(error).rsplit("clipnotes.errors.ClipnotesError: ", 1)[-1]  # after the worker's traceback
            raise ClipnotesError(sentence.strip()) from None

    @torch.inference_mode()
    def encode_texts(self, texts, batch_size=256):
        """Raw (not unit) text features, float32 [N, d] on the CPU."""
        tokens = self.tokenizer(list(texts))
        parts = (part.to(self.device) for part in tokens.split(batch_size))
        return torch.cat([self.model.encode_text(part, normalize=False).float().cpu() for part in parts])

    def classifier(self, classnames, templates):
        """Zero-shot class weights [C, d], see `text.classifier`."""
        return classifier(self, classnames, templates)


def on_gpu(device):
    return torch.device(device).type == "cuda"


def default_workers(rows, batch_size, device):
    """Processes that read images from files while the encoder works: all cores but one beside a GPU, else one.

    None for pixels in memory, whose preprocessing is quick, and for less than four batches, which end before workers start.
    """
    cores = os.cpu_count() or 1
    if isinstance(rows.dataset.images, np.ndarray) or len(rows) <= 3 * batch_size:
        return 0
    return cores - 1 if on_gpu(device) else min(1, cores - 1)


class ImageReader(torch.utils.data.Dataset):
    """Any of the image kinds that `Clip.encode_images` takes, as preprocessed tensors."""

    def __init__(self, images, preprocess):
        self.images, self.preprocess = images, preprocess

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.preprocess(open_image(self.images[index]))

    def __getitems__(self, rows):
        """Several at once, as `DataLoader` asks for them: pixels of the model's own size, bit for bit as one by one."""
        from torchvision.transforms import Normalize, Resize

        steps = getattr(self.preprocess, "transforms", [None])
        if not (isinstance(self.images, np.ndarray) and isinstance(steps[-1], Normalize) and isinstance(steps[0], Resize)
                and self.images.shape[1:] == (size := steps[0].size, size, 3) and self.images.dtype == np.uint8):
            return [self[row] for row in rows]
        pixels = torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2)  # nothing to resize or to crop
        return steps[-1](pixels.float().div(255)).unbind()


class RandomViews(ImageReader):
    """Images as randomly cropped and mirrored tensors, which are a function of `entropy` (ints) and the row."""

    def __init__(self, images, clip, crop, entropy):
        from torchvision.transforms import v2

        if not 0 < crop[0] <= crop[1] <= 1:
            raise ClipnotesError(f"crop = {tuple(crop)} is out of range; give the least and the largest share of an image's "
                                 "area, such as (0.08, 1)")
        super().__init__(images, v2.Compose([
            v2.RandomResizedCrop(clip.image_size, crop, interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*pixel_statistics(clip, "random views", "take the plain view"))]))
        self.entropy = entropy

    def __getitem__(self, index):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([*self.entropy, index]).generate_state(1)[0]))
            return super().__getitem__(index)


def pixel_statistics(clip, wish, instead):
    """(mean, std) of a CLIP's preprocessing, which a `wish` needs."""
    from torchvision.transforms import Normalize

    last = getattr(clip.preprocess, "transforms", [None])[-1]
    if not isinstance(last, Normalize):
        raise ClipnotesError(f"{wish} cannot be had: the preprocessing of {clip.name} does not end in Normalize; {instead}")
    return last.mean, last.std


def open_image(image):
    """A PIL image in RGB from a path, a PIL image or a uint8 array; ClipnotesError where it cannot be read."""
    from PIL import Image

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise ClipnotesError(f"image array of type {image.dtype}; give uint8 pixels from 0 to 255")
        return Image.fromarray(image).convert("RGB")
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if not Path(image).is_file():
        raise ClipnotesError(f"image {image} does not exist; check the data root and the manifest's image folder")
    try:
        with Image.open(image) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ClipnotesError(f"image {image} cannot be read ({error}); fetch it again or remove it from the split") from error


def load_clip(name="pocket-vit", pretrained=None, device="auto"):
    """Load a CLIP by name.

    name: "pocket-vit", "pocket-rn" or any model of open_clip ("RN50", "ViT-B-32", "ViT-B/16" ...).
    pretrained: an open_clip tag ("openai", "laion2b_s34b_b79k" ...), the path of a checkpoint (open_clip's
    .safetensors or .pt, or OpenAI's own .pt archive), or "random" for seeded untrained weights. Default: "openai";
    the pocket models take their own weights, or the path of others. OpenAI's weights always get QuickGELU. A file gets the
    preprocessing that all released weights of its architecture share.
    device: see `choose_device`.

    Raises ClipnotesError for an unknown model or tag, weights that are not there and cannot be downloaded, weights of
    another architecture, an activation that does not fit the weights, and a tokenizer that cannot be had.
    """
    device = choose_device(device)
    if name in POCKET:
        from clipnotes.pocket.model import load

        return Clip(name, *load(name, pretrained), device=device)
    name = name.replace("/", "-")
    return Clip(name, *load_open_clip(name, str(pretrained or "openai")), device=device)

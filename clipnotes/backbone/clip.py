"""Load a CLIP, frozen, and encode images and texts with it."""
from __future__ import annotations

import functools
import hashlib
import re
import zipfile
from pathlib import Path

import numpy as np
import torch

from clipnotes.backbone.text import classifier
from clipnotes.errors import ClipnotesError

POCKET = ("pocket-vit", "pocket-rn")


class Clip:
    """A frozen CLIP in evaluation mode: the open_clip model with its own preprocessing and tokenizer.

    Attributes: name; model (`open_clip` module); preprocess (PIL image -> tensor); tokenizer; dim (feature size d);
    image_size (pixels a side); logit_scale (1/temperature, 100 for released CLIP); device.
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

    def encode_images(self, images, batch_size=64, progress=True, workers=0):
        """Raw (not unit) image features, float32 [N, d] on the CPU.

        images: paths, PIL images, or uint8 arrays [H, W, 3] or [H, W]; also one uint8 array [N, H, W, 3]. Grey images
        are turned into RGB. workers: processes that read and resize files. Raises ClipnotesError for a missing or
        unreadable image, naming it.
        """
        return self.encode_pixels(ImageReader(images, self.preprocess), batch_size, progress, workers)

    def encode_views(self, images, n_views, crop=(0.08, 1.0), seed=1, batch_size=64, progress=True, workers=0):
        """Features [V, N, d] of V random views of every image, otherwise as `encode_images`.

        A view is a random crop of a share of the area in the range `crop`, resized to the encoder's size, mirrored in half
        of the cases; what comes out depends on seed, view and row alone. Paper B trains on crops of 0.08 to 1, paper A
        averages keys over ten of 0.5 to 1.
        """
        return torch.stack([self.encode_pixels(RandomViews(images, self, crop, [seed, view]), batch_size, progress, workers)
                            for view in range(n_views)])

    @torch.inference_mode()
    def encode_pixels(self, data, batch_size, progress, workers):
        """Features [N, d] of a dataset of preprocessed images."""
        from tqdm.auto import tqdm

        own = torch.Generator()  # with the global one, features from a cache would leave another random state than new ones
        loader = torch.utils.data.DataLoader(data, batch_size, num_workers=workers, generator=own)
        batches = tqdm(loader, desc=f"encoding images with {self.name}", leave=False, disable=not progress or len(loader) < 4)
        # channels last: a third faster for ResNets on a CPU
        features = [self.model.encode_image(batch.to(self.device, memory_format=torch.channels_last)).float().cpu()
                    for batch in batches]
        return torch.cat(features) if features else torch.empty(0, self.dim)

    @torch.inference_mode()
    def encode_texts(self, texts, batch_size=256):
        """Raw (not unit) text features, float32 [N, d] on the CPU."""
        tokens = self.tokenizer(list(texts))
        return torch.cat([self.model.encode_text(part.to(self.device)).float().cpu() for part in tokens.split(batch_size)])

    def classifier(self, classnames, templates):
        """Zero-shot class weights [C, d], see `text.classifier`."""
        return classifier(self, classnames, templates)


class ImageReader(torch.utils.data.Dataset):
    """Any of the image kinds that `Clip.encode_images` takes, as preprocessed tensors."""

    def __init__(self, images, preprocess):
        self.images, self.preprocess = images, preprocess

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.preprocess(open_image(self.images[index]))


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
    the pocket models take their own weights, or the path of others. OpenAI's weights always get QuickGELU.

    Raises ClipnotesError for an unknown model or tag, weights that are not there and cannot be downloaded, weights of
    another architecture, and an activation that does not fit the weights.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if name in POCKET:
        from clipnotes.pocket.model import load

        return Clip(name, *load(name, pretrained), device=device)
    name = name.replace("/", "-")
    return Clip(name, *load_open_clip(name, str(pretrained or "openai")), device=device)


def load_open_clip(name, pretrained):
    """(model, preprocess, tokenizer) of an open_clip architecture with the given weights."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    if name not in open_clip.list_models():
        raise ClipnotesError(f"unknown model {name!r}; choose {', '.join(POCKET)} or one of open_clip's: "
                             f"{', '.join(close_names(name, open_clip.list_models()))} ...")
    if pretrained == "random":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained_hf=False)
        return model, preprocess, open_clip.get_tokenizer(name)

    plain = name.removesuffix("-quickgelu")
    tag = get_pretrained_cfg(name, pretrained) or get_pretrained_cfg(plain, pretrained)
    if tag:
        quick_gelu = bool(tag.get("quick_gelu"))
        if plain != name and not quick_gelu:
            raise ClipnotesError(f"{name} uses QuickGELU, but the weights {pretrained!r} were trained with GELU; "
                                 f"load {plain!r} instead")
        name = name if get_pretrained_cfg(name, pretrained) else plain
    elif Path(pretrained).is_file():
        quick_gelu = name.endswith("-quickgelu") or is_openai_archive(pretrained) or "openai" in Path(pretrained).name
    else:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ClipnotesError(f"pretrained={pretrained!r} is neither a file nor a tag of {name}; its tags: {tags}")
    if not tag and is_openai_archive(pretrained):
        return load_openai_archive(name, pretrained)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained, force_quick_gelu=quick_gelu)
    except Exception as error:  # open_clip, torch, safetensors and the hub all raise their own
        raise ClipnotesError(weights_problem(name, pretrained, tag, error)) from error
    return model, preprocess, open_clip.get_tokenizer(name)


def weights_problem(name, pretrained, tag, error):
    """One sentence on why weights did not load and what to do."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if not tag:
        return (f"{pretrained} does not hold weights of {name} ({reason}); "
                "name the architecture that the file belongs to, or get the file again")
    source = tag.get("url") or f"https://huggingface.co/{tag.get('hf_hub', '').strip('/')}"
    fits = f"{name.removesuffix('-quickgelu')}-quickgelu" if tag.get("quick_gelu") else name  # a file cannot say so
    return (f"the weights {pretrained!r} of {name} are not on this machine and could not be downloaded ({reason}); "
            f"get them from {source} where there is a network and load {fits!r} with the file's path as pretrained=")


def is_openai_archive(path):
    """Whether a file is a TorchScript archive, the format of OpenAI's own .pt files."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in entry for entry in archive.namelist())


def load_openai_archive(name, path):
    """OpenAI's TorchScript file into open_clip's architecture, with QuickGELU; no Python pickle is involved."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(name, force_quick_gelu=True)
    try:
        state = torch.jit.load(path, map_location="cpu").float().state_dict()
        for key in ("input_resolution", "context_length", "vocab_size"):
            state.pop(key, None)
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ClipnotesError(weights_problem(name, path, None, error)) from error
    return model, preprocess, open_clip.get_tokenizer(name)


def close_names(name, names):
    import difflib

    return difflib.get_close_matches(name, names, n=5, cutoff=0.3) or list(names)[:5]

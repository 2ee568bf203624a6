"""Bottleneck adapters inside the frozen image encoder (Kravets and Namboodiri, BMVC 2024, arXiv 2409.11338).

With h = x + MHSA(LN_1(x)), the residual after a transformer block's attention, an adapted block computes

    x' = h + MLP(LN_2(h)) + s * Up(Dropout(ReLU(Down(h))))

on every token: parallel to the MLP and fed by h before the layer norm. That is the structure of AdaptFormer (Chen et
al. 2022) and what the authors' code computes. The adapters hang on forward hooks that live only while an adapted
encoding runs, so open_clip's code, its weights and the original `Clip` stay as they are.
"""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from clipnotes.backbone.clip import Clip
from clipnotes.backbone.learnt_files import LearntFiles
from clipnotes.checks import SEED, Number, Whole
from clipnotes.errors import ClipnotesError

FILES = LearntFiles("adapters", "clipnotes adapters 2", "AdaptedClip.save")


class Bottleneck(nn.Module):
    """The correction s * Up(Dropout(ReLU(Down(h)))) of h: [..., d] -> [..., d], or [N, d, H, W] with conv=True.

    No layer norm and no skip of its own, since the block it sits in has both. Down starts Kaiming-uniform (a = sqrt 5),
    both biases and Up start at zero: a new bottleneck corrects by nothing. 2 d r + r + d parameters for width r.
    """

    def __init__(self, dim: int, width: int, scale: float, dropout: float, conv: bool = False) -> None:
        super().__init__()
        self.down = nn.Conv2d(dim, width, 1) if conv else nn.Linear(dim, width)
        self.up = nn.Conv2d(width, dim, 1) if conv else nn.Linear(width, dim)
        self.dropout, self.scale = nn.Dropout(dropout), scale
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.scale * self.up(self.dropout(torch.relu(self.down(h))))


class Adapters(nn.Module):
    """One bottleneck for every block of an open_clip image encoder, as `blocks["0"]`, `blocks["1"]` ...

    visual: the encoder (`clip.model.visual`), of which only the sizes are used.
    width: bottleneck size r. scale: s; the authors take 0.03 for supervised and 0.1 for self-supervised training.
    dropout: rate, active in train mode only. blocks: numbers of the blocks to adapt, None for all. seed: of the start.
    settings: all of these, as a dict.

    ModifiedResNets (RN50, pocket-rn) get a bottleneck of 1x1 convolutions after each of their four stages. That is an
    extension of ours: the paper adapts transformers only.
    Raises ClipnotesError for other encoders and for values out of range.
    """

    rules: ClassVar = {"width": Whole(1), "scale": Number(0, above=True), "dropout": Number(0, 1, below=True), "seed": SEED}

    def __init__(self, visual: nn.Module, width: int = 64, scale: float = 0.03, dropout: float = 0.1,
                 blocks: Sequence[int] | None = None, seed: int = 0) -> None:
        super().__init__()
        self.form = resnet, dims = encoder_form(visual)
        self.settings = {"width": width, "scale": scale, "dropout": dropout, "seed": seed}
        for name, rule in self.rules.items():
            self.settings[name] = rule(self.settings[name], name)  # Python's own numbers, which JSON can hold
        self.settings["blocks"] = numbers = list(range(len(dims))) if blocks is None else sorted(map(int, blocks))
        if not numbers or len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(len(dims))):
            raise ClipnotesError(f"blocks = {numbers} do not fit this encoder; give different numbers from 0 to "
                                 f"{len(dims) - 1}, at least one, or None for all.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width, scale, dropout = (self.settings[name] for name in ("width", "scale", "dropout"))
            self.blocks = nn.ModuleDict({str(i): Bottleneck(dims[i], width, scale, dropout, conv=resnet) for i in numbers})

    @property
    def n_parameters(self) -> int:
        """How many numbers training learns: 1,189,632 for ViT-B/16 with width 64."""
        return sum(p.numel() for p in self.parameters())

    @contextmanager
    def attached(self, visual: nn.Module) -> Iterator[None]:
        """Inside the block, `visual` computes corrected features, differentiable in the adapters' weights.

        Leaving the block, also by an error, leaves nothing behind. Use `attach` for encoding whole image sets.
        """
        handles, blocks, hook = [], encoder_blocks(visual), hook_stage if self.form[0] else hook_parallel
        try:
            for i, bottleneck in self.blocks.items():
                handles += hook(blocks[int(i)], bottleneck)
            yield
        finally:
            for handle in handles:
                handle.remove()


# --- hooks: how a correction enters the encoder -------------------------------------------------------------------


def hook_parallel(block: nn.Module, bottleneck: Bottleneck) -> list:
    """The paper's adapter: h is what enters the second layer norm, the correction joins the block's output."""
    held = []
    return [second_norm(block).register_forward_pre_hook(lambda module, args: held.append(args[0])),
            block.register_forward_hook(lambda module, args, y: y + bottleneck(held.pop()))]


def hook_stage(stage: nn.Module, bottleneck: Bottleneck) -> list:
    """A correction of the output y of a ResNet's stage by a function of y itself."""
    return [stage.register_forward_hook(lambda module, args, y: y + bottleneck(y))]


def encoder_blocks(visual: nn.Module) -> list[nn.Module]:
    """The modules that carry an adapter: transformer blocks, or the four stages of a ResNet."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer
    from timm.models.vision_transformer import Block

    if isinstance(visual, ModifiedResNet):
        return [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
    if isinstance(visual, VisionTransformer):
        return list(visual.transformer.resblocks)
    blocks = list(getattr(getattr(visual, "trunk", None), "blocks", []))  # of a timm model: SigLIP's
    if blocks and all(type(block) is Block for block in blocks):
        return blocks
    raise ClipnotesError(f"Adapters do not fit the image encoder {type(getattr(visual, 'trunk', visual)).__name__}; they need "
                         "a plain vision transformer or open_clip's ModifiedResNet, such as ViT-B-16, ViT-B-16-SigLIP or RN50 "
                         "have.")


def second_norm(block: nn.Module) -> nn.Module:
    """The layer norm before a transformer block's MLP, by open_clip's or timm's name."""
    return block.ln_2 if hasattr(block, "ln_2") else block.norm2


def encoder_form(visual: nn.Module) -> tuple[bool, list[int]]:
    """(whether the encoder is a ResNet, the width d at each place of an adapter)."""
    blocks = encoder_blocks(visual)
    if isinstance(blocks[0], nn.Sequential):
        return True, [stage[-1].bn3.num_features for stage in blocks]
    return False, [second_norm(block).normalized_shape[0] for block in blocks]


# --- a CLIP with adapters -----------------------------------------------------------------------------------------


class AdaptedClip(Clip):
    """A `Clip` whose image features are corrected by adapters; its texts, and `.clip` itself, are the original's.

    The model is shared, not copied. It can stand wherever a Clip can: `encode_task(adapted, task)` keeps its features
    under a fingerprint of their own. Attributes beyond those of a Clip: clip (the original), adapters, and, kept in their
    file, trained (a dict on how they were trained) and losses (of every step, a list).
    """

    def __init__(self, clip: Clip, adapters: Adapters) -> None:
        if isinstance(clip, AdaptedClip):
            raise ClipnotesError(f"{clip.name} carries adapters already; attach to its original, .clip.")
        if adapters.form != encoder_form(clip.model.visual):
            raise ClipnotesError(f"These adapters belong to another encoder than that of {clip.name}; make new ones for it.")
        super().__init__(f"{clip.name}+adapters", clip.model, clip.preprocess, clip.tokenizer, clip.device)
        self.logit_scale = clip.logit_scale  # somebody may have changed that of the original
        self.clip, self.adapters, self.trained, self.losses = clip, adapters.to(clip.device).eval(), {}, []

    @property
    def fingerprint(self) -> str:
        """Hash over the original's fingerprint and the adapters' settings and weights as they are now."""
        digest = hashlib.sha256(json.dumps([FILES.format, self.clip.fingerprint, self.adapters.settings]).encode())
        for name, tensor in sorted(self.adapters.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Corrected raw features [N, d] of a preprocessed batch [N, 3, s, s], with gradients for the adapters."""
        with self.adapters.attached(self.model.visual):
            return self.model.encode_image(batch.to(self.device), normalize=False).float()

    def encode_batches(self, *data: Any, **options: Any) -> Iterator[torch.Tensor]:
        """Yield corrected features [B, d], see `Clip.encode_batches`; `clip` has the original ones."""
        self.adapters.eval()  # no dropout
        batches, done = super().encode_batches(*data, **options), object()
        while True:
            with self.adapters.attached(self.model.visual):  # not between batches: the original shares the encoder
                batch = next(batches, done)
            if batch is done:
                return
            yield batch

    def save(self, path: str | Path, key: dict | None = None) -> None:
        """Write the adapters (no weight of CLIP's) with their settings, `trained` and `losses`; see `LearntFiles.save`.

        key: all that shaped them, for a cache: `load` can ask for it.
        """
        FILES.save(path, self.clip, self.adapters.state_dict(), settings=self.adapters.settings, trained=self.trained,
                   losses=self.losses, key=key)

    @classmethod
    def load(cls, path: str | Path, clip: Clip, key: dict | None = None) -> AdaptedClip:
        """The saved adapters on the CLIP that they were made for; see `LearntFiles.load` for what is refused.

        key: what they must have been saved with, if given.
        """
        def make(tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> AdaptedClip:
            if key is not None and facts.get("key") != json.loads(json.dumps(key)):
                raise ValueError("they were kept under another key")
            adapters = Adapters(clip.model.visual, **facts["settings"])
            adapters.load_state_dict(tensors)
            adapted = cls(clip, adapters)
            adapted.trained, adapted.losses = facts["trained"], facts["losses"]
            return adapted

        return FILES.load(path, clip, make)


def attach(clip: Clip, adapters: Adapters | None = None, **options: Any) -> AdaptedClip:
    """An `AdaptedClip`: the given adapters on a CLIP, or new ones with the options of `Adapters`, which change nothing yet.

    `adapted = attach(clip, width=64)`; the original features stay at hand as `clip.encode_images(images)`.
    """
    if adapters is None:
        return AdaptedClip(clip, Adapters(clip.model.visual, **options))
    if options:
        raise ClipnotesError(f"Options {', '.join(options)} come with adapters that are already made; give one or the other.")
    return AdaptedClip(clip, adapters)

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
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from clipnotes.backbone.clip import Clip
from clipnotes.backbone.learnt_files import LearntFiles
from clipnotes.backbone.pictures import ImageReader
from clipnotes.errors import ClipnotesError

FILES = LearntFiles("adapters", "clipnotes adapters 1", "AdaptedClip.save")


class Bottleneck(nn.Module):
    """The correction s * Up(Dropout(ReLU(Down(h)))) of h: [..., d] -> [..., d], or [N, d, H, W] with conv=True.

    No layer norm and no skip of its own, since the block it sits in has both. Down starts Kaiming-uniform (a = sqrt 5),
    both biases and Up start at zero: a new bottleneck corrects by nothing. 2 d r + r + d parameters for width r.
    """

    def __init__(self, dim, width, scale, dropout, conv=False):
        super().__init__()
        self.down = nn.Conv2d(dim, width, 1) if conv else nn.Linear(dim, width)
        self.up = nn.Conv2d(width, dim, 1) if conv else nn.Linear(width, dim)
        self.dropout, self.scale = nn.Dropout(dropout), scale
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, h):
        return self.scale * self.up(self.dropout(torch.relu(self.down(h))))


class Adapters(nn.Module):
    """One bottleneck for every block of an open_clip image encoder, as `blocks["0"]`, `blocks["1"]` ...

    visual: the encoder (`clip.model.visual`), of which only the sizes are used.
    width: bottleneck size r. scale: s; the authors take 0.03 for supervised and 0.1 for self-supervised training.
    dropout: rate, active in train mode only. blocks: numbers of the blocks to adapt, None for all. seed: of the start.
    houlsby: two serial bottlenecks a block instead, u + s * Up(ReLU(Down(u))) on the outputs u of attention and of MLP
    before each is added to the residual (Houlsby et al. 2019; of the paper's size with width=32).

    ModifiedResNets (RN50, pocket-rn) get a bottleneck of 1x1 convolutions after each of their four stages. That is an
    extension of ours: the paper adapts transformers only.
    Raises ClipnotesError for other encoders and for values out of range.
    """

    def __init__(self, visual, width=64, scale=0.03, dropout=0.1, blocks=None, houlsby=False, seed=0):
        super().__init__()
        self.form = resnet, dims = encoder_form(visual)
        numbers = list(range(len(dims))) if blocks is None else sorted(blocks)
        check_options(width, scale, dropout, numbers, len(dims))
        if houlsby and resnet:
            raise ClipnotesError("houlsby=True needs a transformer, but this encoder is a ResNet; leave it False")
        self.recipe = {"width": width, "scale": scale, "dropout": dropout, "blocks": numbers, "houlsby": houlsby, "seed": seed}

        def bottleneck(dim):
            return Bottleneck(dim, width, scale, dropout, conv=resnet)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.blocks = nn.ModuleDict({
                str(i): nn.ModuleList([bottleneck(dims[i]), bottleneck(dims[i])]) if houlsby else bottleneck(dims[i])
                for i in numbers})

    @property
    def n_parameters(self):
        """How many numbers training learns: 1,189,632 for ViT-B/16 with width 64."""
        return sum(p.numel() for p in self.parameters())

    @contextmanager
    def attached(self, visual, both=False):
        """Inside the block, `visual` computes corrected features, differentiable in the adapters' weights.

        both=True: features [N, 2 d], the original and the corrected ones side by side. What lies before the first
        adapter runs once (with houlsby: before the first adapted block), the rest on original and corrected rows.
        Leaving the block, also by an error, leaves nothing behind. Use `attach` for encoding whole image sets.
        """
        handles, blocks = [], encoder_blocks(visual)
        try:
            for order, (i, bottleneck) in enumerate(self.blocks.items()):
                fork = both and order == 0
                if self.recipe["houlsby"]:
                    handles += hook_serial(blocks[int(i)], bottleneck, both, fork)
                else:
                    hook = hook_stage if self.form[0] else hook_parallel
                    handles += hook(blocks[int(i)], bottleneck, both, fork)
            if both:
                handles.append(visual.register_forward_hook(side_by_side))
            yield
        finally:
            for handle in handles:
                handle.remove()


# --- hooks: how a correction enters the encoder -------------------------------------------------------------------


def corrected(y, h, bottleneck, both, fork):
    """y with the correction of h added.

    With `both`, the first N rows of y [2 N, ...] stay original and the last N are corrected; where the two ways `fork`,
    y and h still hold the N rows that they share.
    """
    if not both:
        return y + bottleneck(h)
    if fork:
        return torch.cat([y, y + bottleneck(h)])
    n = len(y) // 2
    return torch.cat([y[:n], y[n:] + bottleneck(h[n:])])


def hook_parallel(block, bottleneck, both, fork):
    """The paper's adapter: h is what enters the second layer norm, the correction joins the block's output."""
    held = []
    return [second_norm(block).register_forward_pre_hook(lambda module, args: held.append(args[0])),
            block.register_forward_hook(lambda module, args, y: corrected(y, held.pop(), bottleneck, both, fork))]


def hook_stage(stage, bottleneck, both, fork):
    """A correction of a module's output y by a function of y itself: a ResNet's stage, a branch of a block."""
    return [stage.register_forward_hook(lambda module, args, y: corrected(y, y, bottleneck, both, fork))]


def hook_serial(block, pair, both, fork):
    """Houlsby's pair. The layer scales, mostly identities, are where both branches pass on their way to the residual."""
    scales = [block.ls_1, block.ls_2] if hasattr(block, "ls_1") else [block.ls1, block.ls2]  # open_clip's or timm's names
    handles = [handle for scale, one in zip(scales, pair, strict=True) for handle in hook_stage(scale, one, both, False)]
    if fork:  # before the residual is taken, since it must have as many rows as the branch
        handles.append(block.register_forward_pre_hook(lambda module, args: (torch.cat([args[0], args[0]]), *args[1:])))
    return handles


def side_by_side(module, args, features):
    if isinstance(features, tuple):  # CoCa's encoder gives its tokens as well
        return side_by_side(module, args, features[0]), features[1]
    return torch.cat(features.chunk(2), dim=1)  # [2 N, d] -> [N, 2 d]


def encoder_blocks(visual):
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
    raise ClipnotesError(f"adapters do not fit the image encoder {type(getattr(visual, 'trunk', visual)).__name__}; they need "
                         "a plain vision transformer or open_clip's ModifiedResNet, such as ViT-B-16, ViT-B-16-SigLIP or RN50 "
                         "have")


def second_norm(block):
    """The layer norm before a transformer block's MLP, by open_clip's or timm's name."""
    return block.ln_2 if hasattr(block, "ln_2") else block.norm2


def encoder_form(visual):
    """(whether the encoder is a ResNet, the width d at each place of an adapter)."""
    blocks = encoder_blocks(visual)
    if isinstance(blocks[0], nn.Sequential):
        return True, [stage[-1].bn3.num_features for stage in blocks]
    return False, [second_norm(block).normalized_shape[0] for block in blocks]


def check_options(width, scale, dropout, blocks, n_blocks):
    if not (isinstance(width, int) and width >= 1):
        raise ClipnotesError(f"width = {width!r} is no bottleneck size; give a whole number from 1 up")
    if not (scale > 0 and math.isfinite(scale)):
        raise ClipnotesError(f"scale = {scale} is out of range; give a number above 0, such as 0.03 or 0.1")
    if not 0 <= dropout < 1:
        raise ClipnotesError(f"dropout = {dropout} is out of range; give a rate from 0 to below 1")
    if not blocks or len(set(blocks)) < len(blocks) or not set(blocks) <= set(range(n_blocks)):
        raise ClipnotesError(f"blocks = {blocks} do not fit this encoder; give different numbers from 0 to {n_blocks - 1}, "
                             "at least one, or None for all")


# --- a CLIP with adapters -----------------------------------------------------------------------------------------


class AdaptedClip(Clip):
    """A `Clip` whose image features are corrected by adapters; its texts, and `.clip` itself, are the original's.

    The model is shared, not copied. It can stand wherever a Clip can: `encode_task(adapted, task)` keeps its features
    under a fingerprint of their own. Attributes beyond those of a Clip: clip (the original), adapters, and, kept in their
    file, trained (a dict on how they were trained) and losses (of every step, a list).
    """

    def __init__(self, clip, adapters):
        if isinstance(clip, AdaptedClip):
            raise ClipnotesError(f"{clip.name} carries adapters already; attach to its original, .clip")
        if adapters.form != encoder_form(clip.model.visual):
            raise ClipnotesError(f"these adapters were made for another encoder than that of {clip.name}; make new ones for it")
        vars(self).update(vars(clip))
        self.clip, self.adapters = clip, adapters.to(clip.device).eval()
        self.name, self.trained, self.losses = f"{clip.name}+adapters", {}, []

    @property
    def fingerprint(self):
        """Hash over the original's fingerprint and the adapters' recipe and weights as they are now."""
        digest = hashlib.sha256(json.dumps([FILES.format, self.clip.fingerprint, self.adapters.recipe]).encode())
        for name, tensor in sorted(self.adapters.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def forward(self, batch):
        """Corrected raw features [N, d] of a preprocessed batch [N, 3, s, s], with gradients for the adapters."""
        with self.adapters.attached(self.model.visual):
            return self.model.encode_image(batch.to(self.device), normalize=False).float()

    def encode_batches(self, *data, **options):
        """Yield corrected features [B, d], see `Clip.encode_batches`; `clip` has the original ones."""
        self.adapters.eval()  # no dropout
        with self.adapters.attached(self.model.visual):
            yield from super().encode_batches(*data, **options)

    def encode_both(self, images, batch_size=64, progress=True, workers=None):
        """(original, corrected) raw image features, each [N, d], reading every image once and sharing the frozen part
        before the first adapter. Equal to separate calls up to float rounding, which changes with the batch's size."""
        self.adapters.eval()
        with self.adapters.attached(self.model.visual, both=True):
            batches = super().encode_batches(ImageReader(images, self.preprocess), 0, batch_size, progress, workers)
            features = torch.cat(list(batches))  # [N, 2 d]
        return features[:, :self.dim].clone(), features[:, -self.dim:].clone()

    def save(self, path: str | Path, key: dict | None = None) -> None:
        """Write the adapters (no weight of CLIP's) with their recipe, `trained` and `losses`; see `LearntFiles.save`.

        key: all that shaped them, for a cache: `load` can ask for it.
        """
        FILES.save(path, self.clip, self.adapters.state_dict(), recipe=self.adapters.recipe, trained=self.trained,
                   losses=self.losses, key=key)

    @classmethod
    def load(cls, path: str | Path, clip: Clip, key: dict | None = None) -> AdaptedClip:
        """The saved adapters on the CLIP that they were made for; see `LearntFiles.load` for what is refused.

        key: what they must have been saved with, if given.
        """
        def make(tensors, facts):
            if key is not None and facts.get("key") != json.loads(json.dumps(key)):
                raise ValueError("they were kept under another key")
            adapters = Adapters(clip.model.visual, **facts["recipe"])
            adapters.load_state_dict(tensors)
            adapted = cls(clip, adapters)
            adapted.trained, adapted.losses = facts["trained"], facts["losses"]
            return adapted

        return FILES.load(path, clip, make)


def attach(clip, adapters=None, **options):
    """An `AdaptedClip`: the given adapters on a CLIP, or new ones with the options of `Adapters`, which change nothing yet.

    `adapted = attach(clip, width=64)`; the original features stay at hand as `clip.encode_images(images)`.
    """
    if adapters is None:
        return AdaptedClip(clip, Adapters(clip.model.visual, **options))
    if options:
        raise ClipnotesError(f"options {', '.join(options)} come with adapters that are already made; give one or the other")
    return AdaptedClip(clip, adapters)

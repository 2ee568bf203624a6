"""What trained adapters do: how much each block is corrected, which pairs of images move, and the same at other strengths."""
from __future__ import annotations

from collections import defaultdict
from typing import Any

import pandas as pd
import torch

from clipnotes.backbone.adapters import AdaptedClip, Adapters, attach, encoder_blocks
from clipnotes.backbone.clip import Clip


def rescaled(adapted: AdaptedClip, factor: float) -> Clip:
    """The same adapters with `factor` times their scale s, as an `AdaptedClip` of its own; for 0 the original `Clip`.

    It has a fingerprint of its own too, so that kept features of different strengths never mix.
    """
    if factor == 0:
        return adapted.clip
    settings = adapted.adapters.settings
    adapters = Adapters(adapted.model.visual, **settings | {"scale": factor * settings["scale"]})
    adapters.load_state_dict(adapted.adapters.state_dict())
    return attach(adapted.clip, adapters)


def correction_norms(adapted: AdaptedClip, images: Any) -> pd.DataFrame:
    """A DataFrame with one row an adapted block: `block`, its number, `adapter` and `mlp`.

    adapter: |correction| / |h|, the mean over all tokens of all images, where h is the residual stream that the adapter
    reads. mlp: the same for the output of the MLP beside it; NaN in a ResNet, whose stages have none.
    Raises ClipnotesError as `encode_images` does.
    """
    resnet, adapters = adapted.adapters.form[0], adapted.adapters
    lengths, handles, blocks = defaultdict(list), [], encoder_blocks(adapted.model.visual)

    def listen(module: torch.nn.Module, number: str, *names: str) -> None:
        # to the output and, for a second name, to the input
        def hook(module: torch.nn.Module, args: tuple, y: torch.Tensor) -> None:
            for name, x in zip(names, (y, *args), strict=False):
                lengths[number, name].append(x.norm(dim=1 if resnet else -1).flatten())
        handles.append(module.register_forward_hook(hook))

    try:
        for number, bottleneck in adapters.blocks.items():
            listen(bottleneck, number, "adapter", "h")
            if not resnet:
                listen(blocks[int(number)].mlp, number, "mlp")
        adapted.encode_images(images, progress=False)
    finally:
        for handle in handles:
            handle.remove()

    def relative(number: str, name: str) -> float:
        part = torch.cat(lengths[number, name]) if lengths[number, name] else torch.tensor(torch.nan)
        return (part / torch.cat(lengths[number, "h"])).mean().item()

    return pd.DataFrame([{"block": int(number), "adapter": relative(number, "adapter"), "mlp": relative(number, "mlp")}
                         for number in adapters.blocks])


def farthest_moved(change: torch.Tensor, allowed: torch.Tensor, n: int) -> list[tuple[int, int]]:
    """The n pairs (i, j), i < j, of `allowed` (bool [N, N]) with the largest `change` [N, N], no image in two of them."""
    left, pairs = change.where(torch.triu(allowed, diagonal=1), -torch.inf), []
    while len(pairs) < n and (left > -torch.inf).any():
        pairs.append(divmod(int(left.argmax()), len(left)))
        for image in pairs[-1]:
            left[image], left[:, image] = -torch.inf, -torch.inf
    return pairs

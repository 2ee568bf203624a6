"""What trained adapters do: how much each block is corrected, which pairs of images move, and the same at other strengths."""
from __future__ import annotations

from collections import defaultdict

import pandas as pd
import torch

from clipnotes.backbone.adapters import Adapters, attach, encoder_blocks
from clipnotes.errors import ClipnotesError


def rescaled(adapted, factor):
    """The same adapters with `factor` times their scale s, as an `AdaptedClip` of its own; for 0 the original `Clip`.

    It has a fingerprint of its own too, so that kept features of different strengths never mix.
    """
    if factor == 0:
        return adapted.clip
    adapters = Adapters(adapted.model.visual, **adapted.adapters.recipe | {"scale": factor * adapted.adapters.recipe["scale"]})
    adapters.load_state_dict(adapted.adapters.state_dict())
    return attach(adapted.clip, adapters)


def correction_norms(adapted, images):
    """A DataFrame with one row an adapted block: `block`, its number, `adapter` and `mlp`.

    adapter: |correction| / |h|, the mean over all tokens of all images, where h is the residual stream that the adapter
    reads. mlp: the same for the output of the MLP beside it; NaN in a ResNet, whose stages have none.
    Raises ClipnotesError for Houlsby's serial adapters, and as `encode_images` does.
    """
    resnet, adapters = adapted.adapters.form[0], adapted.adapters
    if adapters.recipe["houlsby"]:
        raise ClipnotesError("correction_norms needs adapters parallel to the MLP, but these are serial (houlsby=True)")
    lengths, handles, blocks = defaultdict(list), [], encoder_blocks(adapted.model.visual)

    def listen(module, number, *names):  # to the output and, for a second name, to the input
        def hook(module, args, y):
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

    def relative(number, name):
        part = torch.cat(lengths[number, name]) if lengths[number, name] else torch.tensor(torch.nan)
        return (part / torch.cat(lengths[number, "h"])).mean().item()

    return pd.DataFrame([{"block": int(number), "adapter": relative(number, "adapter"), "mlp": relative(number, "mlp")}
                         for number in adapters.blocks])


def farthest_moved(change, allowed, n):
    """The n pairs (i, j), i < j, of `allowed` (bool [N, N]) with the largest `change` [N, N], no image in two of them."""
    i, j = torch.nonzero(torch.triu(allowed, diagonal=1), as_tuple=True)
    order = change[i, j].argsort(descending=True)
    pairs, used = [], set()
    for pair in zip(i[order].tolist(), j[order].tolist(), strict=True):
        if len(pairs) < n and used.isdisjoint(pair):
            pairs.append(pair)
            used.update(pair)
    return pairs

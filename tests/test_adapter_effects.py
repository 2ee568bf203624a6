"""What trained adapters do: strength as a dial, corrections block by block, pairs that moved."""

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipnotes.analysis.adapter_effects import correction_norms, farthest_moved, rescaled
from clipnotes.backbone import attach, load_clip
from clipnotes.errors import ClipnotesError


def stirred(name, **options):
    """A CLIP whose adapters correct by something, where new ones correct by nothing."""
    adapted = attach(load_clip(name, "random"), **options)
    for parameter in adapted.adapters.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return adapted


@pytest.fixture(scope="module")
def adapted():
    return stirred("pocket-vit", width=4, scale=0.5, blocks=[1, 4])


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)


def n_hooks(adapted):
    modules = [*adapted.model.modules(), *adapted.adapters.modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_other_strengths(adapted, pixels):
    assert rescaled(adapted, 0) is adapted.clip
    same, twice = rescaled(adapted, 1), rescaled(adapted, 2)
    assert same.fingerprint == adapted.fingerprint != twice.fingerprint
    assert torch.equal(same.encode_images(pixels), adapted.encode_images(pixels))
    expected = stirred("pocket-vit", width=4, scale=1.0, blocks=[1, 4])
    assert torch.equal(twice.encode_images(pixels), expected.encode_images(pixels))
    assert adapted.adapters.blocks["1"].scale == 0.5  # the given ones are left alone
    with pytest.raises(ClipnotesError, match="^scale = -0.5 is out of range"):
        rescaled(adapted, -1)


def test_corrections_relative_to_the_residual(adapted, pixels):
    norms = correction_norms(adapted, pixels)
    assert norms["block"].tolist() == [1, 4] and list(norms) == ["block", "adapter", "mlp"]
    first = adapted.model.visual.transformer.resblocks[1]
    seen = []
    handle = first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    adapted.clip.encode_images(pixels)
    handle.remove()
    with torch.no_grad():  # before the first adapter both encoders see the same
        h = seen[0] + first.attention(first.ln_1(seen[0]))
        part = adapted.adapters.blocks["1"]
        correction = 0.5 * part.up(F.relu(part.down(h)))
        mlp = first.mlp(first.ln_2(h))
    for name, expected in (("adapter", correction), ("mlp", mlp)):
        assert norms[name][0] == pytest.approx((expected.norm(dim=-1) / h.norm(dim=-1)).mean().item(), rel=1e-5)
    assert n_hooks(adapted) == 0


def test_norms_of_other_forms(pixels):
    adapted = stirred("pocket-rn", width=4)
    norms = correction_norms(adapted, pixels)
    assert norms["block"].tolist() == [0, 1, 2, 3] and (norms["adapter"] > 0).all() and norms["mlp"].isna().all()


def test_an_unreadable_image_leaves_no_hook(adapted):
    with pytest.raises(ClipnotesError):
        correction_norms(adapted, ["missing.png"])
    assert n_hooks(adapted) == 0


def test_pairs_that_moved():
    change = torch.tensor([[0, 9, 8, 1], [9, 0, 7, 6], [8, 7, 0, 2], [1, 6, 2, 0.0]])
    every = torch.ones(4, 4, dtype=torch.bool)
    assert farthest_moved(change, every, 3) == [(0, 1), (2, 3)]  # (0, 2) and (1, 2) would use an image twice
    every[0, 1] = every[1, 0] = False
    assert farthest_moved(change, every, 1) == [(0, 2)]
    assert farthest_moved(-change, every, 1) == [(0, 3)]


def test_the_search_for_pairs_ends_with_the_last_one_asked_for():
    change, every = torch.rand(600, 600, generator=torch.Generator().manual_seed(0)), torch.ones(600, 600, dtype=torch.bool)
    tracemalloc.start()
    pairs = farthest_moved(change, every, 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6  # Python's own objects: the 179,700 pairs were once made and gone through to the end
    assert len({image for pair in pairs for image in pair}) == 10 and all(i < j for i, j in pairs)
    moved = [change[pair].item() for pair in pairs]
    assert moved == sorted(moved, reverse=True) and moved[0] == torch.triu(change, diagonal=1).max()
    assert len(farthest_moved(change[:3, :3], every[:3, :3], 9)) == 1  # no third pair is left among three images

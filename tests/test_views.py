"""Random views of training images: what they are, that they repeat, and that the cache knows them."""

import pytest
import torch

from clipnotes.backbone import attach
from clipnotes.backbone.pictures import RandomViews, open_image
from clipnotes.data import encode_task, load_task
from clipnotes.errors import ClipnotesError


@pytest.fixture(scope="module")
def task():
    return load_task("pocket-pieces", shots=2)


def test_views_differ_and_repeat(clip, task):
    images = task.train.images[:6]
    views = clip.encode_views(images, 3, seed=1)
    assert views.shape == (3, 6, clip.dim)
    assert not torch.allclose(views[0], views[1], atol=1e-2)
    torch.testing.assert_close(clip.encode_views(images, 2, seed=1, batch_size=2), views[:2], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(clip.encode_views(images, 1, seed=2)[0], views[0], atol=1e-2)


def test_a_view_is_a_crop_of_the_image_or_of_its_mirror_image(clip, task):
    """A crop of the whole area changes nothing, but for the mirror."""
    images = task.train.images[:8]
    views = RandomViews(images, clip, (1.0, 1.0), [1, 0])
    for row in range(8):
        plain = clip.preprocess(open_image(images[row]))
        differences = [(views[row] - other).abs().mean() for other in (plain, plain.flip(-1))]
        assert min(differences) < 0.25


def test_the_random_state_is_left_alone(clip, task, monkeypatch):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPU's random state was set"))
    clip.encode_views(task.train.images[:2], 1)
    assert torch.equal(torch.rand(3), expected)


def test_adapters_see_views_too(clip, task):
    images = task.train.images[:4]
    adapted = attach(clip, width=4)
    torch.testing.assert_close(adapted.encode_views(images, 2), clip.encode_views(images, 2))
    torch.nn.init.normal_(adapted.adapters.blocks["0"].up.weight)
    assert not torch.allclose(adapted.encode_views(images, 2), clip.encode_views(images, 2), atol=1e-2)


def test_a_task_is_encoded_in_views_of_its_training_images(clip, task):
    plain, bank = encode_task(clip, task, progress=False), encode_task(clip, task, progress=False, views=2)
    assert bank.train.x.shape == (2, len(task.train), clip.dim)
    assert torch.equal(bank.test.x, plain.test.x) and torch.equal(bank.val.x, plain.val.x)
    assert torch.equal(bank.train.x, encode_task(clip, task, progress=False, views=2).train.x)  # from the cache
    assert not torch.equal(bank.train.x, encode_task(clip, task, progress=False, views=2, view_seed=2).train.x)
    assert bank.few_shot(1, 1).train.x.shape == (2, 20, clip.dim)


@pytest.mark.parametrize("crop", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5)])
def test_shares_of_the_area_that_cannot_be(clip, task, crop):
    with pytest.raises(ClipnotesError, match="crop = .* is out of range"):
        clip.encode_views(task.train.images[:2], 1, crop=crop)

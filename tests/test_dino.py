"""Self-supervised training of adapters: crops, loss, schedules, and what the training changes."""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import says

from clipnotes.backbone import AdaptedClip, Adapters, attach, load_clip
from clipnotes.backbone import self_supervised as dino
from clipnotes.backbone.crops import crop_transform
from clipnotes.backbone.self_supervised import DINO_RECIPES, DinoConfig, train_dino

SMALL = {"epochs": 2, "batch_size": 8, "lr": 0.05, "warmup_epochs": 0.5, "momentum": 0.5, "out_dim": 16, "hidden": 8,
         "bottleneck": 4, "local_crops": 2, "local_size": 32, "progress": False}


@pytest.fixture(scope="module", params=["pocket-vit", "pocket-rn"])
def clip(request):
    return load_clip(request.param, "random")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (17, 40, 40, 3), dtype=np.uint8)


@pytest.fixture
def starts(monkeypatch):
    """The heads as they are made, before any step, and copies of their weights."""
    made, init = [], dino.Head.__init__

    def remembered(self, dim, recipe):
        init(self, dim, recipe)
        made.append((self, copy.deepcopy(self.state_dict())))

    monkeypatch.setattr(dino.Head, "__init__", remembered)
    return made


# --- the loss -----------------------------------------------------------------------------------------------------


def test_the_loss_against_plain_loops():
    recipe = DinoConfig(out_dim=5, local_crops=3, student_temperature=0.2, centre_momentum=0.75)
    criterion, rng = dino.DinoLoss(recipe).double(), np.random.default_rng(0)
    centre = np.zeros(5)
    for _ in range(3):
        student, teacher = rng.normal(size=(5, 4, 5)), rng.normal(size=(2, 4, 5))  # [V, B, K], [2, B, K]
        loss = criterion(torch.tensor(student).reshape(20, 5), torch.tensor(teacher).reshape(8, 5), 0.05)
        terms = []
        for t in range(2):
            for s in range(5):
                for i in range(4):
                    if s != t:
                        q = np.exp((teacher[t, i] - centre) / 0.05)
                        p = np.exp(student[s, i] / 0.2)
                        terms.append(-(q / q.sum() * np.log(p / p.sum())).sum())
        assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)
        centre = 0.75 * centre + 0.25 * teacher.mean((0, 1))
        assert np.allclose(criterion.centre, centre, atol=1e-6)


def test_the_head_gives_cosines_with_its_prototypes():
    head = dino.Head(6, DinoConfig(out_dim=7, hidden=5, bottleneck=3))
    x = torch.randn(4, 6)
    z, w = head.layers(x), head.prototypes.weight
    assert torch.allclose(head(x), torch.nn.functional.cosine_similarity(z[:, None], w[None], dim=-1), atol=1e-6)
    assert sum(p.numel() for p in head.parameters()) == 6 * 5 + 5 + 5 * 5 + 5 + 5 * 3 + 3 + 3 * 7


def test_the_schedules_of_the_paper():
    recipe = DINO_RECIPES["paper"]
    plan = dino.schedules(recipe, 10 * 100)
    lr, decay, momentum, temperature = (plan[name] for name in ("lr", "weight_decay", "momentum", "temperature"))
    assert all(len(values) == 1000 for values in plan.values())
    assert lr[0] == 0 and lr[199] == pytest.approx(3.75e-4) and lr[100] == pytest.approx(3.75e-4 * 100 / 199)
    assert lr[600] == pytest.approx((3.75e-4 + 2e-6) / 2) and lr[-1] == pytest.approx(2e-6, rel=0.01)
    assert decay[0] == pytest.approx(0.04) and decay[500] == pytest.approx(0.22) and decay[-1] == pytest.approx(0.4, rel=1e-4)
    assert momentum[0] == pytest.approx(0.9998) and momentum[500] == pytest.approx(0.9999) and momentum[-1] < 1
    assert temperature[0] == 0.04 and temperature[299] == pytest.approx(0.07) and (temperature[300:] == 0.07).all()
    assert not recipe.train_head and recipe.statistics == "imagenet" and DinoConfig().train_head


# --- crops and sizes ----------------------------------------------------------------------------------------------


def test_crops_differ_and_are_a_function_of_seed_step_and_row(vit, pixels):
    recipe = DinoConfig(local_crops=3, local_size=24)
    data, state = dino.CroppedImages(pixels, vit, recipe), torch.get_rng_state()
    crops = data[(5, 2)]
    assert [tuple(crop.shape) for crop in crops] == [(3, 40, 40)] * 2 + [(3, 24, 24)] * 3
    assert all(torch.equal(a, b) for a, b in zip(crops, data[(5, 2)], strict=True))
    assert not torch.equal(crops[0], crops[1]) and not torch.equal(crops[2], crops[3])
    other_seed = dino.CroppedImages(pixels, vit, DinoConfig(local_crops=3, local_size=24, seed=1))
    for other in (data[(6, 2)], data[(5, 3)], other_seed[(5, 2)]):
        assert not torch.equal(crops[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_whole_crop_without_augmentation_is_the_preprocessed_image(vit, pixels):
    plain = DinoConfig(global_scale=(1.0, 1.0), local_crops=0, flip=0, jitter=(0, 0, 0, 0), grey=0, blur=(0, 0, 0), solarise=0)
    expected = (torch.from_numpy(pixels[3]).permute(2, 0, 1) / 255 - 0.5) / 0.27
    for _ in range(9):  # the crop's shape is drawn too: the whole image where that is a square
        first, second = dino.CroppedImages(pixels, vit, plain)[(0, 3)]
        assert first.shape == second.shape == expected.shape
    square = crop_transform(vit, plain, 40, (1.0, 1.0), 0.0, 0.0)
    square.transforms[0].ratio = (1.0, 1.0)
    assert torch.allclose(square(torch.from_numpy(pixels[3]).permute(2, 0, 1)), expected, atol=1e-6)


def test_crops_of_two_sizes_keep_their_order(clip, pixels):
    adapted, size = attach(clip), clip.image_size
    batch = torch.rand(3, 3, size, size)
    small = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        together = dino.encode_crops(adapted, [batch, batch.flip(0), small])
        assert torch.allclose(together[:3], clip.model.encode_image(batch), atol=1e-5)
        assert torch.allclose(together[3:6], together[:3].flip(0), atol=1e-5)
    assert together.shape == (9, clip.dim)


def test_positions_are_interpolated_only_inside_the_block(clip):
    grid, holder = dino.position_grid(clip.model.visual)
    original = holder.positional_embedding
    assert grid == (5 if clip.name == "pocket-vit" else 2)
    flat = torch.cat([original[:1], original[1:2].expand(grid * grid, -1)])
    holder.positional_embedding = torch.nn.Parameter(flat, requires_grad=False)
    try:
        with dino.interpolated_positions(clip.model.visual, 3):
            inside = holder.positional_embedding
            assert inside.shape == (10, original.shape[1]) and torch.equal(inside[0], original[0])
            assert torch.allclose(inside[1:], original[1:2].expand(9, -1), atol=1e-5)
    finally:
        assert holder.positional_embedding is not inside
        holder.positional_embedding = original
    with pytest.raises(KeyError), dino.interpolated_positions(clip.model.visual, 1):
        raise KeyError
    assert holder.positional_embedding is original


# --- the training -------------------------------------------------------------------------------------------------


def test_training_touches_only_the_adapters(clip, pixels, tmp_path):
    state = {k: v.clone() for k, v in clip.model.state_dict().items()}
    before, adapters = torch.get_rng_state(), Adapters(clip.model.visual, width=4, scale=0.5)
    adapted = train_dino(clip, pixels, adapters, **SMALL)
    assert len(adapted.losses) == 4 and np.isfinite(adapted.losses).all()
    assert all(torch.equal(v, state[k]) for k, v in clip.model.state_dict().items())
    assert not any(p.requires_grad for p in clip.model.parameters()) and not clip.model.training
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in clip.model.modules()) == 0
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(adapted.encode_images(pixels), clip.encode_images(pixels))
    assert adapted.adapters is not adapters and all(p.requires_grad for p in adapted.adapters.parameters())
    assert (adapted.trained["method"], adapted.trained["images"], adapted.trained["scale"]) == ("dino", 17, 0.5)
    adapted.save(tmp_path / "a.safetensors")
    loaded = AdaptedClip.load(tmp_path / "a.safetensors", clip)
    assert loaded.fingerprint == adapted.fingerprint and loaded.trained["out_dim"] == 16


def test_the_teacher_starts_as_the_student_and_follows_it(vit, pixels):
    start = Adapters(vit.model.visual)
    students = [copy.deepcopy(start), copy.deepcopy(start)]
    still = train_dino(vit, pixels, students[0], **SMALL | {"momentum": 1.0})  # a teacher that never moves
    for teacher, first in zip(still.adapters.parameters(), start.parameters(), strict=True):
        assert torch.equal(teacher, first)
    assert any(not torch.equal(a, b) for a, b in zip(students[0].parameters(), start.parameters(), strict=True))
    one = SMALL | {"epochs": 1, "batch_size": 17, "warmup_epochs": 0.0, "momentum": 0.25}
    moved = train_dino(vit, pixels, students[1], **one)  # one step: 0.25 of the start, 0.75 of the student
    parameters = zip(moved.adapters.parameters(), students[1].parameters(), start.parameters(), strict=True)
    assert all(torch.allclose(t, 0.25 * first + 0.75 * s, atol=1e-6) for t, s, first in parameters)


def test_a_rate_of_zero_changes_nothing(vit, pixels, starts):
    adapted = train_dino(vit, pixels, **SMALL | {"lr": 0.0, "min_lr": 0.0})
    assert adapted.fingerprint == attach(vit, scale=0.1).fingerprint
    assert torch.equal(adapted.encode_images(pixels), vit.encode_images(pixels))
    head, start = starts[0]
    assert all(torch.equal(value, start[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize("train_head", [True, False])
def test_the_head_learns_only_if_asked(train_head, vit, pixels, starts):
    train_dino(vit, pixels, **SMALL, train_head=train_head)
    head, start = starts[0]
    same = [torch.equal(value, start[name]) for name, value in head.state_dict().items()]
    assert not any(same) if train_head else all(same)


def test_gradients_are_clipped_and_biases_do_not_decay(vit, pixels, monkeypatch):
    seen, groups, step = [], [], torch.optim.AdamW.step

    def watched(self):
        seen.append(max(p.grad.norm().item() for group in self.param_groups for p in group["params"]))
        groups.append([(group["lr"], group["weight_decay"], {p.ndim > 1 for p in group["params"]})
                       for group in self.param_groups])
        return step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train_dino(vit, pixels, **SMALL | {"clip_norm": 1e-3})
    assert max(seen) == pytest.approx(1e-3, rel=1e-2)
    plan = dino.schedules(DinoConfig(**{k: v for k, v in SMALL.items() if k != "progress"}), 4)
    assert [g[0] for g in groups] == [(lr, wd, {True}) for lr, wd in zip(plan["lr"], plan["weight_decay"], strict=True)]
    assert all(g[1][1:] == (0.0, {False}) for g in groups)


def test_the_same_seed_gives_the_same_adapters(vit, pixels):
    first, again = train_dino(vit, pixels, **SMALL), train_dino(vit, pixels, **SMALL)
    assert first.fingerprint == again.fingerprint and first.losses == again.losses
    assert train_dino(vit, pixels, **SMALL, seed=1).losses != first.losses


def test_a_killed_training_goes_on_to_the_same_weights(vit, pixels, tmp_path, monkeypatch):
    expected, path = train_dino(vit, pixels, **SMALL), tmp_path / "checkpoint.pt"
    forward, calls = dino.DinoLoss.forward, []

    def dies(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, *args)

    monkeypatch.setattr(dino.DinoLoss, "forward", dies)
    with pytest.raises(KeyboardInterrupt):
        train_dino(vit, pixels, **SMALL, checkpoint=path, save_every=2)
    resumed = train_dino(vit, pixels, **SMALL, checkpoint=path, save_every=2)
    assert len(calls) == 4 + 2  # steps 3 and 4 of 4
    assert resumed.losses == expected.losses and resumed.fingerprint == expected.fingerprint
    with says(r"checkpoint.pt belongs to another training \(other images\); delete it"):
        train_dino(vit, pixels[:16], **SMALL, checkpoint=path)


def test_the_pocket_recipe_fits_the_pocket_backbones(clip):
    recipe = DINO_RECIPES["pocket"]
    dino.check_fit(recipe, clip, 1)
    assert math.isclose(dino.schedules(recipe, 40 * recipe.epochs)["lr"].max(), recipe.lr * recipe.batch_size / 256)


def test_trainings_that_cannot_be(vit, pixels):
    for options, message in [
        ({"recipe": "authors"}, "^Unknown recipe 'authors'; choose from paper, pocket, or None for the defaults.$"),
        ({"statistics": "none"}, "^statistics = 'none' is unknown; choose 'clip' or 'imagenet'.$"),
        ({"local_size": 30}, "^local_size = 30 does not fit pocket-vit, which sees an image in steps of 8 pixels; give a "
                             "multiple of 8.$"),
        ({"momentum": 1.5}, "^momentum = 1.5 is out of range; it must be a number from 0 to 1.$"),
        ({"lr": 1e30, "warmup_epochs": 0}, "^The loss became .* at step .* with lr = 1e\\+30; lower it.$"),
    ]:
        with says(message):
            train_dino(vit, pixels, **SMALL | options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rate'"):
        train_dino(vit, pixels, rate=1, **SMALL)
    with says("^No images to train on; give at least one.$"):
        train_dino(vit, pixels[:0], **SMALL)
    bare = type(vit)("bare", vit.model, vit.preprocess.transforms[-1], vit.tokenizer)
    with says("^statistics='clip' cannot be had: the preprocessing of bare does not end in Normalize; choose 'imagenet'.$"):
        train_dino(bare, pixels, **SMALL)

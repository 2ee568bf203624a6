"""Adapters inside the image encoder: what they compute, what they leave alone, their files and their training."""

import copy
import json
import re

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN, says
from safetensors.torch import load_file, save_file

from clipnotes.backbone import AdaptedClip, Adapters, attach, load_clip
from clipnotes.backbone.adapter_training import train_supervised
from clipnotes.backbone.pictures import ImageReader
from clipnotes.checked_files import read_tensors, write_tensors

NAMES = ["pocket-vit", "pocket-rn"]


def stir(adapters, std=0.3):
    """Weights that correct a lot, where a new adapter corrects by nothing."""
    generator = torch.Generator().manual_seed(1)
    for parameter in adapters.parameters():
        parameter.data = std * torch.randn(parameter.shape, generator=generator)
    return adapters


def n_hooks(clip):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in clip.model.modules())


@pytest.fixture(scope="module", params=NAMES)
def clip(request):
    return load_clip(request.param, "random")


@pytest.fixture(scope="module")
def batch(vit, pixels):
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.27


# --- what they compute --------------------------------------------------------------------------------------------


def test_new_adapters_change_nothing_bit_for_bit(clip, pixels):
    original = clip.encode_images(pixels)
    assert torch.equal(attach(clip).encode_images(pixels), original)
    assert torch.equal(attach(clip, width=3, scale=5.0, blocks=[1, 2]).encode_images(pixels), original)


def test_an_encoding_under_way_leaves_the_original_alone(vit, pixels):
    adapted, plain = attach(vit, scale=1.0), vit.encode_images(pixels)
    stir(adapted.adapters)
    under_way = adapted.encode_batches(ImageReader(pixels, vit.preprocess), 0, 4, False, 0)
    first = next(under_way)
    assert torch.equal(vit.encode_images(pixels), plain) and not torch.equal(first, plain[:4])
    assert torch.equal(torch.cat([first, *under_way]), adapted.encode_images(pixels, batch_size=4))


def test_settings_may_be_numpy_s_numbers(vit, tmp_path):
    adapted = attach(vit, width=np.int64(8), scale=np.float32(0.5), blocks=np.array([0, 2]))
    assert adapted.fingerprint == attach(vit, width=8, scale=0.5, blocks=[0, 2]).fingerprint
    adapted.save(tmp_path / "a.safetensors")
    assert AdaptedClip.load(tmp_path / "a.safetensors", vit).adapters.settings == adapted.adapters.settings


def test_a_new_bottleneck_starts_as_lora_does(vit):
    adapters = Adapters(vit.model.visual, width=64)
    first = adapters.blocks["0"]
    bound = 1 / 128**0.5  # Kaiming-uniform with a = sqrt 5
    assert 0.95 * bound < first.down.weight.abs().max() <= bound
    assert not any(p.any() for p in (first.down.bias, first.up.weight, first.up.bias))
    assert first.dropout.p == 0.1 and first.scale == 0.03
    again, other = Adapters(vit.model.visual), Adapters(vit.model.visual, seed=1)
    assert torch.equal(again.blocks["5"].down.weight, adapters.blocks["5"].down.weight)
    assert not torch.equal(other.blocks["5"].down.weight, adapters.blocks["5"].down.weight)


def test_making_adapters_leaves_the_random_state_alone(vit):
    before = torch.get_rng_state()
    Adapters(vit.model.visual)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "options, expected",
    [({}, 1_189_632), ({"width": 32}, 599_424), ({"blocks": [11]}, 99_136)],
)
def test_parameters_on_vit_b_16(options, expected):
    with torch.device("meta"):
        model = open_clip.create_model("ViT-B-16", pretrained_hf=False, load_weights=False, device="meta")
    assert Adapters(model.visual, **options).n_parameters == expected
    if not options:
        total = sum(p.numel() for p in model.parameters())
        assert total == 149_620_737 and round(100 * expected / total, 3) == 0.795


def test_a_block_computes_the_papers_formula(vit, batch):
    adapters = stir(Adapters(vit.model.visual, width=8, scale=0.1)).eval()
    block, part = vit.model.visual.transformer.resblocks[2], adapters.blocks["2"]
    seen = {}
    handle = block.register_forward_hook(lambda module, args, y: seen.update(x=args[0], y=y))
    with adapters.attached(vit.model.visual), torch.no_grad():
        vit.model.encode_image(batch)
    handle.remove()  # registered before the adapter's hook: saw the block without it
    with adapters.attached(vit.model.visual), torch.no_grad():
        out = block(seen["x"])
    with torch.no_grad():
        h = seen["x"] + block.attention(block.ln_1(seen["x"]))
        expected = h + block.mlp(block.ln_2(h)) + 0.1 * part.up(F.relu(part.down(h)))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    assert (out - seen["y"]).abs().max() > 1e-2


def test_a_resnet_is_corrected_after_each_stage(pixels):
    rn = load_clip("pocket-rn", "random")
    adapters = stir(Adapters(rn.model.visual, width=8, scale=0.5)).eval()
    assert [part.down.in_channels for part in adapters.blocks.values()] == [96, 192, 384, 768]
    part, x = adapters.blocks["3"], torch.randn(2, 384, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = rn.model.visual.layer4(x)
        with adapters.attached(rn.model.visual):
            out = rn.model.visual.layer4(x)
        torch.testing.assert_close(out, y + 0.5 * part.up(F.relu(part.down(y))))
    assert (out - y).abs().max() > 1e-2


def test_the_first_block_with_published_adapters():
    """What the first block makes of the class token, with adapters off and on; the later blocks are alike."""
    state = {k: v.float() for k, v in load_file(GOLDEN / "imo_adapter_weights.safetensors").items()}
    learnt = {k.removeprefix("adapters."): state.pop(k) for k in list(state) if k.startswith("adapters.")}
    config = json.loads((GOLDEN / "imo_adapter_config.json").read_text())
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"] | {"layers": 1}, config["text_cfg"],
                           quick_gelu=config["quick_gelu"]).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and {k for k in missing if k.startswith("visual.")} == {
        "visual.proj", "visual.ln_post.weight", "visual.ln_post.bias"}  # after the block
    tokens = []
    model.visual.ln_post.register_forward_pre_hook(lambda module, args: tokens.append(args[0][:, 0]))
    with np.load(GOLDEN / "imo_adapter.npz", allow_pickle=False) as golden, torch.no_grad():
        images = torch.from_numpy(golden["images"])
        model.encode_image(images)
        near(tokens.pop(), golden["cls_token_off"])
        for scale, name in ((0.03, "on_scale003"), (0.1, "on_scale01")):
            adapters = Adapters(model.visual, width=16, scale=scale).eval()
            adapters.load_state_dict(learnt)
            with adapters.attached(model.visual):
                model.encode_image(images)
            near(tokens.pop(), golden[f"cls_token_{name}"])
        assert np.abs(golden["cls_token_on_scale01"] - golden["cls_token_off"]).max() > 0.01


def golden_model(folder):
    config = json.loads((folder / "imo_adapter_config.json").read_text())
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=config["quick_gelu"])
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "imo_adapter_clip_weights.safetensors").items()})
    return model.eval().requires_grad_(False)


def golden_adapters(folder, model, scale):
    adapters = Adapters(model.visual, width=16, scale=scale)
    adapters.load_state_dict({k: v.float() for k, v in load_file(folder / "imo_adapter_weights.safetensors").items()})
    assert adapters.n_parameters == 12720
    return adapters.eval()


def near(value, expected, atol=1e-5):
    return torch.testing.assert_close(value.detach(), torch.as_tensor(expected), rtol=0, atol=atol)


def test_published_adapters(shared):
    model = golden_model(shared / "golden")
    tokens = []
    for block in model.visual.transformer.resblocks:  # what enters a block is what left the one before, corrected
        block.register_forward_pre_hook(lambda module, args: tokens.append(args[0][:, 0]))
    model.visual.ln_post.register_forward_pre_hook(lambda module, args: tokens.append(args[0][:, 0]))
    with np.load(shared / "golden" / "imo_adapter.npz", allow_pickle=False) as golden, torch.no_grad():
        images = torch.from_numpy(golden["images"])
        near(model.encode_image(images), golden["features_off"])
        for scale, name in ((0.03, "on_scale003"), (0.1, "on_scale01")):
            tokens.clear()
            adapters = golden_adapters(shared / "golden", model, scale)
            with adapters.attached(model.visual):
                near(model.encode_image(images), golden[f"features_{name}"])
            near(torch.stack(tokens[1:]), golden[f"cls_token_per_block_{name}"])
        near(model.encode_image(images), golden["features_off"])


def test_published_gradients(shared):
    model = golden_model(shared / "golden")
    adapters = golden_adapters(shared / "golden", model, 0.1)
    with np.load(shared / "golden" / "imo_adapter.npz", allow_pickle=False) as golden:
        head = torch.nn.Linear(64, 6)
        head.weight.data, head.bias.data = (torch.from_numpy(golden[f"head_{name}"]) for name in ("weight", "bias"))
        with adapters.attached(model.visual):
            logits = head(model.encode_image(torch.from_numpy(golden["images"])))
        loss = F.cross_entropy(logits, torch.from_numpy(golden["head_labels"]))
        loss.backward()
        near(logits, golden["head_logits_scale01"])
        near(loss, golden["head_loss_scale01"])
        for name, parameter in [*adapters.named_parameters(), *head.named_parameters(prefix="head")]:
            expected = golden[f"{name.replace('.', '_')}_grad" if name.startswith("head") else f"grad/{name}"]
            near(parameter.grad, expected, atol=1e-5 * np.abs(expected).max())
    assert all(p.grad is None for p in model.parameters())


# --- on and off -------------------------------------------------------------------------------------


def test_the_original_stays_beside_the_corrected(clip, pixels):
    original, fingerprint, state = clip.encode_images(pixels), clip.fingerprint, clip.model.state_dict()
    adapted = attach(clip, stir(Adapters(clip.model.visual)))
    corrected = adapted.encode_images(pixels)
    assert (corrected - original).abs().max() > 1e-2 and corrected.shape == original.shape
    assert torch.equal(clip.encode_images(pixels), original) and torch.equal(adapted.clip.encode_images(pixels), original)
    assert torch.equal(adapted.encode_images(pixels), corrected)
    assert n_hooks(clip) == 0 and clip.fingerprint == fingerprint
    assert adapted.model is clip.model and clip.model.state_dict().keys() == state.keys()
    assert torch.equal(adapted.encode_texts(["a cat"]), clip.encode_texts(["a cat"]))
    other = copy.copy(clip)
    other.logit_scale = 7.0
    assert attach(other).logit_scale == 7.0 and attach(clip).logit_scale == clip.logit_scale
    assert (adapted.name, adapted.dim, adapted.image_size) == (f"{clip.name}+adapters", 128, clip.image_size)


def test_nothing_stays_attached_after_an_error(clip, pixels):
    adapted = attach(clip, stir(Adapters(clip.model.visual)))
    with says("^Image array of type float32"):
        adapted.encode_images(pixels.astype(np.float32))
    with pytest.raises(RuntimeError):
        adapted.forward(torch.zeros(1, 5, 40, 40))
    assert n_hooks(clip) == 0


def test_only_some_blocks(vit, pixels):
    whole = stir(Adapters(vit.model.visual))
    some = Adapters(vit.model.visual, blocks=[4, 1])
    assert list(some.blocks) == ["1", "4"] and some.n_parameters * 3 == whole.n_parameters
    some.load_state_dict({k: v for k, v in whole.state_dict().items() if k.startswith(("blocks.1.", "blocks.4."))})
    for i, part in whole.blocks.items():
        if i not in some.blocks:
            part.up.weight.data.zero_()
            part.up.bias.data.zero_()
    assert torch.equal(attach(vit, some).encode_images(pixels), attach(vit, whole).encode_images(pixels))


def test_encoding_knows_no_dropout(vit, pixels):
    adapted = attach(vit, stir(Adapters(vit.model.visual, dropout=0.5)).train())
    adapted.adapters.train()
    first = adapted.encode_images(pixels)
    assert torch.equal(adapted.encode_images(pixels), first)


def test_the_fingerprint_covers_the_adapters(clip):
    adapted, other = attach(clip), attach(clip, scale=0.1)
    assert adapted.fingerprint == attach(clip).fingerprint
    assert len({clip.fingerprint, adapted.fingerprint, other.fingerprint}) == 3
    before = adapted.fingerprint
    next(adapted.adapters.parameters()).data.view(-1)[0] += 1e-3
    assert adapted.fingerprint != before


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"width": 5, "scale": 0.1, "blocks": [0, 3]}])
def test_saved_adapters_load_back(options, clip, pixels, tmp_path):
    adapted = attach(clip, stir(Adapters(clip.model.visual, **options)))
    adapted.trained = {"method": "supervised", "lr": 8e-3}
    adapted.save(tmp_path / "a.safetensors")
    loaded = AdaptedClip.load(tmp_path / "a.safetensors", clip)
    assert torch.equal(loaded.encode_images(pixels), adapted.encode_images(pixels))
    assert loaded.fingerprint == adapted.fingerprint and loaded.adapters.settings == adapted.adapters.settings
    assert loaded.trained == adapted.trained and attach(clip).trained == {}
    assert (tmp_path / "a.safetensors").stat().st_size < 4 * adapted.adapters.n_parameters + 5000


def test_adapters_of_another_clip_are_refused(vit, tmp_path):
    attach(vit).save(tmp_path / "a.safetensors")
    other = load_clip("pocket-vit", "random")
    other.model.visual.proj.data[0, 0] += 1
    for clip in (other, load_clip("pocket-rn", "random")):
        with says(f"^The adapters in {re.escape(str(tmp_path / 'a.safetensors'))} belong to pocket-vit with fingerprint "
                  f"{vit.fingerprint}, not to {clip.name} with fingerprint {clip.fingerprint}; "
                  "load the model that they belong to.$"):
            AdaptedClip.load(tmp_path / "a.safetensors", clip)


def test_files_that_hold_no_adapters(vit, tmp_path):
    with says("^.*gone.safetensors does not exist; check the path, or train adapters and save them there.$"):
        AdaptedClip.load(tmp_path / "gone.safetensors", vit)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    save_file({"x": torch.zeros(1)}, tmp_path / "else.safetensors")
    attach(vit).save(tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    metadata = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    metadata.pop("checksum")
    write_tensors(tmp_path / "short.safetensors", {"x": torch.zeros(1)}, metadata)
    for name in ("broken", "else", "cut", "short"):
        with says(rf"{name}.safetensors does not hold adapters that can be read \(.+\); "
                  "give a file that AdaptedClip.save wrote.$"):
            AdaptedClip.load(tmp_path / f"{name}.safetensors", vit)
    with says("^Cannot save adapters as a.pt; the name must end in .safetensors.$"):
        attach(vit).save(tmp_path / "a.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_neither_kept_nor_taken(value, vit, tmp_path):
    adapted, path = attach(vit), tmp_path / "a.safetensors"
    adapted.save(path)
    tensors, facts = read_tensors(path)
    name = list(tensors)[0]
    tensors[name].view(-1)[0] = value
    write_tensors(path, tensors, facts)
    with says(rf"a.safetensors does not hold adapters that can be read \({name} holds NaN or infinite values\)"):
        AdaptedClip.load(path, vit)
    next(adapted.adapters.parameters()).data.view(-1)[0] = value
    with says("^Cannot save adapters to .*b.safetensors: .* holds NaN or infinite values; train them at a lower rate.$"):
        adapted.save(tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


# --- bad options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"width": 0}, "^width = 0 is out of range; it must be a whole number of 1 or more.$"),
        ({"width": 2.5}, "^width = 2.5 is no whole number"),
        ({"scale": 0}, "^scale = 0 is out of range; it must be a number above 0.$"),
        ({"scale": float("nan")}, "^scale = nan is out of range"),
        ({"dropout": 1.0}, "^dropout = 1.0 is out of range; it must be a number from 0 to below 1.$"),
        ({"blocks": [0, 6]}, r"^blocks = \[0, 6\] do not fit this encoder; give different numbers from 0 to 5, at least one"),
        ({"blocks": []}, r"^blocks = \[\] do not fit"),
        ({"blocks": [1, 1]}, r"^blocks = \[1, 1\] do not fit"),
    ],
)
def test_options_out_of_range(options, message, vit):
    with says(message):
        attach(vit, **options)


def test_encoders_that_adapters_do_not_fit(vit):
    with says("^Adapters do not fit the image encoder Linear; they need a plain vision transformer or open_clip's "
              "ModifiedResNet, such as ViT-B-16, ViT-B-16-SigLIP or RN50 have.$"):
        Adapters(torch.nn.Linear(2, 2))
    with says("^These adapters belong to another encoder than that of pocket-vit; make new ones for it.$"):
        attach(vit, Adapters(load_clip("pocket-rn", "random").model.visual))
    with says(r"^pocket-vit\+adapters carries adapters already; attach to its original, .clip.$"):
        attach(attach(vit))
    with says("^Options width come with adapters that are already made; give one or the other.$"):
        attach(vit, Adapters(vit.model.visual), width=3)


# --- supervised training ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coloured():
    """48 noisy pictures of three colours, with their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 3
    images = rng.integers(0, 200, (48, 40, 40, 3))
    images[np.arange(48), :, :, labels] += 55
    return images.astype(np.uint8), labels


SMALL = {"batch_size": 16, "epochs": 2, "progress": False}


def test_training_learns_and_touches_only_the_adapters(clip, coloured):
    state = {k: v.clone() for k, v in clip.model.state_dict().items()}
    fingerprint, before = clip.fingerprint, torch.get_rng_state()
    adapted = train_supervised(clip, *coloured, **SMALL | {"epochs": 4})
    assert len(adapted.losses) == 12 and np.mean(adapted.losses[-3:]) < adapted.losses[0]
    assert all(torch.equal(v, state[k]) for k, v in clip.model.state_dict().items())
    again = type(clip)(clip.name, clip.model, clip.preprocess, clip.tokenizer)
    assert again.fingerprint == fingerprint and not any(p.requires_grad for p in clip.model.parameters())
    assert n_hooks(clip) == 0 and not clip.model.training and not adapted.adapters.training
    assert adapted.fingerprint != attach(clip).fingerprint
    assert torch.equal(torch.get_rng_state(), before)
    assert (adapted.trained["images"], adapted.trained["classes"], adapted.trained["normalise"]) == (48, 3, True)


def test_the_same_seed_gives_the_same_adapters(vit, coloured):
    first, again = train_supervised(vit, *coloured, **SMALL), train_supervised(vit, *coloured, **SMALL)
    assert first.fingerprint == again.fingerprint and first.losses == again.losses
    assert train_supervised(vit, *coloured, **SMALL, seed=1).losses != first.losses
    assert train_supervised(vit, *coloured, **SMALL, normalise=False).losses[0] != first.losses[0]


def test_a_killed_training_goes_on_to_the_same_weights(vit, coloured, tmp_path, monkeypatch):
    expected = train_supervised(vit, *coloured, **SMALL)
    forward, path = AdaptedClip.forward, tmp_path / "checkpoint.pt"
    calls = []

    def dies(self, batch):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(AdaptedClip, "forward", dies)
    with pytest.raises(KeyboardInterrupt):
        train_supervised(vit, *coloured, **SMALL, checkpoint=path, save_every=2)
    resumed = train_supervised(vit, *coloured, **SMALL, checkpoint=path, save_every=2)
    assert len(calls) == 4 + 4  # steps 3 to 6 of 6
    assert resumed.losses == expected.losses and resumed.fingerprint == expected.fingerprint
    assert train_supervised(vit, *coloured, **SMALL, checkpoint=path).fingerprint == expected.fingerprint
    assert len(calls) == 8 and sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt"]
    with says(r"checkpoint.pt belongs to another training \(other config\); delete it, or give another file"):
        train_supervised(vit, *coloured, **SMALL, lr=1e-3, checkpoint=path)
    path.write_bytes(b"half")
    with says(r"^Checkpoint .*checkpoint.pt cannot be read \(.+\); delete it to start afresh.$"):
        train_supervised(vit, *coloured, **SMALL, checkpoint=path)


def test_few_images_make_one_batch(vit, coloured):
    images, labels = coloured
    assert len(train_supervised(vit, images[:20], labels[:20], progress=False).losses) == 1
    assert len(train_supervised(vit, images[:20], labels[:20], batch_size=8, progress=False).losses) == 2


def test_trainings_that_cannot_be(vit, coloured):
    images, labels = coloured
    for given, options, message in [
        (labels[:5], {}, r"^labels has shape \[5\], but there are 48 images; give one label each.$"),
        (labels - 1, {}, "^Label -1 in labels is out of range; labels must be 0 or more.$"),
        (labels / 2, {}, "^labels holds values of type float64; labels must be whole numbers"),
        (labels, {"epochs": 0}, "^epochs = 0 is out of range; it must be a whole number of 1 or more.$"),
        (labels, {"lr": 1e30}, "^The loss became .* at step .* with lr = 1e\\+30; lower it.$"),
    ]:
        with says(message):
            train_supervised(vit, images, given, **SMALL | options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rate'"):
        train_supervised(vit, images, labels, rate=1)
    bare = type(vit)("bare", vit.model, vit.preprocess.transforms[-1], vit.tokenizer)
    with says("^normalise=False cannot be had: the preprocessing of bare does not end in Normalize; leave it True.$"):
        train_supervised(bare, images, labels, normalise=False)

"""Which device is taken, and that nothing mixes GPU and CPU: all that computes on a device runs on a pretended one."""

import numpy as np
import pytest
import torch
from pretend_gpu import PretendGpu, marked
from sgd_options import sgd_options

from clipnotes.analysis.confusion import averaged_confusion
from clipnotes.analysis.gradients import gradient_ratio, sample_gradient_norms
from clipnotes.backbone import AdaptedClip, attach, load_clip
from clipnotes.backbone.adapter_training import train_supervised
from clipnotes.backbone.self_supervised import train_dino
from clipnotes.device import choose_device
from clipnotes.errors import ClipnotesError
from clipnotes.methods import LinearProbe, PromptTuning
from clipnotes.methods.encoder_tuning import ImageEncoderFineTuning, TextEncoderTuning, image_tower
from clipnotes.methods.sgd import SGDConfig

NAMES = ["red star", "king", "zigzag"]

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")


# --- the choice ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tf32(monkeypatch):
    """torch's default, and again when the test is done."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)


@pytest.mark.parametrize("available, chosen", [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_where_there_is_one(monkeypatch, tf32, available, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    with PretendGpu():
        assert choose_device() == chosen
    assert torch.backends.cudnn.allow_tf32 is not available  # full float32 on a GPU


def test_every_default_is_auto(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    clip = load_clip("pocket-vit", "random")
    assert clip.device == "cpu" == choose_device()


def test_devices_that_are_not_here():
    for name in ("gpu", "privateuseone") + (() if torch.cuda.is_available() else ("cuda", "cuda:7")):
        with pytest.raises(ClipnotesError, match=rf"^device = '{name}' cannot be used on this machine \(.+\); choose auto, "
                                                 "cpu, cuda or another device of torch's that it has.$"):
            load_clip("pocket-vit", "random", device=name)


# --- the pretended GPU --------------------------------------------------------------------------------------------


def test_the_pretended_gpu_refuses_what_a_gpu_refuses():
    with PretendGpu():
        here, there = torch.ones(2, 2), torch.ones(2, 2, device="cuda")
        assert there.device.type == "cuda" and here.device.type == "cpu" and (there + 1).device.type == "cuda"
        assert there.cpu().device.type == "cpu" and torch.equal(there.cpu(), here)
        layer = torch.nn.Linear(2, 2).to("cuda")
        layer(there).sum().backward()
        assert marked(layer.weight) and marked(layer.weight.grad) and there[torch.tensor([0])].device.type == "cuda"
        for mixed in (lambda: here + there, lambda: layer(here), lambda: here[there[0].long()],
                      lambda: torch.cat([here, there]), lambda: here.index_put((torch.tensor([0]),), there[0])):
            with pytest.raises(RuntimeError):
                mixed()
        with pytest.raises(TypeError):
            there.numpy()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=["pocket-vit", "pocket-rn"])
def pair(request):
    """The same CLIP on the CPU and on the pretended GPU."""
    with PretendGpu():
        far = load_clip(request.param, "random", device="cuda")
        assert marked(next(far.model.parameters())) and far.device == "cuda"
    return load_clip(request.param, "random", device="cpu"), far


@pytest.fixture(scope="module")
def problem(pair):
    return torch.randn(6, pair[0].dim, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def same(pair, compute):
    """compute(clip) on both sides, which must give the same tensor, on the CPU."""
    near, far = pair
    with PretendGpu():
        there = compute(far)
        assert not marked(there)
    torch.testing.assert_close(there, compute(near), rtol=1e-5, atol=1e-5)


def test_encoding(pair, pixels, tmp_path):
    for compute in (lambda clip: clip.encode_images(pixels), lambda clip: clip.encode_views(pixels, 2),
                    lambda clip: clip.classifier(NAMES, ["a {}"]), lambda clip: attach(clip).encode_images(pixels)):
        same(pair, compute)
    with PretendGpu():
        assert pair[1].fingerprint == pair[0].fingerprint


@pytest.mark.parametrize("options", [{}, {"learn": "both"}, {"context": "class", "recompute": True}], ids=str)
def test_prompts(pair, problem, options, tmp_path):
    def features(clip):
        prompt = PromptTuning(clip, NAMES, n_context=4, **sgd_options(epochs=2, **options)).fit(*problem, progress=False)
        prompt.save(tmp_path / "p.safetensors")
        kept = PromptTuning.load(tmp_path / "p.safetensors", clip)
        assert len(kept.nearest_words(2)) and kept.score(*problem) == prompt.score(*problem)
        return torch.cat([kept.text_features().flatten(), kept.gradient(*problem), kept.context_.flatten()])

    same(pair, features)


def test_gradients_and_confusions(pair, problem):
    x, y = problem

    def numbers(clip):
        models = {"prompt": PromptTuning(clip, NAMES, n_context=4, sgd=SGDConfig(epochs=1)),
                  "probe": LinearProbe(sgd=SGDConfig(epochs=1))}
        ratios = gradient_ratio(models, x, y, torch.arange(6) < 3, n=2, n_classes=3, progress=False)["ratio"]
        return torch.cat([torch.tensor(ratios.to_numpy()), sample_gradient_norms(models["prompt"], x, y),
                          torch.tensor(averaged_confusion(clip, x, y, NAMES, draws=3, progress=False).matrix).flatten()])

    same(pair, numbers)


def test_the_text_tower_and_a_whole_image_encoder(pair, problem, pixels):
    same(pair, lambda clip: TextEncoderTuning(clip, NAMES, sgd=SGDConfig(epochs=2)).fit(*problem).logits(problem[0]))
    same(pair, lambda clip: ImageEncoderFineTuning(*image_tower(clip), device=clip.device, sgd=SGDConfig(epochs=1, batch_size=3)
                                                    ).fit(pixels, problem[1]).logits(pixels))


@pytest.mark.parametrize("train", ["supervised", "self-supervised"])
def test_adapters_train_and_go_on_from_a_checkpoint(pair, pixels, tmp_path, train):
    def trained(clip):
        kept = {"checkpoint": tmp_path / f"{clip.device}.pt", "save_every": 1, "progress": False, "batch_size": 3}
        for _ in range(2):  # the second reads what the first has kept
            if train == "supervised":
                adapted = train_supervised(clip, pixels, torch.arange(6) % 3, **kept)
            else:
                adapted = train_dino(clip, pixels, recipe="pocket", **kept)
        adapted.save(tmp_path / "a.safetensors")
        features = AdaptedClip.load(tmp_path / "a.safetensors", clip).encode_images(pixels)
        return torch.cat([torch.tensor(adapted.losses), features.flatten()])

    same(pair, trained)

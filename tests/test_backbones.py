"""Backbones beside the pocket ones: CLIP at its true size from OpenAI's files, and small models of SigLIP's and CoCa's form."""

import re
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import says
from safetensors.torch import save_file
from sgd_options import sgd_options
from test_clip import openai_archive
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from clipnotes.backbone import Clip, attach, load_clip
from clipnotes.backbone.open_clip_models import pixels
from clipnotes.backbone.plain_prompts import PlainEncoder
from clipnotes.backbone.prompt_encoding import TreeEncoder
from clipnotes.backbone.self_supervised import train_dino
from clipnotes.backbone.text_towers import causal_text_tower, frame, token_ids
from clipnotes.methods import PromptTuning, ZeroShot
from clipnotes.methods.encoder_tuning import TextEncoderTuning
from clipnotes.methods.sgd import SGDConfig

NAMES = ["red_star", "blue square", "king", "small red circle"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),  # the format of OpenAI's files is an old one
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 50, 40, 3), dtype=np.uint8)


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


# --- true size ----------------------------------------------------------------------------------------------------

SIZES = {  # feature size, parameters of the whole model, of new adapters
    "RN50": (1024, 102_007_137, 64 * 2 * (256 + 512 + 1024 + 2048) + 4 * 64 + 256 + 512 + 1024 + 2048),
    "ViT-B-16": (512, 149_620_737, 1_189_632),
}


@pytest.fixture(scope="module", params=SIZES)
def true(request, tmp_path_factory):
    """(name, a CLIP with random weights of half precision, the same read from a file in OpenAI's format, that file)."""
    name, generator = request.param, torch.Generator().manual_seed(0)
    source = load_clip(f"{name}-quickgelu", "random")
    for parameter in source.model.parameters():
        parameter.data = parameter.data.half().float()
    for module in source.model.modules():
        if isinstance(module, nn.BatchNorm2d):  # new ones would do nothing, or even hide what comes before them
            nn.init.constant_(module.weight, 1.0)
            module.running_mean.normal_(0, 0.1, generator=generator)
    path = tmp_path_factory.mktemp(name) / f"{name}.pt"
    openai_archive(source.model, path, resolution=224)
    return name, source, load_clip(name, path), path


def test_files_of_openai_load_at_true_size(true, images):
    name, source, loaded, _ = true
    dim, total, _ = SIZES[name]
    assert (loaded.dim, loaded.image_size, loaded.name) == (dim, 224, name)
    assert sum(p.numel() for p in loaded.model.parameters()) == total
    assert loaded.fingerprint == source.fingerprint and loaded.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert tuple(loaded.preprocess.transforms[-1].mean) == open_clip.OPENAI_DATASET_MEAN
    torch.testing.assert_close(loaded.encode_images(images[:1]), source.encode_images(images[:1]), rtol=1e-5, atol=1e-5)
    texts = ["a photo of a red star.", "a king"]
    torch.testing.assert_close(loaded.encode_texts(texts), source.encode_texts(texts), rtol=1e-5, atol=1e-5)
    assert loaded.classifier(NAMES, ["a photo of a {}.", "{}"]).shape == (4, dim)


def test_state_dicts_load_at_true_size(true, tmp_path):
    name, source, _, _ = true
    state = {key: value.half() if value.ndim > 1 else value for key, value in source.model.state_dict().items()}
    save, file = {"RN50": (torch.save, "w.pt"), "ViT-B-16": (save_file, "w.safetensors")}[name]
    save({key: value.contiguous() for key, value in state.items()}, tmp_path / file)
    assert load_clip(f"{name}-quickgelu", tmp_path / file).fingerprint == source.fingerprint


def test_files_of_another_size_are_refused(true):
    name, _, _, path = true
    other = {"RN50": "RN101", "ViT-B-16": "ViT-B-32"}[name]
    with says(rf"^{re.escape(str(path))} does not hold weights of {other} \(.+\); name the architecture that the file "):
        load_clip(other, path)


def test_new_adapters_change_nothing_at_true_size_and_learn_alone(true, images):
    name, _, clip, _ = true
    _, total, n_adapters = SIZES[name]
    adapted = attach(clip, dropout=0.0)
    assert adapted.adapters.n_parameters == n_adapters
    if name == "ViT-B-16":
        assert 100 * n_adapters / total == pytest.approx(0.795, abs=5e-4)
    assert torch.equal(adapted.encode_images(images[:1]), clip.encode_images(images[:1]))
    batch = torch.stack([clip.preprocess(pil(image)) for image in images[:2]])
    head, labels = nn.Linear(clip.dim, 2), torch.zeros(2).long()  # a network of random weights hardly tells images apart
    optimiser = torch.optim.AdamW(adapted.adapters.parameters(), lr=1e-3)  # not the head's: what falls is due to adapters
    loss = F.cross_entropy(head(adapted.forward(batch)), labels)
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        assert F.cross_entropy(head(adapted.forward(batch)), labels) < loss
    assert all(p.grad.isfinite().all() for p in adapted.adapters.parameters())
    assert all(p.grad.any() for key, p in adapted.adapters.named_parameters() if "up" in key)
    assert not any(p.requires_grad or p.grad is not None for p in clip.model.parameters())


def pil(pixels):
    from PIL import Image

    return Image.fromarray(pixels)


def test_prompts_at_true_size_are_those_of_plain_encoding(true):
    _, _, clip, _ = true
    prompt = PromptTuning(clip, NAMES, n_context=16).start()
    assert isinstance(prompt.layout_.encoder, TreeEncoder)
    results = []
    for encoder in (prompt.layout_.encoder, PlainEncoder(clip, prompt.layout_.sequences, clip.model)):
        learnt = prompt.learnt_.clone().requires_grad_()
        features = encoder(learnt[None])[0]
        upstream = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
        results.append((features.detach(), torch.autograd.grad((features * upstream).sum(), learnt)[0]))
    for ours, plain in zip(*results, strict=True):
        assert ours.isfinite().all() and relative(ours, plain) <= 1e-5
    x, y = torch.randn(4, clip.dim, generator=torch.Generator().manual_seed(1)), torch.arange(4)
    assert 0 < prompt.gradient(x, y).norm() < float("inf")


def test_the_text_tower_of_true_size_learns(true):
    _, _, clip, _ = true
    x, y = torch.randn(4, clip.dim, generator=torch.Generator().manual_seed(1)), torch.arange(4)
    tuning = TextEncoderTuning(clip, NAMES, sgd=SGDConfig(epochs=2, lr=1e-3, warmup_lr=1e-3))
    before = F.cross_entropy(ZeroShot(clip.classifier(NAMES, [tuning.template]), clip.logit_scale).logits(x), y).item()
    tuning.fit(x, y)
    assert tuning.losses_[0] == pytest.approx(before, abs=1e-3) and tuning.losses_[1] < tuning.losses_[0]
    assert all(p.grad.isfinite().all() for p in tuning.tower_.parameters())
    assert sum(p.numel() for p in tuning.tower_.parameters()) == 63_428_096 + 512 * (clip.dim - 512)
    assert not any(p.requires_grad or p.grad is not None for p in clip.model.parameters())


# --- other forms --------------------------------------------------------------------------------------------------

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
FORMS = {
    "tiny-sigmoid": {  # SigLIP: timm's image tower, text without causality, the last token's state, a bias on logits
        "embed_dim": 32, "init_logit_scale": 2.3, "init_logit_bias": -10, "custom_text": True,
        "vision_cfg": {"image_size": 32, "timm_model_name": "tiny_map", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}},
    "tiny-coca": {
        "embed_dim": 32, "custom_text": True, "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        "multimodal_cfg": TEXT | {"attn_pooler_heads": 4}},
    "tiny-average": {"embed_dim": 32, "vision_cfg": VISION | {"pool_type": "avg", "final_ln_after_pool": True},
                     "text_cfg": TEXT | {"no_causal_mask": True}},
    "tiny-custom": {"embed_dim": 32, "vision_cfg": VISION | {"qk_norm": True}, "custom_text": True,
                    "text_cfg": TEXT | {"qk_norm": True, "pool_type": "eos", "eos_id": 49407}},
}


def tiny_map(**settings):
    """timm's SigLIP encoder, but small: no class token, attention pooling."""
    kept = {key: settings[key] for key in ("num_classes", "global_pool")}
    return VisionTransformer(img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, class_token=False, **kept)


def stirred(name, register_models):
    """A small CLIP of another form with random layer norms and biases, since new ones hide mistakes."""
    if not timm.is_model("tiny_map"):
        timm.models.register_model(tiny_map)
    register_models(FORMS)
    clip, generator = load_clip(name, "random"), torch.Generator().manual_seed(0)
    for key, parameter in clip.model.named_parameters():
        if parameter.ndim == 1:
            parameter.data += (1.0 if "cls_emb" in key else 0.1) * torch.randn(parameter.shape, generator=generator)
    return clip


@pytest.fixture(scope="module", params=FORMS)
def form(request, register_models):
    return stirred(request.param, register_models)


@pytest.fixture(scope="module")
def sigmoid(register_models):
    return stirred("tiny-sigmoid", register_models)


class Words:
    """A tokenizer as SigLIP's: no start-of-text, one id for end and padding, Hugging Face's inside; a token a word."""

    tokenizer = SimpleNamespace(decode=lambda ids: f"token {ids[0]} ")

    def __call__(self, texts):
        rows = [[hash_of(word) for word in re.findall(r"\w+|\.", text)] for text in texts]
        return torch.tensor([[*row, *[1] * (24 - len(row))] for row in rows])


def hash_of(word):
    return 2 + sum(ord(letter) * 31**i for i, letter in enumerate(word)) % 40_000


@pytest.fixture(scope="module")
def wordwise(form):
    """The form, SigLIP's with a tokenizer as SigLIP's."""
    return Clip("tiny-words", form.model, form.preprocess, Words()) if form.name == "tiny-sigmoid" else form


def test_features_are_raw_whatever_the_model_does_by_default(form, images):
    features, texts = form.encode_images(images), form.encode_texts(["a king"])
    assert features.shape == (3, 32) and texts.shape == (1, 32) and form.image_size == 32
    batch = torch.stack([form.preprocess(pil(image)) for image in images])
    with torch.no_grad():
        visual = form.model.visual(batch)
    torch.testing.assert_close(features, visual[0] if isinstance(visual, tuple) else visual, rtol=1e-5, atol=1e-6)
    assert (features.norm(dim=1) - 1).abs().min() > 1e-3
    views = form.encode_views(images, 2)
    assert views.shape == (2, 3, 32) and views.isfinite().all() and not torch.equal(views[0], views[1])


def test_probabilities_are_the_models_own_with_or_without_a_bias(form, images):
    method = ZeroShot(form.classifier(NAMES, ["{}."]), form.logit_scale)
    batch = torch.stack([form.preprocess(pil(image)) for image in images])
    tokens = form.tokenizer([f"{name.replace('_', ' ')}." for name in NAMES])
    with torch.no_grad():
        x, text = (F.normalize(part, dim=-1) for part in (form.model.encode_image(batch), form.model.encode_text(tokens)))
        bias = form.model.logit_bias or 0
        published = form.model.logit_scale.exp() * x @ text.T + bias
    assert (bias != 0) == (form.name == "tiny-sigmoid")
    torch.testing.assert_close(method.logits(form.encode_images(images)).softmax(1), published.softmax(1))


def test_adapters_of_every_form(form, images):
    original = form.encode_images(images)
    assert torch.equal(attach(form).encode_images(images), original)
    adapted = attach(form, width=8, scale=1.0)
    assert adapted.adapters.n_parameters == 2 * (2 * 32 * 8 + 8 + 32)
    for parameter in adapted.adapters.parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    assert relative(adapted.encode_images(images), original) > 1e-2
    assert torch.equal(form.encode_images(images), original)
    batch = torch.stack([form.preprocess(pil(image)) for image in images])
    adapted.forward(batch).sum().backward()
    assert all(p.grad.any() for name, p in adapted.adapters.named_parameters() if "up" in name)


def test_the_papers_adapter_on_timms_blocks_by_hand(sigmoid, images):
    adapted, block = attach(sigmoid, width=8, scale=0.5, blocks=[1]), sigmoid.model.visual.trunk.blocks[1]
    one, held = adapted.adapters.blocks["1"], {}
    for parameter in one.parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    batch = torch.stack([sigmoid.preprocess(pil(image)) for image in images])
    with torch.no_grad(), adapted.adapters.attached(sigmoid.model.visual):
        handle = block.register_forward_hook(lambda module, args, y: held.update(x=args[0], y=y))  # after the adapter's
        sigmoid.model.visual(batch)
        handle.remove()
    with torch.no_grad():
        h = held["x"] + block.attn(block.norm1(held["x"]))
        correction = torch.relu(h @ one.down.weight.T + one.down.bias) @ one.up.weight.T + one.up.bias
        torch.testing.assert_close(held["y"], h + block.mlp(block.norm2(h)) + 0.5 * correction, rtol=1e-5, atol=1e-5)


SMALL_DINO = {"recipe": "pocket", "batch_size": 3, "local_crops": 1, "local_size": 16, "out_dim": 16, "progress": False}


def test_self_supervised_training_needs_an_encoder_that_takes_small_crops(register_models, sigmoid, images):
    with says("^Self-supervised training needs small crops, which the image encoder TimmModel does not take; train the "
              "adapters with labels, or use a model with open_clip's own encoder, such as ViT-B-16.$"):
        train_dino(sigmoid, images, **SMALL_DINO)
    adapted = train_dino(stirred("tiny-coca", register_models), images, **SMALL_DINO)
    assert np.isfinite(adapted.losses).all() and adapted.encode_images(images).isfinite().all()


def test_prompts_that_are_ordinary_texts(wordwise):
    usual, within = "a dark photo of a {}.", "a dark {} photo of a."
    for options, template in (({}, usual), ({"context": "class"}, usual), ({"learn": "both"}, usual),
                              ({"recompute": True}, usual), ({"position": "middle"}, within),
                              ({"position": "front"}, "{} a dark photo of a.")):
        prompt = PromptTuning(wordwise, NAMES, init="a dark photo of a", **options).start()
        assert isinstance(prompt.layout_.encoder, PlainEncoder) and prompt.layout_.n_context == 5
        texts = [template.format(name.replace("_", " ")) for name in NAMES]
        torch.testing.assert_close(prompt.text_features(), F.normalize(wordwise.encode_texts(texts), dim=-1), rtol=0, atol=1e-5)
    bare = PromptTuning(wordwise, NAMES, n_context=0).start().text_features()
    texts = [f"{name.replace('_', ' ')}." for name in NAMES]
    torch.testing.assert_close(bare, F.normalize(wordwise.encode_texts(texts), dim=-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_by_prompts_are_those_by_the_embeddings_of_their_words(wordwise, recompute):
    prompt = PromptTuning(wordwise, NAMES, init="dark wooden", recompute=recompute).start()  # words that no class name has
    upstream = torch.randn(2, len(NAMES), 32, generator=torch.Generator().manual_seed(0))
    learnt = torch.stack([prompt.learnt_, prompt.learnt_]).requires_grad_()
    ours = torch.autograd.grad((prompt.layout_.encoder(learnt) * upstream).sum(), learnt)[0]
    weight = prompt.layout_.encoder.embedding.weight.requires_grad_()
    try:
        text = wordwise.model.encode_text(wordwise.tokenizer([f"dark wooden {name.replace('_', ' ')}." for name in NAMES]),
                                          normalize=False)
        for i in range(2):
            plain = torch.autograd.grad((text * upstream[i]).sum(), weight, retain_graph=True)[0][prompt.layout_.phrase_ids]
            assert relative(ours[i], plain) <= 1e-5
    finally:
        weight.requires_grad_(False)


def test_prompts_and_towers_of_every_form_learn(wordwise):
    generator, y = torch.Generator().manual_seed(0), torch.arange(16) % 4
    x = torch.randn(4, 32, generator=generator)[y] + 0.3 * torch.randn(16, 32, generator=generator)
    state = {key: value.clone() for key, value in wordwise.model.state_dict().items()}
    for learn in ("context", "both"):
        prompt = PromptTuning(wordwise, NAMES, n_context=4, learn=learn, sgd=SGDConfig(epochs=8, batch_size=16, lr=0.1))
        prompt.fit(x, y, progress=False)
        assert prompt.losses_[-1] < prompt.losses_[0] and np.isfinite(prompt.losses_).all()
    recipe = {"epochs": 6, "batch_size": 16, "lr": 0.05, "warmup_lr": 1e-6}
    tuning = TextEncoderTuning(wordwise, NAMES, **sgd_options(**recipe))
    before = F.cross_entropy(ZeroShot(wordwise.classifier(NAMES, [tuning.template]), wordwise.logit_scale).logits(x), y).item()
    tuning.fit(x, y)
    assert tuning.losses_[0] == pytest.approx(before, rel=1e-3) and tuning.losses_[-1] < before
    for key, value in wordwise.model.state_dict().items():  # open_clip leaves a projection of CoCa's decoder as memory had it
        torch.testing.assert_close(value, state[key], rtol=0, atol=0, equal_nan=True)
    assert not any(p.requires_grad for p in wordwise.model.parameters())
    assert not any(name.startswith(("visual", "text_decoder", "logit")) for name, _ in tuning.tower_.named_parameters())


def test_the_frame_of_a_text_and_its_room(sigmoid):
    words = Clip("tiny-words", sigmoid.model, sigmoid.preprocess, Words())
    assert (frame(sigmoid), frame(words)) == ((1, 1), (0, 0))
    assert token_ids(words, ["red star"])[0] == [hash_of("red"), hash_of("star")]
    assert PromptTuning(words, NAMES, init="red star").start().nearest_words(1)["word"].tolist() == [
        f"token {hash_of('red')}", f"token {hash_of('star')}"]
    for clip, length in ((words, 27), (sigmoid, 29)):  # three words and a full stop, within a frame or not
        with says(f"^The prompt of class 'small red circle' with n_context = 23 has {length} tokens, but {clip.name} takes at "
                  f"most 24; lower n_context to {47 - length}.$"):
            PromptTuning(clip, NAMES[-1:], n_context=23).start()
    with says("^The prompts of this model cannot share the states of common tokens: it pools text by 'last'; use a CLIP whose"):
        causal_text_tower(sigmoid.model)


def test_a_token_behind_the_padding_is_refused(sigmoid):
    def tokenizer(texts):
        return torch.tensor([[5, 6, 0, 0, 9] for _ in texts])

    with says("^Prompts cannot be learnt with bert: its tokenizer puts a token behind the padding; use a model that pads to "
              "the end, such as ViT-B-32 or ViT-B-16-SigLIP.$"):
        PromptTuning(Clip("bert", sigmoid.model, sigmoid.preprocess, tokenizer), NAMES).start()


# --- what files and the machine lack ------------------------------------------------------------------------------


def test_a_file_gets_the_preprocessing_of_its_architecture(register_models, monkeypatch, tmp_path, images):
    register_models({"tiny-average": FORMS["tiny-average"]})
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic", "resize_mode": "squash"}
    tags = {"first": {"url": "u", **half}, "second": {"url": "u", **half}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-average", tags)
    source = load_clip("tiny-average", "random")
    save_file(source.model.state_dict(), tmp_path / "w.safetensors")
    loaded = load_clip("tiny-average", tmp_path / "w.safetensors")
    assert loaded.fingerprint == source.fingerprint and tuple(loaded.preprocess.transforms[-1].mean) == (0.5, 0.5, 0.5)
    tags["second"] = {"url": "u", "mean": (0.4, 0.4, 0.4)}
    assert set(pixels("tiny-average")) == set()  # they differ, so nothing is known
    assert pixels("ViT-B-16-SigLIP") == {f"image_{key}": value for key, value in half.items()}
    assert pixels("ViT-B-16").get("image_mean", open_clip.OPENAI_DATASET_MEAN) == open_clip.OPENAI_DATASET_MEAN


def test_models_that_need_another_package_say_so_before_anything_is_built(monkeypatch):
    from clipnotes.backbone import open_clip_models

    monkeypatch.setattr(open_clip_models, "find_spec", lambda name: None)
    for name in ("ViT-B-16-SigLIP", "roberta-ViT-B-32"):
        with says(f"^The text side of {name} needs Hugging Face's transformers, which is not installed; run `pip install "
                  "transformers sentencepiece`, or take a model without it, such as ViT-B-16.$"):
            load_clip(name, "random")


def test_a_tokenizer_that_cannot_be_downloaded(register_models, monkeypatch):
    register_models({"tiny-average": FORMS["tiny-average"]})

    def fail(name):
        raise OSError("no network\nmore")

    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    with says(r"^The tokenizer of tiny-average cannot be had \(no network\); it comes from Hugging Face: load the model once"):
        load_clip("tiny-average", "random")

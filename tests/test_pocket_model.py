"""The two pocket backbones: tokenizer, input, sizes, loading, and the shipped weights."""

import gzip
import re

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import save_file

from clipnotes.data import list_datasets, load_manifest
from clipnotes.errors import ClipnotesError
from clipnotes.pocket import captions, drawing, model, world

NAMES = list(model.VISION)


@pytest.fixture(scope="module")
def tokenizers():
    return model.tokenizer(), SimpleTokenizer()


def pieces(tokenizer, text):
    return [tokenizer.decoder[token] for token in tokenizer.encode(text)]


# --- tokenizer ----------------------------------------------------------------------------------------------------


def test_the_tokenizer_splits_every_word_of_the_world_as_clip_does(tokenizers):
    small, full = tokenizers
    texts = {text.replace("{}", " ") for text in captions.words()}
    f = world.sample(np.random.default_rng(0), 300)
    for text in texts | set(captions.write(f, np.random.default_rng(1), foreign=0)):
        assert pieces(small, text) == pieces(full, text), text
    assert small.vocab_size < 2000 < full.vocab_size


@pytest.mark.parametrize("text", ["quokka", "zürich, 日本語!", "état № 42 🐨", "tip-adapter++ &amp; friends"])
def test_other_text_still_tokenises_and_comes_back(tokenizers, text):
    small, full = tokenizers
    assert small.decode(small.encode(text)) == full.decode(full.encode(text))


def test_sequences_start_end_and_fit(tokenizers):
    small, _ = tokenizers
    tokens = small(["a cat", "word " * 50])
    assert tokens.shape == (2, model.CONTEXT_LENGTH)
    assert (tokens[:, 0] == small.sot_token_id).all()
    assert tokens[0, 1:3].tolist() == small.encode("a cat") and tokens[0, 3] == small.eot_token_id
    assert (tokens[0, 4:] == 0).all() and tokens[1, -1] == small.eot_token_id
    assert tokens.max() == small.eot_token_id == small.vocab_size - 1  # the text tower finds the end by argmax


def test_of_a_caption_that_is_too_long_the_end_is_kept(tokenizers):
    small, _ = tokenizers
    short, long = model.tokenize_captions(["a cat", "word " * 50 + "a red star"], small)
    assert torch.equal(short, small(["a cat"])[0])
    assert long[0] == small.sot_token_id and long[-1] == small.eot_token_id
    assert small.decode(long[1:-1].tolist()).endswith("word a red star ")


@pytest.mark.parametrize("name", [name for name in list_datasets() if load_manifest(name).built_in])
def test_sixteen_learnable_tokens_fit_before_every_class_name(tokenizers, name):
    small, _ = tokenizers
    manifest = load_manifest(name)
    longest = max(manifest.classes, key=lambda classname: len(small.encode(classname)))
    assert 1 + 16 + len(small.encode(f"{longest}.")) + 1 <= model.CONTEXT_LENGTH, longest
    for template in manifest.templates:  # and no template is cut off
        assert len(small.encode(template.format(longest))) + 2 <= model.CONTEXT_LENGTH


def test_the_merges_file_is_what_write_merges_makes(tmp_path):
    made = tmp_path / "new" / "merges.txt.gz"
    model.write_merges(made)
    assert gzip.decompress(made.read_bytes()) == gzip.decompress(model.MERGES.read_bytes())
    assert made.stat().st_size < 10_000
    model.write_merges(tmp_path / "again.gz")
    assert made.read_bytes() == (tmp_path / "again.gz").read_bytes()  # no time stamp inside


def test_merges_are_applied_lowest_rank_first():
    ranks = {("l", "o"): 2, ("o", "w</w>"): 1, ("s", "l"): 3, ("l", "ow</w>"): 4, ("l", "l"): 0}
    assert model.merges_of("slow", ranks) == [("o", "w</w>"), ("s", "l")]
    assert model.merges_of("llow", ranks) == [("l", "l"), ("o", "w</w>")]
    assert model.merges_of("xyz", ranks) == []


# --- networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, millions", [("pocket-vit", 2.1), ("pocket-rn", 3.85)])
def test_size_and_output(name, millions):
    net, _, tokenizer = model.load(name, "random")
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    images = torch.zeros(2, 3, *[model.VISION[name]["image_size"]] * 2)
    assert net.eval().encode_image(images).shape == net.encode_text(tokenizer(["a", "b"])).shape == (2, 128)
    assert net.logit_scale.exp().item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_are_always_the_same_and_leave_torchs_seed_alone(name):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again = model.load(name, "random")[0], model.load(name, "random")[0]
    assert torch.rand(1) == expected
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_prepare_is_the_preprocessing_of_the_backbone(name):
    pixels = drawing.draw(world.sample(np.random.default_rng(0), 60))
    _, preprocess, _ = model.load(name, "random")
    expected = torch.stack([preprocess(Image.fromarray(image)) for image in pixels])
    levels = (model.prepare(pixels, name) - expected).abs() * model.STD[0] * 255
    if name == "pocket-vit":  # no resizing
        assert levels.max() == 0
    else:  # torchvision and Pillow round their bicubic sums apart once in a while
        assert levels.max() < 2.01 and (levels > 0.5).float().mean() < 1e-4


# --- loading ------------------------------------------------------------------------------------------------------


def half(net):
    return {k: v.half().contiguous() if v.is_floating_point() else v for k, v in net.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_weights_load_as_single_precision(name, tmp_path):
    torch.manual_seed(1)
    net = model.build(name)
    save_file(half(net), tmp_path / "w.safetensors")
    loaded = model.load(name, str(tmp_path / "w.safetensors"))[0].state_dict()
    assert {v.dtype for v in loaded.values() if v.is_floating_point()} == {torch.float32}
    assert all(torch.equal(loaded[k], v.half().float()) for k, v in net.state_dict().items() if v.is_floating_point())


def test_missing_weights(tmp_path):
    path = tmp_path / "gone.safetensors"
    message = (
        f"The weights of pocket-rn are missing at {path}; reinstall clipnotes, which brings them, "
        "or make them with `clipnotes pocket pretrain pocket-rn` and give their path"
    )
    with pytest.raises(ClipnotesError, match=f"^{re.escape(message)}.$"):
        model.load("pocket-rn", path)


def test_weights_of_another_architecture(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(half(model.build("pocket-rn")), path)
    start = re.escape(f"{path} does not hold weights of pocket-vit (Error(s) in loading state_dict for CLIP:")
    with pytest.raises(ClipnotesError, match=f"^{start}.*; name the backbone that it belongs to.$"):
        model.load("pocket-vit", path)


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", b"\x80\x04\x95pickle"])
def test_damaged_weights(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ClipnotesError, match="does not hold weights of pocket-vit .*name the backbone"):
        model.load("pocket-vit", path)


# --- the shipped weights ------------------------------------------------------------------------------------------


def shipped(name):
    path = model.WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there: the backbone has not been trained yet")
    return path


def test_shipped_weights_are_small():
    assert sum(shipped(name).stat().st_size for name in NAMES) <= 20e6


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_recognise_objects(name):
    from clipnotes.backbone import load_clip
    from clipnotes.data import load_task
    from clipnotes.methods import ZeroShot

    shipped(name)
    clip, task = load_clip(name), load_task("pocket-glyphs")
    text = clip.classifier(task.classnames, task.templates)
    accuracy = ZeroShot(text, clip.logit_scale).score(clip.encode_images(task.val.images), task.val.labels)
    assert accuracy > 2 / len(task.classnames)

"""Loading CLIPs and encoding images and texts with them; nothing here touches the network."""

import pickle
import re
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from conftest import GOLDEN, says
from open_clip import factory
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import Compose

from clipnotes.backbone import Clip, classifier, load_clip, template_features
from clipnotes.backbone.pictures import ImageReader
from clipnotes.backbone.text import ensemble, warn_of_equal_names
from clipnotes.methods import ZeroShot

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),  # the format of OpenAI's files is an old one
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
]

TINY = {  # ViT-B-32's form at a size that loads at once
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny(register_models):
    """Small architectures under open_clip's eyes: tiny and tiny-quickgelu, as ViT-B-32 has them, and wider."""
    register_models({"tiny": TINY, "tiny-quickgelu": TINY | {"quick_gelu": True},
                     "wider": TINY | {"vision_cfg": TINY["vision_cfg"] | {"width": 96}}})
    return "tiny"


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pocket-vit", "pocket-rn"])
def test_arrays_pil_images_and_files_give_the_same_features(name, pixels, tmp_path):
    clip = load_clip(name, "random")
    images = [Image.fromarray(p) for p in pixels]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    expected = clip.encode_images(pixels)
    assert expected.shape == (7, 128) and expected.dtype == torch.float32 and not expected.requires_grad
    for kind in (images, paths, [str(path) for path in paths], list(pixels)):
        torch.testing.assert_close(clip.encode_images(kind), expected, rtol=0, atol=1e-5)
    for batch_size in (1, 3):
        torch.testing.assert_close(clip.encode_images(pixels, batch_size), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(clip.encode_images(pixels[::-1].copy()), expected.flip(0), rtol=0, atol=1e-5)


def test_features_are_those_of_the_network(clip, pixels):
    batch = torch.stack([clip.preprocess(Image.fromarray(p)) for p in pixels])
    expected = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.27
    torch.testing.assert_close(batch, expected)
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_images(pixels), clip.model.encode_image(expected), rtol=0, atol=1e-5)


def test_grey_palette_and_transparent_images_become_rgb(clip, pixels, tmp_path):
    grey = pixels[..., 0]
    expected = clip.encode_images(np.repeat(grey[..., None], 3, -1))
    Image.fromarray(grey[0]).save(tmp_path / "grey.png")
    Image.fromarray(pixels[0]).convert("RGBA").save(tmp_path / "rgba.png")
    torch.testing.assert_close(clip.encode_images(grey), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(clip.encode_images([tmp_path / "grey.png"]), expected[:1], rtol=0, atol=1e-5)
    torch.testing.assert_close(clip.encode_images([tmp_path / "rgba.png"]), clip.encode_images(pixels[:1]))


def test_no_images_give_no_features(clip):
    assert clip.encode_images([]).shape == (0, clip.dim) == clip.encode_texts([]).shape


def test_images_that_cannot_be_read_are_named(clip, pixels, tmp_path):
    missing, broken, cut = tmp_path / "gone.png", tmp_path / "broken.png", tmp_path / "cut.jpg"
    broken.write_bytes(b"no picture")
    Image.fromarray(pixels[0]).save(cut)
    cut.write_bytes(cut.read_bytes()[:-200])
    with says(f"^Image {re.escape(str(missing))} does not exist; check the data root and the manifest's image folder.$"):
        clip.encode_images([missing])
    for path in (broken, cut):
        with says(rf"^Image {re.escape(str(path))} cannot be read \(.*\); fetch it again or remove it from the split.$"):
            clip.encode_images([path])
    with says(r"^Image array of type int32; give uint8 \(0 to 255\), uint16, or floats of 0 to 1.$"):
        clip.encode_images(pixels.astype(np.int32))


# --- the frozen model ---------------------------------------------------------------------------------------------


def test_a_clip_is_frozen_and_knows_itself(vit):
    assert not vit.model.training and not any(p.requires_grad for p in vit.model.parameters())
    assert (vit.dim, vit.image_size) == (128, 40)
    assert vit.logit_scale == pytest.approx(1 / 0.07)
    assert repr(vit) == "Clip('pocket-vit', dim=128, image_size=40, logit_scale=14.3)"


def test_the_fingerprint_covers_weights_and_preprocessing(vit):
    again = load_clip("pocket-vit", "random")
    assert again.fingerprint == vit.fingerprint != load_clip("pocket-rn", "random").fingerprint
    state = {k: v.clone() for k, v in vit.model.state_dict().items()}
    changed = load_clip("pocket-vit", "random")
    next(iter(changed.model.parameters())).data.view(-1)[0] += 1e-3
    assert changed.fingerprint != vit.fingerprint
    assert all(torch.equal(v, state[k]) for k, v in vit.model.state_dict().items())
    other = Clip("pocket-vit", vit.model, Compose([vit.preprocess, torch.neg]), vit.tokenizer)
    assert other.fingerprint != vit.fingerprint


def test_the_fingerprint_forgets_memory_addresses(clip):
    def preprocessing():
        def to_rgb(image):
            return image

        return Compose([to_rgb])

    steps = [preprocessing(), preprocessing()]
    assert " at 0x" in repr(steps[0]) and repr(steps[0]) != repr(steps[1])
    made = [Clip("c", clip.model, step, clip.tokenizer).fingerprint for step in steps]
    assert made[0] == made[1]


def test_texts_in_batches(clip):
    texts = [f"{i} cats" for i in range(7)]
    torch.testing.assert_close(clip.encode_texts(texts, batch_size=3), clip.encode_texts(texts), rtol=0, atol=1e-5)


# --- classifiers --------------------------------------------------------------------------------------------------

CLASSES, TEMPLATES = ["coffee_cup", "sun", "cat"], ["a photo of a {}.", "{}", "a {} in the snow"]


def test_a_classifier_is_the_mean_over_templates_of_unit_features(clip):
    rows = []
    for name in ("coffee cup", "sun", "cat"):  # underscores are blanks
        unit = []
        for template in TEMPLATES:
            feature = clip.encode_texts([template.replace("{}", name)])[0].double().numpy()
            unit.append(feature / np.linalg.norm(feature))
        mean = np.mean(unit, 0)
        rows.append(mean / np.linalg.norm(mean))
    weights = clip.classifier(CLASSES, TEMPLATES)
    assert np.allclose(weights, rows, atol=1e-6)
    assert template_features(clip, CLASSES, TEMPLATES).shape == (3, 3, 128)
    assert torch.equal(weights, classifier(clip, CLASSES, TEMPLATES))


def test_published_ensembles():
    with np.load(GOLDEN / "zero_shot.npz", allow_pickle=False) as golden:
        weights = ensemble(golden["template_text_features"])
        assert np.allclose(weights, golden["class_weights"], atol=1e-6)
        assert np.allclose(weights, golden["class_weights_coop"], atol=1e-6)
        one = ensemble(golden["template_text_features"][:, :1])
        assert np.allclose(one, golden["class_weights_first_template_only"], atol=1e-6)
        method = ZeroShot(weights, logit_scale=100)
        logits = method.logits(golden["image_features"])
        assert np.allclose(logits, golden["logits"], atol=1e-4)
        assert np.allclose(method.logits(3 * golden["image_features"]), golden["logits"], atol=1e-4)
        expected = golden["logits"].argmax(1)
        assert method.predict(golden["image_features"]).tolist() == expected.tolist()
        wrong = np.r_[expected[:9], expected[9:] + 1]
        assert method.score(golden["image_features"], wrong) == pytest.approx(9 / 12)


def test_permuting_the_classes_permutes_the_logits(clip, pixels):
    x, order = clip.encode_images(pixels), [2, 0, 1]
    logits = ZeroShot(clip.classifier(CLASSES, TEMPLATES), clip.logit_scale).logits(x)
    text = clip.classifier([CLASSES[i] for i in order], TEMPLATES)
    torch.testing.assert_close(ZeroShot(text, clip.logit_scale).logits(x), logits[:, order], rtol=0, atol=1e-4)
    assert logits.abs().max() <= clip.logit_scale + 1e-4


def test_bad_templates_and_empty_lists(clip):
    with says(r"^Template 'a photo' has no place for the class name; write \{\} where it belongs.$"):
        clip.classifier(CLASSES, ["a {}", "a photo"])
    with says(r"^No templates given; at least one is needed, such as 'a photo of a {}\.'\.$"):
        clip.classifier(CLASSES, [])
    with says("^classnames is empty; give one name a class.$"):
        clip.classifier([], ["{}"])
    with says("^classnames = 'cat' is no list of names"):
        clip.classifier("cat", ["{}"])


def test_braces_are_only_braces(clip):
    twice = clip.classifier(["cat"], ["a {} is a {}: {x}"])
    assert torch.equal(twice, clip.classifier(["cat is a cat: {x}"], ["a {}"]))


# --- loading by name ----------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    """Downloads fail as they do without a network."""

    def fail(cfg, **settings):
        raise OSError("Temporary failure in name resolution\nmore")

    monkeypatch.setattr(factory, "download_pretrained", fail)


def test_unknown_models_are_answered_with_names_alike():
    with says("^Unknown model 'ViT-B-23'; choose pocket-vit, pocket-rn or one of open_clip's: .*ViT-B-32"):
        load_clip("ViT-B/23")
    with says("^Unknown model 'pocket-mlp'"):
        load_clip("pocket-mlp")


def test_unknown_tag_or_missing_file():
    with says(r"^pretrained='laion9b' is neither a file nor a tag of ViT-B-32; its tags: openai, .*laion2b_s34b_b79k"):
        load_clip("ViT-B-32", "laion9b")
    with says("^The weights of pocket-vit are missing at gone.safetensors; "):
        load_clip("pocket-vit", "gone.safetensors")


def test_weights_that_were_trained_without_quickgelu(offline):
    message = (
        "^ViT-B-32-quickgelu uses QuickGELU, but the weights 'laion2b_s34b_b79k' were trained with GELU; "
        "load 'ViT-B-32' instead.$"
    )
    with says(message):
        load_clip("ViT-B-32-quickgelu", "laion2b_s34b_b79k")


@pytest.mark.parametrize(
    "name, tag, source, fits",
    [
        ("RN50", None, r"https://openaipublic\.azureedge\.net/\S+/RN50\.pt", "RN50-quickgelu"),
        ("ViT-B/32", "openai", r"https://openaipublic\.azureedge\.net/\S+/ViT-B-32\.pt", "ViT-B-32-quickgelu"),
        ("ViT-B-32", "laion2b_s34b_b79k", r"https://huggingface\.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "ViT-B-32"),
        (
            "ViT-B-32",
            "metaclip_400m",
            r"https://dl\.fbaipublicfiles\.com/MMPT/metaclip/b32_400m\.pt",
            "ViT-B-32-quickgelu",
        ),
    ],
)
def test_without_network_one_sentence_says_what_to_get(name, tag, source, fits, offline):
    with says(
        f"^The weights '{tag or 'openai'}' of {name.replace('/', '-')} are not on this machine and could not be "
        rf"downloaded \(.*name resolution\); get them from {source} where there is a network "
        f"and load '{fits}' with the file's path as pretrained=.$"
    ):
        load_clip(name, tag)


def test_a_tag_brings_its_activation(tiny, monkeypatch, pixels, tmp_path):
    weights = tmp_path / "w.pt"
    torch.save(load_clip(tiny, "random").model.state_dict(), weights)
    tags = {"openai": {"url": "u", "quick_gelu": True}, "laion": {"url": "u"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)
    monkeypatch.setattr(factory, "download_pretrained", lambda cfg, **settings: str(weights))
    expected = {name: load_clip(name, str(weights)).encode_images(pixels) for name in ("tiny", "tiny-quickgelu")}
    assert (expected["tiny"] - expected["tiny-quickgelu"]).abs().max() > 1e-3
    for name, tag, same in (
        ("tiny", "openai", "tiny-quickgelu"),
        ("tiny-quickgelu", "openai", "tiny-quickgelu"),
        ("tiny", "laion", "tiny"),
    ):
        torch.testing.assert_close(load_clip(name, tag).encode_images(pixels), expected[same])


# --- loading files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write, name",
    [
        (save_file, "w.safetensors"),
        (torch.save, "w.pt"),
        (
            lambda state, path: torch.save(
                {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path
            ),
            "training.pt",
        ),
    ],
)
def test_files_of_open_clip_load_back(write, name, tiny, pixels, tmp_path):
    source = load_clip(tiny, "random")
    source.model.visual.proj.data.mul_(1.5)
    write(source.model.state_dict(), tmp_path / name)
    for path in (tmp_path / name, str(tmp_path / name)):
        loaded = load_clip(tiny, path)
        assert torch.equal(loaded.encode_images(pixels), source.encode_images(pixels))
        assert loaded.fingerprint == source.fingerprint
    assert loaded.tokenizer(["a cat"]).shape == (1, 77)


def openai_archive(model, path, resolution=32):
    """What OpenAI's .pt files are: a TorchScript module with three numbers and the weights, matrices in half precision."""

    class Holder(torch.nn.Module):
        def forward(self, x):
            return x

    holder = Holder()
    for key, value in model.state_dict().items():
        *parents, leaf = key.split(".")
        module = holder
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.register_buffer(leaf, value.half() if value.ndim > 1 else value)
    for key, number in (("input_resolution", resolution), ("context_length", 77), ("vocab_size", 49408)):
        holder.register_buffer(key, torch.tensor(number))
    torch.jit.script(holder).save(path)


@pytest.mark.parametrize("name", ["tiny", "tiny-quickgelu"])
def test_openais_archives_load_with_quickgelu(name, tiny, pixels, tmp_path):
    source = load_clip("tiny-quickgelu", "random")
    for parameter in source.model.parameters():
        parameter.data = parameter.data.half().float()
    openai_archive(source.model, tmp_path / "ViT-tiny.pt")
    loaded = load_clip(name, tmp_path / "ViT-tiny.pt")
    torch.testing.assert_close(loaded.encode_images(pixels), source.encode_images(pixels), rtol=0, atol=1e-6)
    torch.testing.assert_close(loaded.encode_texts(["a cat"]), source.encode_texts(["a cat"]), rtol=0, atol=1e-6)
    mean = loaded.preprocess.transforms[-1].mean
    assert tuple(mean) == open_clip.OPENAI_DATASET_MEAN and loaded.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)


def test_files_of_another_architecture(tiny, tmp_path):
    wider = load_clip("wider", "random").model
    save_file(wider.state_dict(), tmp_path / "w.safetensors")
    torch.save(wider.state_dict(), tmp_path / "w.pt")
    openai_archive(wider, tmp_path / "openai.pt")
    save_file({}, tmp_path / "empty.safetensors")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "else.pt")
    right = load_clip(tiny, "random").model
    for write, file in ((save_file, "cut.safetensors"), (torch.save, "cut.pt"), (openai_archive, "cut-openai.pt")):
        write(right if write is openai_archive else right.state_dict(), tmp_path / file)
        (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-1000])
    for file in ("w.safetensors", "w.pt", "openai.pt", "empty.safetensors", "else.pt", "cut.safetensors", "cut.pt",
                 "cut-openai.pt"):
        with says(
            rf"^{re.escape(str(tmp_path / file))} does not hold weights of tiny \(.+\); "
            "name the architecture that the file belongs to, or get the file again.$"
        ):
            load_clip(tiny, tmp_path / file)


class Harmful:
    """Would leave a trace when unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return open, (self.trace, "w")


def test_pickled_objects_are_refused_and_not_run(tiny, tmp_path):
    trace = tmp_path / "trace"
    torch.save({"state_dict": Harmful(trace)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Harmful(trace)))
    torch.save(Harmful(trace), tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    for file in ("a.pt", "b.pt", "c.pt"):
        with says(f"{file} does not hold weights of tiny"):
            load_clip(tiny, tmp_path / file)
    torch.save(SimpleNamespace(weights=torch.zeros(2)), tmp_path / "d.pt")
    with says("d.pt does not hold weights of tiny"):
        load_clip(tiny, tmp_path / "d.pt")
    assert not trace.exists()


def test_random_weights_of_any_architecture(tiny, pixels):
    first, again = load_clip(tiny, "random"), load_clip(tiny, "random", device="cpu")
    assert torch.equal(first.encode_images(pixels), again.encode_images(pixels))
    assert first.image_size == 32 and first.dim == 16


@pytest.mark.parametrize("name", ["pocket-vit", "pocket-rn"])
def test_batches_of_pixels_equal_single_ones(name):
    """Pixels of the model's own size skip what would not change them; others take the whole way."""
    preprocess = load_clip(name, "random").preprocess
    for size in (40, 64):
        images = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
        reader = ImageReader(images, preprocess)
        assert torch.equal(torch.stack(reader.__getitems__([3, 0, 4])), torch.stack([reader[i] for i in (3, 0, 4)]))
    assert torch.equal(ImageReader(images / 255, preprocess).__getitems__([2])[0], reader[2])
    with says("Image array of type int64; give uint8"):
        ImageReader(images.astype(np.int64), preprocess).__getitems__([0])


# --- texts that are equal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["Cat", "cat"], ["caf\u00e9", "cafe\u0301"], ["salt &amp; pepper", "salt & pepper"],
                                   ["ice  cream", "ice_cream"], ["dog ", "dog"]])
def test_names_that_read_alike_are_named(names):
    with pytest.warns(UserWarning, match="^pets has classes with the same text for CLIP, which no prompt .*label 2"):
        warn_of_equal_names(["newt", *names], "pets")


def test_names_that_differ_are_no_matter(recwarn):
    warn_of_equal_names(["cat", "cats", "a cat", "Katze"], "pets")
    assert not recwarn.list


def test_texts_that_become_equal_by_being_cut_are_refused(clip):
    long = "very " * 200
    with says("^Texts 'a photo of a very .* and .* are the same for pocket-vit, which cuts texts after .* tokens; shorten the"):
        clip.classifier(["cat", f"{long}cat", f"{long}dog"], ["{}", "a photo of a {}."])
    assert clip.classifier(["cat", "Cat", f"{long}dog"], ["a photo of a {}."]).shape == (3, clip.dim)  # one of them may be long

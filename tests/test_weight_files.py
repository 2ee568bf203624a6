"""Weights files: tensors come out of them, and nothing that they bring is run."""

import zipfile
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from test_clip import TINY, says
from torch import nn

from clipnotes.backbone import load_clip
from clipnotes.backbone.weight_files import is_script_archive, read_script_archive
from clipnotes.errors import ClipnotesError

pytestmark = [pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")]


@pytest.fixture(scope="module")
def tiny(register_models):
    other = {"higher": {"vision_cfg": TINY["vision_cfg"] | {"image_size": 64}},
             "longer": {"text_cfg": TINY["text_cfg"] | {"context_length": 32}}, "tiny-quickgelu": {"quick_gelu": True}}
    register_models({"tiny": TINY} | {name: TINY | change for name, change in other.items()})
    return "tiny"


class Small(nn.Module):
    """Parameters and buffers of several types, shapes and layouts, two of which share their memory."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4).half(), nn.BatchNorm1d(4), nn.Linear(4, 2, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(4.6))
        self.register_buffer("turned", torch.arange(6).reshape(2, 3).T)
        self.register_buffer("part", self.turned[1:])
        self.register_buffer("none", torch.empty(0, 3))

    def forward(self, x):
        return x * self.scale


def script(module, path):
    torch.jit.script(module).save(path)


def trace(module, path):
    torch.jit.trace(module, torch.zeros(2)).save(path)


@pytest.mark.parametrize("save", [script, trace])
def test_an_archive_gives_the_tensors_that_it_was_made_of(save, tmp_path):
    module = Small()
    save(module, tmp_path / "a.pt")
    found, wanted = read_script_archive(tmp_path / "a.pt"), module.state_dict()
    assert is_script_archive(tmp_path / "a.pt") and set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


class Harmful(nn.Module):
    """Writes a file when TorchScript's loader rebuilds it."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self):
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path, self.training = state
        torch.save(torch.zeros(1), self.path)


@pytest.mark.parametrize("name", ["openai.pt", "ViT-B-32.pt", "weights.bin", "weights.safetensors", "weights.npz"])
def test_code_in_an_archive_is_never_run(name, tiny, tmp_path):
    trace = tmp_path / "trace"
    module = Small()
    module.harmful = Harmful(str(trace))
    torch.jit.script(module).save(tmp_path / name)
    torch.jit.load(tmp_path / name)
    assert trace.is_file()  # it is as bad as that
    trace.unlink()
    with says(f"{name} does not hold weights of tiny"):
        load_clip(tiny, tmp_path / name)
    assert not trace.exists()


def rewritten(source, target, change, compress=zipfile.ZIP_STORED):
    """A copy of an archive with its entries passed through change(name, content), None leaving one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compress) as new:
        for entry in old.infolist():
            content = change(entry.filename.partition("/")[2], old.read(entry))
            if content is not None:
                new.writestr(entry.filename, content)
    return target


def swapped(old, new):
    def change(name, content):
        assert name != "data.pkl" or old in content
        return content.replace(old, new) if name == "data.pkl" else content

    return change


@pytest.mark.parametrize(
    "change, reason",
    [
        (swapped(b"ctorch\nFloatStorage\n", b"cos\nsystem\n"), "it asks for os.system"),
        (swapped(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cbuiltins\neval\n"), "it asks for builtins.eval"),
        (swapped(b"ccollections\nOrderedDict\n", b"ctorch\nload\n"), "it asks for torch.load"),
        (lambda name, content: content + b"xx" if name == "data/0" else content, "has 6 bytes for 1 numbers"),
        (lambda name, content: None if name == "data/0" else content, "data/0"),
        (lambda name, content: None if name == "data.pkl" else content, "it has 0 files data.pkl"),
        (lambda name, content: b"big" if name == "byteorder" else content, "its numbers are big-endian"),
        (lambda name, content: content[:-9] if name == "data.pkl" else content, "."),
        (lambda name, content: b"\x80\x02}." if name == "data.pkl" else content, "it holds no module"),
    ],
)
def test_archives_that_hold_anything_else_are_refused(change, reason, tmp_path):
    script(Small(), tmp_path / "a.pt")
    rewritten(tmp_path / "a.pt", tmp_path / "b.pt", change)
    with pytest.raises(ValueError, match=f"the archive is damaged or is no archive of weights: .*{reason}"):
        read_script_archive(tmp_path / "b.pt")


def test_archives_that_would_grow_are_refused(tmp_path):
    script(Small(), tmp_path / "a.pt")
    packed = rewritten(tmp_path / "a.pt", tmp_path / "b.pt", lambda name, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="its entry 'byteorder' is compressed"):
        read_script_archive(packed)


def test_tensors_cannot_reach_beyond_their_storage(tmp_path):
    script(Small(), tmp_path / "a.pt")
    old, new = b"K\x03K\x02t(K\x01K\x03t", b"K\x03K\x03t(K\x01K\x03t"  # [3, 2] of six numbers becomes [3, 3]
    rewritten(tmp_path / "a.pt", tmp_path / "b.pt", swapped(old, new))
    with pytest.raises(ValueError, match="out of bounds"):
        read_script_archive(tmp_path / "b.pt")


def test_one_flipped_bit_in_the_weights_is_seen(tmp_path):
    script(Small(), tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        at = whole.index(archive.read("a/data/0"))
    (tmp_path / "a.pt").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
    with pytest.raises(ValueError, match="Bad CRC-32"):
        read_script_archive(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "it is a web page"),
        (b"\xef\xbb\xbf\n<HTML>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "it is a pointer of Git LFS"),
        (b"", "it is an empty file"),
        (b"PK\x05\x06" + bytes(18), "it is damaged or holds objects|.*header"),
        (np.random.default_rng(0).bytes(5000), "it is damaged or holds objects|.*header"),
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_files_that_are_no_weights_are_named(content, reason, name, tiny, tmp_path):
    (tmp_path / name).write_bytes(content)
    with says(rf"{name} does not hold weights of tiny \({reason}.*\); name the architecture that the file belongs to"):
        load_clip(tiny, tmp_path / name)


def test_no_sentence_tells_how_to_read_what_is_not_to_be_trusted(tiny, tmp_path):
    from clipnotes.methods.encoder_tuning import imagenet_resnet50

    path = tmp_path / "a.pt"
    for read in (lambda path: load_clip(tiny, path), imagenet_resnet50):
        torch.save({"state_dict": nn.Linear(2, 2)}, path)
        with pytest.raises(ClipnotesError, match="it is damaged or holds objects") as caught:
            read(path)
        for word in ("weights_only", "trust", "option", "pickle"):
            assert word not in str(caught.value), caught.value
        path.write_bytes(b"<!DOCTYPE html><html>")
        with pytest.raises(ClipnotesError, match="it is a web page"):
            read(path)


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b"])
def test_paths_that_no_system_takes_are_no_files(path, tiny):
    with says("is neither a file nor a tag of tiny"):
        load_clip(tiny, path)


# --- other shapes, names and wrappers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state(tiny):
    return load_clip(tiny, "random").model.state_dict()


def prefixed(*prefixes):
    return lambda state: {"".join(prefixes) + name: tensor for name, tensor in state.items()}


def under(*keys):
    def wrap(state):
        for key in reversed(keys):
            state = {"epoch": 3, key: state, "args": {"lr": 1e-5}}
        return state

    return wrap


@pytest.mark.filterwarnings("ignore:.*does not say whether its weights need GELU")
@pytest.mark.parametrize("change", [
    prefixed("module."), prefixed("_orig_mod."), prefixed("model."), prefixed("model.", "_orig_mod."),
    prefixed("module.", "_orig_mod.", "model."), under("model"), under("state_dict"), under("model_state_dict"),
    under("state_dict", "model"), lambda state: under("model")(prefixed("_orig_mod.")(state)),
    lambda state: {name.replace("visual.", "visual._orig_mod."): tensor for name, tensor in state.items()},
    lambda state: state | {"logit_scale": state["logit_scale"].reshape(1)},
])  # fmt: skip
def test_what_training_code_wraps_around_weights_is_taken_off(change, tiny, state, tmp_path):
    torch.save(change(state), tmp_path / "w.pt")
    assert load_clip(tiny, tmp_path / "w.pt").fingerprint == load_clip(tiny, "random").fingerprint


@pytest.mark.parametrize("change, reason", [
    (lambda state: {name: tensor for name, tensor in state.items() if name != "visual.proj"},
     r"it lacks 1 of \d+ weights, such as visual.proj"),
    (lambda state: state | {"head.weight": torch.zeros(2)}, "it has 1 weights that tiny has not, such as head.weight"),
    (lambda state: {"vision_model.embeddings.class_embedding": torch.zeros(2), "logit_scale": torch.zeros([])},
     "its weights have Hugging Face's names, such as vision_model.embeddings.class_embedding, not open_clip's"),
    (prefixed("clip."), r"it lacks \d+ of \d+ weights, such as positional_embedding, and has others, such as clip.posi"),
    (lambda state: {"step": 7, "config": {}}, "it holds no weights by name, but step, config"),
    (lambda state: [torch.zeros(2)], "it holds no weights by name, but list"),
    (lambda state: {"model": state, "args": SimpleNamespace(lr=1e-5)},
     "it is damaged or holds objects besides tensors, namely types.SimpleNamespace; save its state_dict alone"),
])  # fmt: skip
def test_what_is_wrong_with_a_file_of_weights_is_said(change, reason, tiny, state, tmp_path):
    torch.save(change(state), tmp_path / "w.pt")
    with says(rf"^{tmp_path}/w.pt does not hold weights of tiny \({reason}.*\); name the architecture"):
        load_clip(tiny, tmp_path / "w.pt")


@pytest.mark.parametrize("name, reason", [
    ("higher", r"its visual.positional_embedding has shape \[17, 64\], but that of tiny has \[5, 64\]"),
    ("longer", r"its positional_embedding has shape \[32, 16\], but that of tiny has \[77, 16\]"),
])  # fmt: skip
def test_positions_are_never_stretched(name, reason, tiny, tmp_path):
    torch.save(load_clip(name, "random").model.state_dict(), tmp_path / "w.pt")
    with says(reason):
        load_clip(tiny, tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore:.*does not say whether its weights need GELU")
def test_weights_and_their_scale_are_finite(tiny, state, tmp_path):
    for change, message in (
        ({"logit_scale": torch.tensor(100.0)}, "logit_scale = 100, which makes a scale of inf; it is the logarithm of a scale"),
        ({"logit_scale": torch.tensor(float("nan"))}, "hold NaN or infinite values, 1 of them, such as logit_scale; get the"),
        ({"visual.proj": state["visual.proj"].log()}, "hold NaN or infinite values, 1 of them, such as visual.proj"),
    ):
        torch.save(state | change, tmp_path / "w.pt")
        with says(f"^Weights of tiny (have )?{message}"):
            load_clip(tiny, tmp_path / "w.pt")
    torch.save(state | {"logit_scale": torch.tensor(100.0).log()}, tmp_path / "w.pt")
    assert load_clip(tiny, tmp_path / "w.pt").logit_scale == pytest.approx(100)


def test_a_file_that_does_not_name_its_activation_is_doubted(tiny, state, monkeypatch, tmp_path, recwarn):
    quick = {"url": "u", "quick_gelu": True}
    tags = {"openai": quick, "laion2b_e16": {"url": "u"}, "meta_400m": quick}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)
    known = {load_clip(name, "random").fingerprint for name in (tiny, "tiny-quickgelu")}
    for name, activation in (("laion2B-e16.pt", nn.GELU), ("openai.pt", QuickGELU), ("b32-meta-400m.pt", QuickGELU)):
        torch.save(state, tmp_path / name)
        clip = load_clip(tiny, tmp_path / name)
        assert type(clip.model.visual.transformer.resblocks[0].mlp.gelu) is activation and clip.fingerprint in known
    torch.save(state, tmp_path / "best.pt")
    load_clip("tiny-quickgelu", tmp_path / "best.pt")
    assert not [each for each in recwarn if "GELU" in str(each.message)]
    with pytest.warns(UserWarning, match="best.pt does not say whether its weights need GELU, which is taken, or QuickGELU.*"
                                         "for QuickGELU load 'tiny-quickgelu'"):
        load_clip(tiny, tmp_path / "best.pt")


@pytest.mark.parametrize("name, instead", [
    ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "load 'ViT-B-32' with pretrained='laion2b_s34b_b79k', which are the same"),
    ("hf-hub:me/mine", "load the architecture that its open_clip_config.json describes"),
    ("local-dir:/models/mine", "load the architecture that its open_clip_config.json describes"),
])  # fmt: skip
def test_places_of_models_are_no_names(name, instead):
    with says(f"^Model '{name}' is a place, not an architecture; {instead}"):
        load_clip(name)


@pytest.mark.parametrize("content, reason", [(b"<html>Sign in", "it is a web page"), (b"", "it is an empty file"),
                                             (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS")])
def test_pocket_weights_that_are_none(content, reason, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(content)
    with says(rf"w.safetensors does not hold weights of pocket-vit \({reason}"):
        load_clip("pocket-vit", tmp_path / "w.safetensors")

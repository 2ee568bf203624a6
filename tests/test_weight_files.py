"""Weights files: tensors come out of them, and nothing that they bring is run."""

import zipfile

import numpy as np
import pytest
import torch
from test_clip import TINY, says
from torch import nn

from clipnotes.backbone import load_clip
from clipnotes.backbone.weight_files import is_script_archive, read_script_archive
from clipnotes.errors import ClipnotesError

pytestmark = [pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")]


@pytest.fixture(scope="module")
def tiny(register_models):
    register_models({"tiny": TINY})
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

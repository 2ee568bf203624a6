"""Files with a checksum of what they hold: nothing damaged or foreign is taken for whole."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from clipnotes.checked_files import Damaged, read_state, read_tensors, write_state, write_tensors

TENSORS = {"a.b": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3), "none": torch.empty(0, 4),
           "half": torch.ones(3).half()}
FACTS = {"format": "toy 1", "name": "größer"}
STATE = {"identity": {"lr": 0.1}, "losses": [1.0, 2.0],
         "head": {"weight": torch.ones(2)}, "optimizer": {"state": {0: {"step": 1}}}}
WRITERS = {"tensors": (lambda path: write_tensors(path, TENSORS, FACTS), read_tensors),
           "state": (lambda path: write_state(path, STATE), read_state)}


@pytest.fixture(params=WRITERS)
def kept(request, tmp_path):
    """(path of a whole file, the function that reads it)."""
    write, read = WRITERS[request.param]
    write(tmp_path / "file")
    return tmp_path / "file", read


def test_what_was_written_comes_back(tmp_path):
    write_tensors(tmp_path / "deep" / "file", TENSORS, FACTS)
    tensors, facts = read_tensors(tmp_path / "deep" / "file")
    assert facts == FACTS and set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)
    write_state(tmp_path / "file", STATE)
    state = read_state(tmp_path / "file")
    assert torch.equal(state.pop("head")["weight"], torch.ones(2))
    assert state == {key: value for key, value in STATE.items() if key != "head"}


def test_no_flipped_bit_goes_unseen(kept):
    path, read = kept
    whole = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, 8 * len(whole), 200).tolist():
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        with pytest.raises(Damaged):
            read(path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda b: b[:-1], "."),
        (lambda b: b[:20], "."),
        (lambda b: b + b"x", "."),
        (lambda b: b"", "is an empty file"),
        (lambda b: b"<html>", "is a web page"),
        (lambda b: b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (lambda b: pickle.dumps([1]), "is a Python pickle"),
        (lambda b: b"\xff" * 64, "."),
        (lambda b: bytes(64), "."),
    ],
)
def test_cut_and_foreign_files_are_refused(kept, damage, message):
    path, read = kept
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Damaged, match=message):
        read(path)


def test_files_without_a_checksum_are_refused(tmp_path):
    save_file(TENSORS, tmp_path / "a", metadata=FACTS)
    with pytest.raises(Damaged, match="has no checksum"):
        read_tensors(tmp_path / "a")
    (tmp_path / "a").write_bytes(save(TENSORS))
    with pytest.raises(Damaged, match="has no checksum"):
        read_tensors(tmp_path / "a")
    torch.save(STATE, tmp_path / "b")
    with pytest.raises(Damaged, match="is a zip archive"):
        read_state(tmp_path / "b")


def test_facts_and_names_count_too(tmp_path):
    """A file put together anew from true parts: another fact, or tensors under each other's names."""
    write_tensors(tmp_path / "a", {"x": torch.zeros(2), "y": torch.ones(2)}, FACTS)
    content = (tmp_path / "a").read_bytes()
    checksum = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])["__metadata__"]["checksum"]
    for tensors, facts in (({"x": torch.zeros(2), "y": torch.ones(2)}, FACTS | {"name": "kleiner"}),
                           ({"y": torch.zeros(2), "x": torch.ones(2)}, FACTS), ({"x": torch.zeros(2)}, FACTS)):
        save_file(tensors, tmp_path / "a", metadata=facts | {"checksum": checksum})
        with pytest.raises(Damaged, match="was changed since it was written"):
            read_tensors(tmp_path / "a")


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_a_state_with_a_true_checksum_still_runs_nothing(tmp_path, capsys):
    write_state(tmp_path / "a", {"identity": Harmful()})
    with pytest.raises(Damaged, match="holds other things than the state of a training"):
        read_state(tmp_path / "a")
    assert not capsys.readouterr().out


def test_folders_and_missing_files_are_the_systems_to_refuse(tmp_path):
    for read in (read_tensors, read_state):
        with pytest.raises(OSError):
            read(tmp_path)
        with pytest.raises(OSError):
            read(tmp_path / "gone")

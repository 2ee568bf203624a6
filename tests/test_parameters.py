"""Parameters: read from the tagged cell, strict before anything runs."""

import ast
import sys
from types import SimpleNamespace

import papermill
import pytest
from conftest import ROOT, write_notebook

from clipnotes.errors import ClipnotesError
from clipnotes.series.parameters import check, parse, read_parameters

LINES = """\
dataset: str = "pocket-glyphs"  # the images [dataset]
loss: str = "ce"  # loss function [ce | gce]
shots: list[int] = [
    1, 16]  # images a class [1..64]
rate: float = 0.5  # noise [0..1]
seed: int = 1  # random seed [0..]
shift: float = 0.0  # offset, any number
flip: bool = False  # mirror images
features: str = ""  # a bank [file]
sweeps: list[str] = []  # folders or tables [path or empty]"""


@pytest.fixture
def parameters(tmp_path, monkeypatch):
    data = SimpleNamespace(list_datasets=lambda: ["digits", "pocket-glyphs"])
    monkeypatch.setitem(sys.modules, "clipnotes.data", data)
    return read_parameters(write_notebook(tmp_path / "01_x.ipynb", parameters=LINES))


def test_a_tilde_is_the_home_folder(parameters, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bank.npz").touch()
    assert parse(parameters, {"features": "~/bank.npz", "sweeps": "[~/bank.npz]"}) == {
        "features": str(tmp_path / "bank.npz"), "sweeps": [str(tmp_path / "bank.npz")]}
    with pytest.raises(ClipnotesError, match="Parameter features is '~/gone.npz'; allowed: the path of an existing file"):
        parse(parameters, {"features": "~/gone.npz"})


@pytest.mark.parametrize("text, value", [("010", 10), ("1:30", None), ("0x1F", 31), ("1_000", 1000)])
def test_a_number_is_what_is_written(text, value, parameters):
    if value is not None:
        assert parse(parameters, {"seed": text}) == {"seed": value}
        return
    with pytest.raises(ClipnotesError, match=f"^Parameter seed is '{text}' .str., but must be int"):
        parse(parameters, {"seed": text})


def test_lines_are_read_with_type_default_help_and_domain(parameters):
    assert [p.name for p in parameters] == [line.split(":")[0] for line in LINES.splitlines() if ":" in line]
    shots = parameters[2]
    assert (shots.type, shots.default, shots.help, shots.domain) == (
        "list[int]",
        [1, 16],
        "images a class",
        "1..64",
    )
    assert parameters[5].domain == ""


def test_good_values_pass_and_ints_become_floats(parameters, tmp_path):
    file = tmp_path / "bank.npz"
    file.touch()
    values = {"dataset": "digits", "shots": [2], "rate": 1, "flip": True, "features": str(file)}
    values["sweeps"] = [str(file), str(tmp_path)]
    checked = check(parameters, values)
    assert checked == values and type(checked["rate"]) is float


@pytest.mark.parametrize(
    "values, message",
    [
        ({"shot": 1}, "Unknown parameter 'shot'; did you mean 'shots'?"),
        ({"xyzzy": 1}, "Unknown parameter 'xyzzy': the notebook has dataset, loss"),
        ({"seed": "one"}, r"seed is 'one' \(str\), but must be int, for example 1"),
        ({"seed": True}, r"seed is True \(bool\), but must be int"),
        ({"flip": 1}, r"flip is 1 \(int\), but must be bool"),
        ({"seed": 1.0}, r"seed is 1.0 \(float\), but must be int"),
        ({"shots": 4}, r"shots is 4 \(int\), but must be list\[int\], for example \[1, 16\]"),
        ({"shots": [4, "x"]}, r"shots is \[4, 'x'\]"),
        ({"shots": [4, 65]}, r"shots is \[4, 65\] with the element 65; allowed: values from 1 up to 64"),
        ({"seed": -1}, "seed is -1; allowed: values from 0"),
        ({"rate": 1.5}, "rate is 1.5; allowed: values from 0 up to 1"),
        ({"shift": float("nan")}, "shift is nan; allowed: finite numbers"),
        ({"loss": "mse"}, "loss is 'mse'; allowed: ce, gce"),
        ({"dataset": "cats"}, "dataset is 'cats'; allowed: the data sets digits, pocket-glyphs"),
        ({"features": "no.npz"}, "features is 'no.npz'; allowed: the path of an existing file, or"),
        ({"sweeps": ["no"]}, "with the element 'no'; allowed: the path of an existing file or folder, or"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(parameters, values, message):
    with pytest.raises(ClipnotesError, match=message) as caught:
        check(parameters, values)
    assert "\n" not in str(caught.value)


def test_command_line_texts(parameters):
    texts = {"shots": "[1, 2]", "rate": "1e-3", "flip": "true", "loss": "gce"}
    assert parse(parameters, texts) == {"shots": [1, 2], "rate": 0.001, "flip": True, "loss": "gce"}
    with pytest.raises(ClipnotesError, match="loss is '1'"):
        parse(parameters, {"loss": "1"})  # a text parameter stays text
    with pytest.raises(ClipnotesError, match=r"shots is '\[1', which is not a valid list"):
        parse(parameters, {"shots": "[1"})
    with pytest.raises(ClipnotesError, match="seed is None"):
        parse(parameters, {"seed": ""})


@pytest.mark.parametrize(
    "line, message",
    [
        ('name: str = "a"  # with a = b', "cannot be read"),
        ("plain = 1  # no type", "cannot be read"),
        ("silent: int = 1", "cannot be read"),
        ("many: list[int] = [1,  # first\n    2]  # second", "cannot be read"),
        ("maybe: int | None = None  # trap", "allowed: int, float"),
        ("derived: dict[str, int] = {}  # not ours", "allowed: int, float"),
        ("size: int = 0  # outside [1..4]", "size is 0"),
        ("size: int = 2 * 3  # computed", r"size of 01_x.ipynb is 2 \* 3, but must be a literal"),
        ("size: int = 0  # unknown [colour]", r"declares the domain \[colour\]"),
    ],
)
def test_lines_that_papermill_would_drop_are_the_author_s_error(tmp_path, line, message):
    with pytest.raises(ClipnotesError, match=message):
        read_parameters(write_notebook(tmp_path / "01_x.ipynb", parameters=line))


NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks yet")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_sees_every_parameter_of_the_series(path):
    read = read_parameters(path)
    seen = papermill.inspect_notebook(str(path))
    assert list(seen) == [parameter.name for parameter in read] and "out" in seen
    assert all(entry["help"] and entry["inferred_type_name"] != "None" for entry in seen.values())
    assert [ast.literal_eval(entry["default"]) for entry in seen.values()] == [parameter.default for parameter in read]

"""Odd input of every kind at the command line: one sentence that names it, before any work, and nothing left behind."""

import json
import os
from pathlib import Path

import pytest

from clipnotes.cli.main import main


def cli(capsys, *arguments):
    """(exit code, stdout, stderr) of `clipnotes ARGUMENTS`."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return caught.value.code, output.out, output.err


def refused(capsys, *arguments, code=2):
    """The one line that a command says instead of working."""
    before = sorted(Path.cwd().rglob("*"))
    found, _, err = cli(capsys, *arguments)
    assert found == code, err
    assert sorted(Path.cwd().rglob("*")) == before, "something was left behind"
    assert "Traceback" not in err and len(err) < 1500
    return err.strip().splitlines()[-1]


@pytest.mark.parametrize("arguments, message", [
    (["-p", "seeds=[]"], "Parameter seeds is [], but needs at least one value, for example [1, 2]."),
    (["-p", "seeds=[1, 1, 1]"], "Parameter seeds is [1, 1, 1], but has 1 more than once: keep one of them."),
    (["-p", "seeds=[true]"], "Parameter seeds is [True] (list), but must be list[int]"),
    (["-p", "seeds=[1.0]"], "Parameter seeds is [1.0] (list), but must be list[int]"),
    (["-p", "seeds=[1000000000000]"], "with the element 1000000000000; allowed: whole numbers up to 2147483647."),
    (["-p", "seeds={range: [1, 1000000000000, 1]}"], "(dict), but must be list[int]"),
    (["-p", "seeds=" + "[" * 5000], "which is not a valid list[int]"),
    (["-p", "rate=.nan"], "Parameter rate is nan; allowed: finite numbers."),
    (["-p", "rate=.inf"], "Parameter rate is inf; allowed: finite numbers."),
    (["-p", "rate=1" + "0" * 400], "Parameter rate is 1000"),
    (["-p", "rate=true"], "Parameter rate is True (bool), but must be float"),
    (["-p", "rate=1", "-p", "rate=0.5"], "Option -p gives rate twice, as '1' and '0.5': keep one."),
    (["-p", "loss=c\ne"], r"Parameter loss is 'c\ne'; allowed: one line of text in UTF-8."),
    (["-p", "loss=" + "x" * 10**5], "xxx ... xxx"),
    (["-p", "features=" + "x" * 5000], "allowed: the path of an existing file"),
    (["--out", ""], "--out is empty: give the path of a folder, or leave the option out."),
    (["--out", "file/below"], "below cannot be written, since"),
    (["--out", "x" * 5000], "File name too long"),
    (["--out", "a/" + "x" * 300], "has 300 bytes, more than the 255"),
    (["--out", "\udcff"], "cannot be written: it is no text in UTF-8."),
    (["--out", "loop/x"], "Too many levels of symbolic links"),
    (["--out", "dangling/x"], "leads nowhere: choose another place."),
    (["-f", "binary.yaml"], "Parameter file binary.yaml in binary.yaml is a binary file: give a text file"),
    (["-f", "latin.yaml"], "is no UTF-8 text, since byte 7 is 0xe4"),
    (["-f", "twice.yaml"], "is no valid YAML: line 2, the key 'shots' stands twice, keep one of them."),
    (["-f", "."], "There is no parameter file '.'"),
])
def test_a_run_is_refused(toy_notebook, capsys, monkeypatch, arguments, message):
    Path("file").touch()
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("nowhere")
    Path("binary.yaml").write_bytes(bytes(9))
    Path("latin.yaml").write_bytes("loss: ä".encode("latin-1"))
    Path("twice.yaml").write_text("shots: 1\nshots: 2\n")
    assert message in refused(capsys, "run", "01", *arguments)


@pytest.mark.parametrize("arguments, message", [
    (["run", ""], "There is no notebook ''"),
    (["study", "--only", ","], "Option --only is ',', which names no notebook"),
    (["study", "--only", ""], "Option --only is '', which names no notebook"),
    (["study", "--only", "01,1"], "01_toy is to run twice: name each notebook once."),
    (["study", "--only", "01", "--only", "02"], "Option --only is given 2 times, and one would count: keep"),
    (["run", "01", "--out", "a", "--resume", "--resume", "--out=b"], "Option --out is given 2 times"),
    (["data", "fetch", "dtd", "--data-root", "a", "--data-root", "b"], "Option --data-root is given 2 times"),
    (["study", "--out", ""], "--out is empty"),
    (["sweep", "01", "--grid", "g", "--out", ""], "--out is empty"),
    (["features", "--dataset", "digits", "--out", "x.npz", "--views", "1000000000000"], "not in the range 1<=x<=64"),
    (["features", "--dataset", "digits", "--out", "file/x.npz"], "is a file and no folder"),
    (["pocket", "show", "--card", "file/card.md"], "is a file and no folder"),
    (["pocket", "show", "--card", ""], "--card is empty: give the path of a file"),
    (["gather", "nowhere"], "There is no folder nowhere"),
    (["table", "bad.csv", "--like", "ptnl:fig1"], "bad.csv"),
])
def test_a_command_is_refused(toy_notebook, capsys, arguments, message):
    Path("file").touch()
    Path("bad.csv").write_bytes(b"\xff\xfe\x00")
    assert message in refused(capsys, *arguments)


@pytest.mark.parametrize("text, message", [
    ("1: {shots: 2}", "Preset pocket has the entry 1, which YAML reads as a number: write it in quotes"),
    ("'1': {shots: 2}\n01_toy: {shots: 3}", "Preset pocket sets 01_toy twice, as '1' and '01_toy'; keep one."),
    ("'01': 5", "Preset pocket has under '01' the value 5, but must have lines `name: value`."),
    ("'*': [1]", "Preset pocket has under '*' the value [1], but"),
    ("'*': {1: 2}", "Preset pocket sets 1 under '*', but no notebook has it."),
    ("'01': {seeds: []}", "Preset pocket, notebook 01_toy: Parameter seeds is []"),
    ("[1]", "Parameter file pocket.yaml holds a list"),
    ("'01': {shots: 1}\n'01': {shots: 2}", "the key '01' stands twice"),
    ("a: &a [b]\n" + "\n".join(f"k{i}: [*a, *a]" for i in range(3)), "There is no notebook 'a'"),
])
def test_a_preset_is_refused(toy_notebook, capsys, text, message):
    (toy_notebook.parent / "presets/pocket.yaml").write_text(text)
    assert message in refused(capsys, "study")


@pytest.mark.parametrize("text, message", [
    ("axes: {shots: {range: [1, 1000000000000, 1]}}", "which has 999,999,999,999 steps; allowed: up to 100,000."),
    ("axes: {rate: {range: [0, 1, 1.0e-12]}}", "steps; allowed: up to 100,000."),
    ("axes: {rate: {range: [0, .inf, 1]}}", "three numbers whose step leads from start to stop"),
    ("axes: {rate: {range: [0, .nan, 1]}}", "three numbers whose step leads from start to stop"),
    ("axes: {rate: {range: [0, 1, 1" + "0" * 400 + "]}}", "three numbers whose step leads from start to stop"),
    ("axes:\n  shots: {range: [1, 16, 1]}\n  rate: {range: [0, 1, 0.001]}\n  seeds: {range: [1, 1000, 1]}",
     "The axes of the grid make 16,016,000 combinations (shots 16 x rate 1001 x seeds 1000); allowed: up to 100,000."),
    ("axes: {5: [1]}", "Unknown parameter 5"),
    ("axes: {shots: [1]}\nwhere: " + "(" * 3000 + "1" + ")" * 3000, "cannot be read: write, for example, loss == 'ce'."),
    ("axes: {shots: [1]}\nwhere: " + "not " * 9000 + "shots", "cannot be read: write, for example, loss == 'ce'."),
    ("axes: {seeds: [[]]}", "Parameter seeds is [], but needs at least one value"),
    ("runs: [{seeds: [2, 2]}]", "has 2 more than once"),
])
def test_a_grid_is_refused_at_once(toy_notebook, capsys, text, message):
    Path("grid.yaml").write_text(text)
    assert message in refused(capsys, "sweep", "01", "--grid", "grid.yaml", "--out", "out", "--dry-run")


@pytest.mark.parametrize("content, message", [
    (b"", "is no valid JSON (line 1: Expecting value)"),
    (b"\xff\xfe", "is text in UTF-16"),
    (b"[" * 10**5, "is no valid JSON (it is nested too deep)"),
    (b"[]", "has not the form of a notebook"),
    (b'{"cells": [{"cell_type": "code"}], "metadata": {}}', "has not the form of a notebook"),
    (b'{"cells": 3, "metadata": {}}', "has not the form of a notebook"),
    (b'{"cells": [], "metadata": {}}', "has 0 cells tagged 'parameters', but needs one."),
])
def test_a_notebook_of_another_making(toy_notebook, capsys, content, message):
    toy_notebook.write_bytes(content)
    assert message in refused(capsys, "run", "01")


def test_parameters_that_are_no_python(toy_notebook, capsys):
    notebook = json.loads(toy_notebook.read_text())
    notebook["cells"][1]["source"] = "shots: int = (  # broken"
    toy_notebook.write_text(json.dumps(notebook))
    assert "The parameters of 01_toy.ipynb are no valid Python: " in refused(capsys, "run", "01")


@pytest.mark.parametrize("error, said", [
    (PermissionError(13, "Permission denied", "/somewhere/x"), "Error: /somewhere/x: Permission denied."),
    (OSError(28, "No space left on device"), "Error: No space left on device."),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "Error: A file or name is no UTF-8 text (byte 0xff at 0): save it"),
    (RecursionError(), "Error: What was read is nested too deep"),
    (MemoryError(), "Error: There is not enough memory for this"),
])
def test_what_the_system_refuses_is_one_sentence(toy_notebook, capsys, monkeypatch, error, said):
    def fail(*_):
        raise error

    monkeypatch.setattr("clipnotes.series.notebooks.find", fail)
    assert refused(capsys, "run", "01", code=1).startswith(said)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_place(toy_notebook, capsys):
    Path("locked").mkdir(mode=0o500)
    assert "is read-only for you" in refused(capsys, "run", "01", "--out", "locked/x")

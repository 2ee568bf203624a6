"""The command line: what it prints, refuses and returns."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from clipnotes.cli.main import main
from clipnotes.data.cache import cache_dir
from clipnotes.errors import ClipnotesError


def cli(capsys, *arguments):
    """Return (exit code, stdout, stderr) of `clipnotes ARGUMENTS`."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    output = capsys.readouterr()
    return caught.value.code, output.out, output.err


def test_list_shows_question_facts_and_parameters(toy_notebook, capsys):
    code, out, _ = cli(capsys, "list")
    assert code == 0
    assert "01  What does 01_toy show?" in out and "02  What does 02_more show?" in out
    assert "reproduces: nothing" in out and "minutes: 0.1" in out
    assert "rate: float = 0.1" in out and "learning rate [0..1]" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("run", "01", "-p", "shot=2"), "Error: Unknown parameter 'shot'; did you mean 'shots'?"),
        (("run", "01", "-p", "shots=many"), "Error: Parameter shots is 'many' (str), but must be int"),
        (("run", "01", "-p", "shots=99"), "Error: Parameter shots is 99; allowed: values from 1 up to 16."),
        (("run", "01", "-p", "shots"), "Error: Option -p is 'shots', but must be NAME=VALUE"),
        (("run", "01", "-p", "features=no.npz"), "Error: Parameter features is 'no.npz'"),
        (("run", "01", "-p", "out=x"), "Error: Parameter out is 'x', but is set by the option --out"),
        (("run", "09"), "Error: There is no notebook '09'"),
        (("run", "01", "-f", "no.yaml"), "Error: There is no parameter file 'no.yaml': give a YAML file of lines `name:"),
        (("study", "--preset", "huge"), "Error: There is no preset 'huge'"),
        (("study", "--only", "01,09"), "Error: There is no notebook '09'"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(toy_notebook, capsys, arguments, message):
    code, _, err = cli(capsys, *arguments)
    assert code == 2
    assert err.startswith(message) and err.count("\n") == 1
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("content, message", [
    ("shot: 2", "Error: Unknown parameter 'shot'; did you mean 'shots'?"),
    ("shots: many", "Error: Parameter shots is 'many' (str), but must be int"),
    ("[shots, 2]", "Error: Parameter file given.yaml holds a list, but must hold lines `name: value`."),
    ("shots: [", "Error: Parameter file given.yaml is no valid YAML: line 1, while parsing"),
])
def test_a_parameter_file_is_as_strict(toy_notebook, capsys, content, message):
    Path("given.yaml").write_text(content)
    code, _, err = cli(capsys, "run", "01", "-f", "given.yaml")
    assert code == 2 and err.startswith(message) and err.count("\n") == 1
    assert [path.name for path in Path.cwd().iterdir()] == ["given.yaml"]


def test_a_tilde_after_an_equals_sign_is_the_home_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    out = "--out=~/few/digits.npz"
    code, text, _ = cli(capsys, "features", "--dataset", "digits", "--shots", "1", "--data-root=~/sets", out)
    assert code == 0 and text.startswith(f"{tmp_path}/few/digits.npz: ") and (tmp_path / "few" / "digits.npz").is_file()
    code, _, err = cli(capsys, "data", "check", "dtd", "--data-root=~/sets")
    assert code == 1 and f"{tmp_path}/sets/" in err


def test_run_passes_parameters_and_reports_a_failure(toy_notebook, capsys):
    Path("bank.npz").touch()
    Path("01_toy.break").touch()
    Path("given.yaml").write_text("shots: 2\nseeds: [7, 8, 9]\n")  # an option goes before the file
    arguments = ("run", "01", "-f", "given.yaml", "-p", "seeds=[5]", "-p", "features=bank.npz", "--out", "out")
    code, _, err = cli(capsys, *arguments)
    assert code == 1
    assert "01_toy failed: KeyError: 'broken" in err and "The executed notebook: out/notebook.ipynb" in err
    parameters = json.loads(Path("out/run.json").read_text())["parameters"]
    assert (parameters["shots"], parameters["seeds"]) == (2, [5])
    assert parameters["features"] == str(Path("bank.npz").absolute())
    assert pd.read_csv("out/results.csv")["seed"].tolist() == [5]
    page = Path("out/notebook.html").read_text()
    assert "2 (default 4)" in page


def test_plain_papermill_works_as_well(toy_notebook):
    papermill = [sys.executable, "-m", "papermill"]
    shown = subprocess.run(
        [*papermill, "--help-notebook", toy_notebook], capture_output=True, text=True
    ).stdout
    assert "shots: int (default 4)" in shown and "images a class" in shown
    command = [
        *papermill,
        toy_notebook,
        "out.ipynb",
        "-k",
        "python3",
        "-p",
        "shots",
        "3",
        "--no-progress-bar",
    ]
    subprocess.run(command, check=True, capture_output=True)
    facts = json.loads(Path("runs/01_toy/run.json").read_text())
    assert facts["status"] == "complete" and facts["parameters"]["shots"] == 3


def test_data_commands(monkeypatch, capsys):
    manifest = SimpleNamespace(
        title="Digits",
        counts={"train": 10, "test": 5},
        n_classes=2,
        licence="MIT",
        status=lambda root: root,
    )
    sets = SimpleNamespace(list_datasets=lambda: ["digits"], load_manifest=lambda name: manifest)
    getting = SimpleNamespace(
        size_in_words=lambda manifest, root: "1,500 MB on disk",
        check_dataset=lambda name, root: [f"{root}/{name} is missing"] if root == "nowhere" else [],
    )
    monkeypatch.setitem(sys.modules, "clipnotes.data", sets)
    monkeypatch.setitem(sys.modules, "clipnotes.downloads", getting)
    monkeypatch.setenv("CLIPNOTES_DATA", "elsewhere")
    code, out, _ = cli(capsys, "data", "list")
    assert (
        code == 0
        and "digits" in out
        and "elsewhere" in out
        and "train 10, test 5" in out
        and "2 classes" in out
        and "(MIT); 1,500 MB on disk" in out
    )
    assert cli(capsys, "data", "check", "digits")[:2] == (0, "digits is whole.\n")
    code, _, err = cli(capsys, "data", "check", "digits", "--data-root", "nowhere")
    assert (code, err) == (1, "nowhere/digits is missing\n")


def test_pocket_pretrain_passes_its_settings_on(monkeypatch, capsys):
    calls = []
    from clipnotes.pocket import pretrain

    monkeypatch.setattr(pretrain, "pretrain", lambda *args, **settings: calls.append((args, settings)) or "w.safetensors")
    code, output = cli(capsys, "pocket", "pretrain", "pocket-rn", "--steps", "3", "--fresh")[:2]
    assert code == 0 and "Weights: w.safetensors" in output
    assert calls == [
        (("pocket-rn", "runs/pocket-rn"), {"steps": 3, "seed": 0, "device": "auto", "resume": False, "objective": "captions",
                                      "foreign": 0.5, "workers": 0})
    ]
    assert cli(capsys, "pocket", "pretrain", "pocket-vit", "--objective", "labels")[0] == 0
    assert calls[1][0] == ("pocket-vit", "runs/pocket-vit-classifier") and calls[1][1]["objective"] == "labels"
    assert cli(capsys, "pocket", "pretrain", "pocket-xl")[0] == 2


def test_pocket_show_prints_the_tables_and_writes_the_card(monkeypatch, capsys, tmp_path):
    from clipnotes.exhibits import model_card as card

    table = pd.DataFrame({"zero-shot": [41.5]}, index=pd.Index(["digits"], name="data set"))
    written = []
    monkeypatch.setattr(card, "transfer_tables", lambda: {"pocket-vit": table})
    monkeypatch.setattr(card, "write_card", lambda path, tables: written.append((path, list(tables))))
    code, output = cli(capsys, "pocket", "show", "--card", str(tmp_path / "README.md"))[:2]
    assert code == 0 and "pocket-vit" in output and "41.5" in output
    assert written == [(str(tmp_path / "README.md"), ["pocket-vit"])]


# --- a home folder ------------------------------------------------------------------------------------------------


def without_home(monkeypatch, home, **kept):
    for name in ("HOME", "CLIPNOTES_CACHE", "XDG_CACHE_HOME", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, "set, so that it comes back")
        monkeypatch.delenv(name)
    for name, value in ({"HOME": str(home)} | kept).items():
        monkeypatch.setenv(name, value)


def test_a_user_without_a_home_folder_gets_one_for_the_command(toy_notebook, capsys, monkeypatch):
    """As in containers, where the user is a number."""
    without_home(monkeypatch, "/gone")
    code, _, err = cli(capsys, "list")
    assert code == 0 and err == ("You have no home folder, so features are not kept: set CLIPNOTES_CACHE to a folder that you "
                                 "may write.\n")
    assert Path(os.environ["HOME"]).stat().st_mode & 0o777 == 0o700 and cache_dir().is_relative_to(os.environ["HOME"])


def test_a_cache_without_a_home_folder(toy_notebook, capsys, monkeypatch):
    without_home(monkeypatch, "/gone", CLIPNOTES_CACHE="kept")
    assert cli(capsys, "list")[::2] == (0, "") and cache_dir() == Path("kept")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_folder_that_is_read_only_is_read(toy_notebook, tmp_path, capsys, monkeypatch):
    (tmp_path / "home").mkdir(mode=0o500)
    without_home(monkeypatch, tmp_path / "home")
    assert cli(capsys, "list")[::2] == (0, "")
    assert os.environ["HOME"] == str(tmp_path / "home") and Path(os.environ["JUPYTER_RUNTIME_DIR"]).is_dir()


def test_a_cache_is_asked_for_where_python_knows_no_home(monkeypatch):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    without_home(monkeypatch, "", CLIPNOTES_CACHE="kept")
    monkeypatch.setattr(Path, "home", fail)
    assert cache_dir() == Path("kept")
    monkeypatch.delenv("CLIPNOTES_CACHE")
    with pytest.raises(ClipnotesError, match="^There is no home folder that could hold the feature cache: set CLIPNOTES_CACHE"):
        cache_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    assert cache_dir() == Path("caches/clipnotes")

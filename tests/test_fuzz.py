"""Generated input of every kind that a user writes or another program leaves: one sentence or the right result, no traceback.

Six kinds, EXAMPLES of each; hypothesis prints the smallest input that fails, and `--hypothesis-seed=N` repeats a run.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clipnotes.cli.main import main
from clipnotes.data import load_manifest
from clipnotes.errors import ClipnotesError
from clipnotes.paths import manifests_dir
from clipnotes.running import execute
from clipnotes.running.contents import write_contents
from clipnotes.running.study import read_preset
from clipnotes.series.notebooks import find, series
from clipnotes.series.run_folder import COLUMNS

EXAMPLES = 60
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

NAMES = ["shots", "rate", "loss", "seeds", "flip", "features"]
TEXT = st.text(max_size=8)
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.integers(0, 20), st.floats(), TEXT,
                   st.sampled_from(["ce", "gce", "01", "../x", "$\\frac{", "!!python/name:os.system", "*a", "1e-3"]))
VALUE = st.recursive(SCALAR, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=3)),
                     max_leaves=8)
BYTES = st.one_of(st.binary(max_size=40), TEXT.map(lambda text: text.encode("utf-16")), st.just(b"a: &a [*a]"),
                  st.just(b"{" * 3000), st.just(b"a: 1\na: 2"))


def mapping(keys, values=VALUE, **kinds):
    """Dicts whose keys are mostly those that belong there, with values of the right kind now and then."""
    right = st.fixed_dictionaries({}, optional=kinds) if kinds else st.just({})
    wrong = st.dictionaries(st.one_of(st.sampled_from(keys), TEXT), values, max_size=4)
    return st.builds(lambda first, second: second | first, right, wrong)


def content(values, dump=yaml.safe_dump):
    """A file's bytes: mostly well-formed, sometimes anything."""
    return st.one_of(values.map(lambda value: dump(value).encode("utf-8", "surrogatepass")), BYTES)


def says(capsys, *arguments):
    """(exit code, what is printed) of a command; whatever it refuses is one line that begins with Error."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    code, err = caught.value.code, output.err
    assert code in (0, 1, 2) and "Traceback" not in err
    if code:
        assert err.startswith(("Error: ", "Usage: ")) and 10 < len(err) < 3000
        assert err.startswith("Usage") or err.count("\n") == 1
    return code, output.out


def whole(function, *arguments):
    """The result of a call, None where it is refused in one sentence."""
    try:
        return function(*arguments)
    except ClipnotesError as error:
        assert 10 < len(str(error)) < 3000 and "\n" not in str(error)
        return None


def fits(name, value):
    """What the toy notebook declares, said again."""
    number = type(value) is int
    return {"shots": lambda: number and 1 <= value <= 16, "rate": lambda: type(value) is float and 0 <= value <= 1,
            "loss": lambda: value in ("ce", "gce"), "flip": lambda: type(value) is bool,
            "features": lambda: value == "", "out": lambda: True,
            "seeds": lambda: type(value) is list and 0 < len(value) == len(set(value))
            and all(type(seed) is int and 0 <= seed < 2**31 for seed in value)}[name]()


@fuzz
@given(st.lists(st.tuples(st.one_of(st.sampled_from(NAMES), TEXT), st.one_of(TEXT, VALUE.map(str), st.integers(1, 16).map(str),
                                                                            VALUE.map(json.dumps))), max_size=3))
@example([("seeds", "[1, 1]")])
def test_parameters(toy_notebook, capsys, monkeypatch, pairs):
    ran = []
    monkeypatch.setattr(execute, "run_notebook", lambda notebook, parameters, out: ran.append(parameters) or {
        "status": "complete", "seconds": 0})
    code, _ = says(capsys, "run", "01", *(part for name, text in pairs for part in ("-p", f"{name}={text}")))
    assert (code == 0) == bool(ran)
    if ran:
        assert set(ran[0]) == {name.partition("=")[0] for name, _ in pairs}
        assert all(fits(name, value) for name, value in ran[0].items())


AXES = st.dictionaries(st.sampled_from(NAMES), st.one_of(
    st.lists(st.integers(1, 16), min_size=1, max_size=4), st.lists(SCALAR, max_size=3),
    st.lists(st.one_of(st.integers(1, 9), st.floats()), min_size=3, max_size=3).map(lambda ends: {"range": ends})), max_size=3)
WHERE = st.one_of(TEXT, st.sampled_from(["shots > 3", "seeds == [1]", "loss", "shots.real", "(" * 300, "rate < 'x'"]))


@fuzz
@given(content(mapping(["fixed", "runs", "paper", "notebook", "title"], axes=AXES, where=WHERE,
                       runs=st.lists(mapping(NAMES, shots=st.integers(1, 16)), max_size=2))))
def test_grids(toy_notebook, capsys, written):
    Path("grid.yaml").write_bytes(written)
    code, out = says(capsys, "sweep", "01", "--grid", "grid.yaml", "--out", "out", "--dry-run")
    assert code or int(out.split("Runs: ")[1].split()[0]) >= 1
    assert not Path("out").exists()


@fuzz
@given(content(mapping(["*", "01", "02", "01_toy", "03"], own=mapping(NAMES)).map(
    lambda entries: {("01" if key == "own" else key): value for key, value in entries.items()})))
def test_presets(toy_notebook, written):
    (toy_notebook.parent / "presets/pocket.yaml").write_bytes(written)
    found = whole(read_preset, "pocket")
    if found is not None:
        assert set(found) == {notebook.name for notebook in series()}
        assert all(fits(name, value) for name, value in found["01_toy"].items() if name != "speed")


@pytest.fixture(scope="module")
def manifest():
    return yaml.safe_load((manifests_dir() / "digits.yaml").read_text(encoding="utf-8"))


@fuzz
@given(st.data())
def test_manifests(tmp_path, manifest, data):
    changed = manifest | data.draw(mapping([*manifest], counts=mapping(["train", "val", "test"])))
    for key in data.draw(st.lists(st.sampled_from([*manifest]), max_size=1)):
        changed.pop(key, None)
    path = tmp_path / "set.yaml"
    path.write_bytes(data.draw(content(st.just(changed))))
    found = whole(load_manifest, str(path))
    if found is not None:
        assert found.n_classes >= 1 and all(isinstance(template, str) for template in found.templates)


FACTS = mapping(["files", "figures", "takeaways", "versions", "code_hash", "error", "seconds", "started"],
                notebook=st.one_of(st.just("01_toy"), VALUE), status=st.one_of(st.sampled_from(["complete", "failed"]), VALUE),
                parameters=st.one_of(mapping(NAMES), VALUE))


@fuzz
@given(content(st.one_of(FACTS, VALUE), lambda value: json.dumps(value)))
def test_facts_of_runs(toy_notebook, capsys, written):
    folder = Path("study/01_toy")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_bytes(written)
    (folder / "results.csv").write_text(",".join(COLUMNS) + "\n")
    assert execute.completed(find("01"), {}, folder) is None, "nothing of this was ever run"
    write_contents("study", "pocket")
    assert "<script" not in Path("study/index.html").read_text()
    code, out = says(capsys, "gather", "study")
    assert code or Path("study/gathered.csv").is_file() and "numbers" in out
    shutil.rmtree("study")


CELL = st.one_of(TEXT.filter(lambda text: "\0" not in text), st.integers(0, 9).map(str), st.just("0.5"))


@fuzz
@given(st.one_of(BYTES, st.lists(st.lists(CELL, max_size=len(COLUMNS) + 1), max_size=3).map(
    lambda rows: "\n".join([",".join(COLUMNS), *(",".join(row) for row in rows)]).encode("utf-8", "replace"))))
def test_results(toy_notebook, capsys, written):
    folder = Path("study/01_toy")
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"notebook": "01_toy", "status": "complete", "parameters": {"shots": 4}, "seconds": 1.0}
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "results.csv").write_bytes(written)
    code, out = says(capsys, "gather", "study")
    assert code or Path("study/gathered.csv").is_file() and "numbers" in out
    shutil.rmtree("study")

"""Many runs become one tidy table: parameters beside numbers, repetitions once, what failed or is missing with its status."""

import importlib.machinery
import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from recorded import accuracy, plan_sweep, record_run

from clipnotes.cli.main import main
from clipnotes.errors import ClipnotesError
from clipnotes.exhibits import gather as lab_gather
from clipnotes.exhibits.compact import compact
from clipnotes.exhibits.gather import gather, read_gathered, shipped, write_gathered
from clipnotes.series.notebooks import find
from clipnotes.series.run_folder import read_facts, seal, write_facts


@pytest.fixture
def sweep(tmp_path):
    """A sweep of four planned runs: two complete, one failed in the middle, one not there yet (its hidden folder is no run)."""
    folder = tmp_path / "sweep"
    for name, seed, status in (("a", 1, "complete"), ("b", 2, "complete"), ("c", 3, "failed")):
        rows = [accuracy(0.5 + 0.125 * seed, seed=seed, true_rate=0.0),
                accuracy(0.25, seed=seed, noise_rate=0.5, true_rate=0.5)]
        record_run(folder / "runs" / name, rows, status=status, seeds=[seed], closely=["digits"], shots=16, recipe="pocket")
    record_run(folder / "runs" / ".d-x1", [accuracy(0.9)], status="running", seeds=[4])
    plan_sweep(folder, "07_noisy_labels", {name: {"seeds": [seed]} for name, seed in zip("bacd", (2, 1, 3, 4), strict=True)})
    return folder


def test_a_row_is_a_number_with_the_parameters_of_its_run(sweep):
    table = gather([sweep])
    numbers = table[table["metric"].notna()]
    assert numbers["run"].tolist() == ["b", "b", "a", "a"], "in the order of the sweep's plan"
    assert numbers["value"].tolist() == [0.75, 0.25, 0.625, 0.25]
    assert set(numbers["p_seeds"]) == {"[1]", "[2]"} and set(numbers["p_shots"]) == {16} and set(numbers["shots"]) == {16}
    assert set(numbers["status"]) == {"complete"} and set(numbers["seconds"]) == {2.5} and set(numbers["version"]) == {"0.1.0"}
    assert numbers["true_rate"].tolist() == [0.0, 0.5, 0.0, 0.5] and "p_out" not in table
    assert list(table.columns[:2]) == ["notebook", "dataset"]


def test_failed_and_missing_runs_have_one_row_with_all_parameters_and_no_number(sweep):
    table = gather([sweep])
    other = table[table["status"] != "complete"].set_index("run")
    assert other["status"].to_dict() == {"c": "failed", "d": "missing"}
    assert other["metric"].isna().all() and other["value"].isna().all()
    assert other.loc["c", "error"] == "KeyError: 'x'" and other.loc["d", "p_seeds"] == "[4]"
    assert other.loc["d", "p_recipe"] == "pocket", "the notebook's default"


def test_runs_recorded_twice_count_once(sweep, tmp_path):
    defaults = {p.name: p.default for p in find("07").parameters}  # a failed run may know only what it changes
    record_run(tmp_path / "again" / "c", [accuracy(0.875, seed=3)], **defaults | {"seeds": [3], "closely": ["digits"]})
    same = {"seeds": [1], "closely": ["digits"], "shots": 16, "recipe": "pocket"}
    record_run(tmp_path / "again" / "a", [accuracy(0.625)], **same)
    record_run(tmp_path / "again" / "e", [accuracy(0.5)], **same | {"recipe": "paper"})
    record_run(tmp_path / "again" / "f", [accuracy(0.5)], version="0.2.0", **same)
    table = gather([sweep, tmp_path / "again"])
    runs = table.drop_duplicates("run").set_index("run")["status"].to_dict()
    assert runs == {"sweep/a": "complete", "sweep/b": "complete", "sweep/d": "missing", "again/c": "complete",
                    "again/e": "complete", "again/f": "complete"}  # c: the failed record gives way to the complete one


@pytest.mark.parametrize("name", ["NA", "null", "nan", "None", "N/A", "007", "1e3", "True"])
def test_a_name_is_what_is_written(name, tmp_path):
    record_run(tmp_path / "runs" / name, [accuracy(0.5, dataset=name, q=float("nan"))], dataset=name, seeds=[1])
    table = gather([tmp_path / "runs"])
    write_gathered(table, tmp_path / "all.csv")
    for each in (table, read_gathered([tmp_path / "all.csv"])):
        row = each.loc[0]
        assert (row["dataset"], row["run"], row["p_dataset"], row["version"]) == (name, name, name, "0.1.0")
        assert row["value"] == 0.5 and pd.isna(row["q"]) and pd.isna(row["error"])


def test_a_single_run_and_a_study_are_gathered_as_well(sweep, tmp_path):
    assert gather([sweep / "runs" / "a"])["run"].unique().tolist() == ["a"]
    record_run(tmp_path / "study" / "00_start_here", [], notebook="00_start_here")
    record_run(tmp_path / "study" / "07_noisy_labels", [accuracy(0.5)])
    study = gather([tmp_path / "study"])
    assert study["run"].tolist() == ["00_start_here", "07_noisy_labels"] and study["value"].isna().tolist() == [True, False]


@pytest.mark.parametrize("key, values, other", [
    ("code_hash", ("a1", "b2"), "code of notebook 07_noisy_labels"),
    ("inputs", ({"/data/pets.npz": [10, 1]}, {"/data/pets.npz": [10, 2]}), r"files, \['/data/pets.npz'\]"),
    ("inputs", ({"/data/pets.npz": [10, 1]}, {}), r"files, \['/data/pets.npz'\]")])
def test_one_run_under_two_codes_of_its_notebook_or_of_two_files_of_a_name_is_refused(tmp_path, key, values, other):
    for name, value in zip(("old", "new"), values, strict=True):
        folder = record_run(tmp_path / name, [accuracy(0.5)], seeds=[1])
        write_facts(folder, read_facts(folder) | {key: value})
    assert gather([tmp_path / "old", tmp_path / "old"])["run"].nunique() == 1
    with pytest.raises(ClipnotesError, match=f"The runs .*old and .*new have the same parameters, but other {other}, so one"):
        gather([tmp_path / "old", tmp_path / "new"])


def test_folders_behind_links_are_gathered_once(tmp_path):
    record_run(tmp_path / "scratch" / "a", [accuracy(0.5)], seeds=[1])
    record_run(tmp_path / "runs" / "b", [accuracy(0.5, seed=2)], seeds=[2])
    (tmp_path / "runs" / "fig1").symlink_to(tmp_path / "scratch")
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    assert sorted(gather([tmp_path / "runs"])["seed"]) == [1, 2]


def test_the_file_holds_what_the_table_holds(sweep, tmp_path):
    table = gather([sweep])
    (file,) = write_gathered(table, sweep / "gathered.csv")
    pd.testing.assert_frame_equal(read_gathered([file]), table)
    pd.testing.assert_frame_equal(read_gathered([sweep]), table)
    record_run(tmp_path / "more", [accuracy(0.125, seed=9)], seeds=[9])
    assert len(read_gathered([file, tmp_path / "more"])) == len(table) + 1
    with pytest.raises(ClipnotesError, match="must end in .csv"):
        write_gathered(table, sweep / "gathered.txt")


def test_of_the_table_that_ships_a_notebook_takes_its_own_rows(sweep, tmp_path, monkeypatch):
    table = gather([sweep])
    (tmp_path / "series" / "sweeps").mkdir(parents=True)
    write_gathered(pd.concat([table, table.assign(notebook="99_other")]), tmp_path / "series" / "sweeps" / "pocket.csv")
    monkeypatch.setenv("CLIPNOTES_NOTEBOOKS", str(tmp_path / "series"))
    assert set(shipped("07_noisy_labels")["notebook"]) == {"07_noisy_labels"} and len(shipped("07_noisy_labels")) == len(table)
    assert shipped("02_none").empty


def test_parquet_lies_beside_it_where_pyarrow_is_installed(sweep, monkeypatch):
    written = []
    monkeypatch.setitem(sys.modules, "pyarrow", type(sys)("pyarrow"))
    sys.modules["pyarrow"].__spec__ = importlib.machinery.ModuleSpec("pyarrow", None)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda self, stream: written.append(len(self)) or stream.write(b"PAR1"))
    table = gather([sweep])
    assert [file.suffix for file in write_gathered(table, sweep / "gathered.csv")] == [".csv", ".parquet"]
    assert written == [len(table)] and (sweep / "gathered.parquet").read_bytes() == b"PAR1"


def test_a_compact_table_keeps_what_the_exhibits_need(sweep):
    table = gather([sweep])
    rows = table.assign(value=table["value"] / 3)
    other = rows[rows["run"] == "a"].assign(method="Linear Probe")
    small = compact(pd.concat([rows, other, other.assign(metric="claim"), other.assign(loss="mae")], ignore_index=True))
    assert small["metric"].value_counts().to_dict() == {"accuracy": 6}, "claims and other losses stand in no exhibit"
    assert "p_shots" not in small and "p_recipe" not in small and "true_rate" not in small and "version" not in small
    assert small.set_index("run").loc["d", "p_seeds"] == "[4]", "nothing else says what it would measure"
    assert small[small["run"] == "a"]["p_seeds"].isna().all(), "the column seed says it"
    assert small["value"].dropna().tolist() == [0.25, 0.083333, 0.20833, 0.083333, 0.20833, 0.083333]


def emptied(file):
    file.write_bytes(b"")


def cut_after_the_first_row(file):
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))


def cut_in_a_row(file):
    file.write_text(file.read_text()[:-9])


def changed(file):
    file.write_bytes(file.read_bytes()[:-2] + b"9\n")


@pytest.mark.parametrize("name, damage, message", [
    ("results.csv", emptied, r"results.csv has 0 bytes, not the \d+ that were written."),
    ("results.csv", cut_after_the_first_row, "results.csv has"),
    ("results.csv", cut_in_a_row, "results.csv has"),
    ("results.csv", changed, "results.csv was changed after it had been written."),
    ("results.csv", Path.unlink, "results.csv cannot be read: No such file or directory."),
    ("run.json", emptied, "run.json is no valid JSON"),
    ("run.json", lambda file: file.write_text("[]"), "run.json is damaged or of another making: its content must be object"),
    ("run.json", lambda file: file.write_text('{"notebook": "x", "status": "complete", "parameters": {}}'), "must contain"),
])
def test_a_damaged_run_is_listed_without_a_number(sweep, name, damage, message, capsys):
    damage(sweep / "runs" / "a" / name)
    with pytest.raises(SystemExit) as caught:
        main(["gather", str(sweep)])
    out, err = capsys.readouterr()
    assert caught.value.code == 0 and "1 complete" in out and "1 damaged" in out
    (line,) = err.splitlines()
    assert line.startswith("damaged: a: ") and re.search(message, line) and "run it again" in line
    table = read_gathered([sweep / "gathered.csv"])
    (row,) = table[table["run"] == "a"].to_dict("records")
    assert row["status"] == "damaged" and pd.isna(row["value"]) and row["p_seeds"] == "[1]" and re.search(message, row["error"])
    assert row["notebook"] == "07_noisy_labels", "from the sweep's plan where run.json tells nothing"


def test_a_damaged_run_gives_way_to_a_whole_one_and_two_unknown_ones_stay_two(sweep, tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        emptied(sweep / "runs" / name / "results.csv")
        record_run(tmp_path / "again" / name, [accuracy(0.5)], seeds=[seed], closely=["digits"], shots=16, recipe="pocket")
    assert "damaged" not in set(gather([sweep, tmp_path / "again"])["status"])
    for name in "ab":
        emptied(tmp_path / "again" / name / "run.json")
    assert gather([tmp_path / "again"])["status"].tolist() == ["damaged", "damaged"]


def test_what_no_run_of_ours_wrote_is_damaged_even_if_its_digests_fit(sweep):
    folder = sweep / "runs" / "a"
    (folder / "results.csv").write_text("notebook,dataset\n07,digits\n")
    write_facts(folder, read_facts(folder) | {"files": seal(folder, ["results.csv"])})
    table = gather([sweep])
    error = table[table["run"] == "a"]["error"].item()
    assert error == f"{folder / 'results.csv'} is no table of results: it has no column 'model'."


@pytest.mark.parametrize("content", ["[]", "null", "{", '{"notebook": "07", "runs": [{"id": "../x", "parameters": {}}]}',
                                     "[" * 5000 + "]" * 5000, '{"notebook": "07", "runs": [{"parameters": {}}]}'])
def test_a_plan_of_another_making_is_refused(sweep, content):
    (sweep / "sweep.json").write_text(content)
    with pytest.raises(ClipnotesError, match="sweep.json .*Delete it or add --force: the runs beside it are kept"):
        gather([sweep])


def test_folders_without_runs_and_foreign_tables_are_refused(tmp_path):
    with pytest.raises(ClipnotesError, match="There is no folder .*nowhere"):
        gather([tmp_path / "nowhere"])
    with pytest.raises(ClipnotesError, match="There are no runs in .*: give the folder that clipnotes run, study or sweep"):
        gather([tmp_path])
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ClipnotesError, match="x.csv has no column 'notebook': give a table that clipnotes gather wrote"):
        read_gathered([tmp_path / "x.csv"])


def test_the_command_says_what_it_found(sweep, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["gather", str(sweep), "--compact"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("2 complete, 1 failed, 1 missing; 4 numbers: ") and "gathered.csv" in out
    assert len(read_gathered([sweep / "gathered.csv"])) == 6
    with pytest.raises(SystemExit) as caught:
        main(["gather", str(sweep / "runs" / "nowhere")])
    assert caught.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_thousand_planned_runs_share_one_look_at_the_notebook(sweep):
    looked = []
    find = lab_gather.find
    plan_sweep(sweep, "07_noisy_labels", {f"{n:04}": {"seeds": [n]} for n in range(1000)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab_gather, "find", lambda name: looked.append(name) or find(name))
        table = gather([sweep], progress=False)
    assert (table["status"] == "missing").sum() >= 997 and len(looked) <= 2
    assert json.loads(table["p_seeds"].iloc[-1]) == [999]

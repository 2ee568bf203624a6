"""Exhibits of the papers from gathered runs: means and spreads by hand, unlike settings apart, gaps, formats."""

import shlex
from io import StringIO
from itertools import product

import numpy as np
import pandas as pd
import pytest
from recorded import accuracy, plan_sweep, record_run

from clipnotes.cli.main import main
from clipnotes.errors import ClipnotesError
from clipnotes.exhibits.compact import compact
from clipnotes.exhibits.gaps import gap_lines, gaps
from clipnotes.exhibits.gather import gather, read_gathered
from clipnotes.exhibits.layouts import LAYOUTS
from clipnotes.exhibits.papers import known_numbers
from clipnotes.exhibits.tables import cells, exhibit, markdown, paper_cells, written
from clipnotes.paths import notebooks_dir
from clipnotes.running.grids import SCALES, expand, read_grid
from clipnotes.series.notebooks import find
from clipnotes.series.parameters import parse

WHY = "08_why_prompts_resist"
METHODS = ("Classifier-R", "Classifier-C", "TEnc-FT", "Prompt Tuning")
RATES = (0.0, 0.5)


def value(dataset, method, rate, seed):
    """A made accuracy, another one for every cell and seed."""
    return 0.4 + 0.03125 * METHODS.index(method) - 0.25 * rate + 0.0078125 * seed**2 + (0.125 if dataset == "digits" else 0)


def numbers(dataset, seed):
    return [accuracy(value(dataset, method, rate, seed), dataset=dataset, method=method, noise_rate=rate, seed=seed)
            for method, rate in product(METHODS, RATES)]


def why(folder, dataset, seed, rows=None, **change):
    settings = {"datasets": [dataset], "noise_rates": list(RATES), "seeds": [seed], "recipe": "pocket", "model": "pocket-vit"}
    return record_run(folder, numbers(dataset, seed) if rows is None else rows, WHY, **settings | change)


@pytest.fixture
def sweep(tmp_path):
    """Two data sets, three seeds: one run failed, one is missing, one is there twice."""
    folder = tmp_path / "sweep"
    runs = {f"{dataset}-{seed}": (dataset, seed) for dataset in ("digits", "oxford_pets") for seed in (1, 2, 3)}
    plan_sweep(folder_of(folder), WHY, {name: {"datasets": [dataset], "noise_rates": list(RATES), "seeds": [seed]}
                                        for name, (dataset, seed) in runs.items()})
    for name, (dataset, seed) in runs.items():
        if name != "oxford_pets-3":
            why(folder / "runs" / name, dataset, seed, status="failed" if name == "digits-2" else "complete")
    why(folder / "runs" / "copy", "digits", 1)
    return folder


def folder_of(path):
    path.mkdir()
    return path


def test_mean_std_and_n_are_those_by_hand(sweep):
    found = cells(gather([sweep]), "ptnl:table1").set_index(["dataset", "method", "noise_rate"])
    by_hand = [100 * value("digits", "TEnc-FT", 0.5, seed) for seed in (1, 3)]
    cell = found.loc[("digits", "TEnc-FT", 0.5)]
    assert (cell["mean"], cell["std"], cell["n"]) == pytest.approx((np.mean(by_hand), np.std(by_hand, ddof=1), 2))
    assert len(found.loc[["digits", "oxford_pets"]]) == 16
    mean = found.loc[("mean of 2", "TEnc-FT", 0.5)]  # seed 1 alone is there on both sets
    both = [100 * value(dataset, "TEnc-FT", 0.5, 1) for dataset in ("digits", "oxford_pets")]
    assert (mean["mean"], mean["n"]) == pytest.approx((np.mean(both), 1)) and np.isnan(mean["std"])


def test_a_seed_measured_in_two_runs_counts_once(tmp_path):
    why(tmp_path / "a", "digits", 1)
    why(tmp_path / "b", "digits", 1, numbers("digits", 1) + numbers("digits", 2), seeds=[1, 2])
    found = cells(gather([tmp_path]), "ptnl:table1")
    assert set(found["n"]) == {2} and len(found) == 8


def test_the_table_has_the_exhibits_rows_and_the_papers_numbers_below(sweep):
    table = exhibit(gather([sweep]), "ptnl:table1")
    assert list(table) == ["dataset", "method", "loss", "model", "source", *(f"{rate} % wrong" for rate in (0, 12.5, 25, 50))]
    pets = table[table["dataset"] == "oxford_pets"]
    assert pets["method"].tolist() == [METHODS[0], *METHODS, METHODS[-1]], "two of the methods are known for this data set"
    ours, paper = pets[pets["method"] == "Classifier-R"].to_dict("records")
    assert (ours["source"], paper["source"], paper["model"]) == ("ours", "digitised", "RN50")
    assert paper["50 % wrong"] == "35.8" and ours["50 % wrong"] == "29.45 ± 1.66 (n 2)", ours
    assert ours["25 % wrong"] == "", "no run was to measure it"
    known = known_numbers("ptnl", "OxfordPets curve", method="CLIP Linear Probe", noise_rate="50")["value"].item()
    assert paper["50 % wrong"] == known


def test_unlike_settings_are_kept_apart(tmp_path):
    for folder, change in (("a", {}), ("b", {"recipe": "paper"}), ("c", {"version": "0.2.0"})):
        why(tmp_path / folder, "digits", 1, **change)
    table = exhibit(gather([tmp_path]), "ptnl:table1")
    ours = table[(table["source"] == "ours") & (table["method"] == "TEnc-FT")]
    assert ours[["recipe", "version"]].apply(tuple, axis=1).tolist() == [
        ("pocket", "0.1.0"), ("paper", "0.1.0"), ("pocket", "0.2.0")]
    assert set(ours["50 % wrong"].str[-5:]) == {"(n 1)"}


def test_gaps_name_the_runs_that_would_fill_them(sweep):
    table = gather([sweep])
    missing = gaps(table, "ptnl:table1").set_index(["dataset", "noise_rate", "method"]).sort_index()
    assert len(missing) == 16 and missing.loc[("digits", 0.5, "TEnc-FT"), "seeds"] == [2]
    assert missing.loc[("digits", 0.5, "TEnc-FT"), "runs"] == "digits-2 (failed)"
    assert missing.loc[("oxford_pets", 0.0, "TEnc-FT"), ["n", "runs"]].tolist() == [2, "oxford_pets-3 (missing)"]
    lines = gap_lines(table, "ptnl:table1", most=3)
    assert len(lines) == 4 and lines[-1] == "... and 13 more cells."
    assert lines[0] == ("Missing: dataset digits, method Classifier-C, loss ce, model pocket-vit, noise_rate 0.0, seeds 2; "
                        "runs digits-2 (failed)")
    pd.testing.assert_frame_equal(gaps(compact(table), "ptnl:table1"), gaps(table, "ptnl:table1"))


def test_compact_tables_of_unlike_settings_are_not_averaged(tmp_path):
    why(tmp_path / "long", "digits", 1, epochs=50)
    why(tmp_path / "brief", "digits", 1, [row | {"value": 0.125} for row in numbers("digits", 1)], epochs=1)
    both = pd.concat([compact(gather([tmp_path / name])) for name in ("long", "brief")], ignore_index=True)
    assert set(cells(both, "ptnl:table1")["p_epochs"]) == {1, 50}


def test_without_a_sweep_gaps_say_a_command_that_holds(tmp_path):
    why(tmp_path / "a", "digits", 1)
    why(tmp_path / "b", "digits", 2, [row for row in numbers("digits", 2) if row["noise_rate"] == 0], noise_rates=[0.0])
    missing = gaps(gather([tmp_path]), "ptnl:table1")
    assert len(missing) == 4 and set(missing["noise_rate"]) == {0.5} and not missing["runs"].any()
    words = shlex.split(missing["command"].iloc[0])
    assert words[:3] == ["clipnotes", "run", "08"]
    values = parse(find("08").parameters, dict(pair.split("=", 1) for pair in words[4::2]))
    assert values == {"datasets": ["digits"], "noise_rates": [0.5], "seeds": [2], "model": "pocket-vit", "context_lengths": []}


def test_a_table_without_a_row_of_the_exhibit_says_which_grid_would_fill_it(tmp_path):
    record_run(tmp_path / "a", [accuracy(0.5, method="Something")], WHY)
    for function in (cells, exhibit, gaps):
        with pytest.raises(ClipnotesError, match="no rows for ptnl:table1, which needs runs of 08_why_prompts_resist"):
            function(gather([tmp_path]), "ptnl:table1")


def test_a_whole_table_has_no_gaps(tmp_path):
    for dataset, seed in product(("digits", "oxford_pets"), (1, 2)):
        why(tmp_path / f"{dataset}{seed}", dataset, seed)
    assert gaps(gather([tmp_path]), "ptnl:table1").empty and gap_lines(gather([tmp_path]), "ptnl:table1") == []


def test_cache_models_by_shots_with_zero_shot_in_a_column_of_its_own(tmp_path):
    rows = [accuracy(0.5, method="zero-shot", loss=None, shots=0, seed=0, features="original")]
    rows += [accuracy(0.5 + 0.01 * k + 0.02 * seed, method="Tip-Adapter", loss=None, shots=k, seed=seed, features=features)
             for k, seed, features in product((1, 16), (1, 2, 3), ("original", "whitening"))]
    record_run(tmp_path / "a", rows, "04_cache_models", datasets=["digits"], shots=[1, 16], seeds=[1, 2, 3])
    table = exhibit(gather([tmp_path]), "imo:main")
    ours = table[table["source"] == "ours"].set_index(["method", "features"])
    assert ours.loc[("zero-shot", "original"), ["0-shot", "16-shot"]].tolist() == ["50.00 (n 1)", ""]
    assert ours.loc[("Tip-Adapter", "whitening"), ["0-shot", "1-shot", "4-shot"]].tolist() == ["", "55.00 ± 2.00 (n 3)", ""]
    assert table[(table["dataset"] == "mean of 11") & (table["method"] == "APE")]["16-shot"].tolist() == ["73.36"]
    assert gaps(gather([tmp_path]), "imo:main").empty


def test_noise_kinds_and_ensembles_head_columns(tmp_path):
    noise = (("uniform", 0.0), ("uniform", 0.5), ("confusion", 0.5))
    rows = [accuracy(0.25, method=method, noise_kind=kind, noise_rate=rate)
            for method in ("Linear Probe", "Prompt Tuning") for kind, rate in noise]
    record_run(tmp_path / "a", rows, "10_confusion", datasets=["digits"], seeds=[1])
    rows = [accuracy(0.5, method=method, loss=loss, noise_kind="pseudo-labels", seed=seed)
            for method, loss in (("zero-shot CLIP", None), ("UPL", "ce")) for seed in (None, 1)]
    record_run(tmp_path / "b", rows, "11_without_labels", datasets=["digits"], members=[1, 2])
    table = exhibit(gather([tmp_path]), "ptnl:table4")
    assert table["uniform"].tolist() == table["confusion"].tolist() == ["25.00 (n 1)"] * 2
    assert list(table["noise_rate"]) == [0.5] * 2
    fifth = exhibit(gather([tmp_path]), "ptnl:table5")
    assert fifth[fifth["source"] == "ours"]["zero-shot CLIP"].tolist() == ["50.00 (n 1)"]


def test_formats_read_back_as_the_table(sweep):
    table = exhibit(gather([sweep]), "ptnl:table1").astype(str)
    assert pd.read_csv(StringIO(written(table, "csv")), dtype=str, keep_default_na=False).equals(table)
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in written(table, "markdown").splitlines()]
    assert lines[0] == list(table) and set(lines[1]) == {"---"} and lines[2:] == table.to_numpy().tolist()
    body = written(table, "latex").split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = [[cell.strip() for cell in row.split("&")] for row in body.strip().removesuffix(r"\\").split("\\\\\n")]
    plain = [[cell.replace(r"$\pm$", "±").replace(r"\_", "_").replace(r"\%", "%") for cell in row] for row in rows]
    assert plain == table.to_numpy().tolist() and "%" not in body.replace(r"\%", "")
    odd = pd.DataFrame({"a_b $5": ["x|y\\z", "*_[<b>&\n$5 to $9"]})
    assert markdown(odd).splitlines() == [r"| a_b \$5 |", "| --- |", r"| x\|y\\z |", r"| \*\_\[\<b\>\& \$5 to \$9 |"]
    assert r"\textbackslash z" in written(odd, "latex") and r"\$5 to \$9" in written(odd, "latex")


@pytest.mark.parametrize("text", ["[1, 2", "[[1]]", "[" * 10**5, "[{}]"])
def test_a_broken_list_in_a_parameter_s_column(sweep, tmp_path, capsys, text):
    table = gather([sweep], progress=False)
    table["p_seeds"] = text
    table.to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(SystemExit) as caught:
        main(["table", str(tmp_path / "table.csv"), "--like", "ptnl:table1"])
    err = capsys.readouterr().err
    assert caught.value.code == 2 and "in the column p_seeds, which is no list of plain values" in err and len(err) < 500


def test_the_command_prints_the_table_and_what_is_missing(sweep, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["table", str(sweep), "--like", "ptnl:table1", "--format", "csv", "--out", str(sweep / "t.csv")])
    out, err = capsys.readouterr()
    assert caught.value.code == 0 and out.strip() == (sweep / "t.csv").read_text().strip()
    assert err.count("Missing: ") == 16
    for like, message in (("ptnl:table9", "There is no exhibit 'ptnl:table9'; known are: ptnl:fig1"),
                          ("ptnl:table3", "The table has no rows for ptnl:table3, which needs runs of 07_noisy_labels: try "
                                          "clipnotes sweep 07 --grid ptnl_table3 --out runs/ptnl_table3.")):
        with pytest.raises(SystemExit) as caught:
            main(["table", str(sweep), "--like", like])
        assert caught.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("like", LAYOUTS)
def test_layouts_fit_notebooks_grids_and_the_papers_numbers(like):
    what = LAYOUTS[like]
    declared = {f"p_{parameter.name}" for parameter in find(what.notebook).parameters}
    assert {name for column in what.drivers for name in what.parameters(column)} <= declared
    assert {f"p_{name}" for name in what.off} <= declared
    theirs = paper_cells(like)
    assert not what.paper or len(theirs) and not theirs.duplicated().any()


GRIDS = sorted(path.stem for path in (notebooks_dir() / "grids").glob("*.yaml"))


@pytest.mark.parametrize("scale, name", list(product(SCALES, GRIDS)))
def test_the_grids_of_the_exhibits_hold_for_their_notebooks(scale, name):
    """Each run of a grid is one data set; at paper scale it is one seed as well, unless it needs several."""
    if name == "pretraining" and scale == "paper":
        with pytest.raises(ClipnotesError, match="Grid pretraining.yaml has no part `paper`"):
            read_grid(name, scale)
        return
    grid = read_grid(name, scale)
    notebook = find(grid["notebook"])
    runs = expand(grid, notebook)
    assert {what.notebook for what in LAYOUTS.values() if what.grid == name} == {notebook.name} and grid["like"] in LAYOUTS
    defaults = {parameter.name: parameter.default for parameter in notebook.parameters}
    for run in (defaults | run for run in runs):
        assert len(run["datasets"] + run.get("closely", []) + run.get("four", [])) == 1
        assert scale == "pocket" or name in ("imo_overlap", "imo_shift") or len(run.get("seeds", [1])) == 1
    seeds = {seed for run in runs for seed in (defaults | run).get("seeds", [])}
    assert not name.startswith("ptnl") or name == "ptnl_table5" or seeds == {1, 2, 3, 4}


def test_the_table_that_ships_is_small_and_holds_every_exhibit():
    path = notebooks_dir() / "sweeps" / "pocket.csv"
    assert path.stat().st_size < 1_000_000
    table = read_gathered([path])
    assert set(table["status"]) == {"complete"} and not table.astype(str).apply(lambda c: c.str.contains("/")).any().any()
    for like in LAYOUTS:
        assert gaps(table, like).empty, like


def test_unknown_formats_are_refused():
    with pytest.raises(ClipnotesError, match="The format is 'html'; allowed are: markdown, csv, latex"):
        written(pd.DataFrame(), "html")

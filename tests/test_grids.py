"""Grid files: what they expand to, and what is refused before anything runs."""

from pathlib import Path

import pytest
import yaml

from clipnotes.errors import ClipnotesError
from clipnotes.running.grids import expand, read_grid
from clipnotes.series.notebooks import find


def runs(content, scale="pocket"):
    Path("grid.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return expand(read_grid("grid.yaml", scale), find("01"))


def test_axes_are_crossed_over_what_is_fixed_and_explicit_runs_follow(toy_notebook):
    grid = {"fixed": {"shots": 2}, "axes": {"loss": ["ce", "gce"], "seeds": [[1], [2, 3]]}, "runs": [{"rate": 1, "shots": 3}]}
    assert runs(grid) == [
        {"shots": 2, "loss": "ce", "seeds": [1]},
        {"shots": 2, "loss": "ce", "seeds": [2, 3]},
        {"shots": 2, "loss": "gce", "seeds": [1]},
        {"shots": 2, "loss": "gce", "seeds": [2, 3]},
        {"shots": 3, "rate": 1.0},
    ]


def test_a_run_that_is_named_twice_is_there_once(toy_notebook):
    assert runs({"axes": {"rate": [1, 0.5, 1.0]}, "runs": [{"rate": 0.5}]}) == [{"rate": 1.0}, {"rate": 0.5}]


@pytest.mark.parametrize(
    "name, numbers, values",
    [
        ("shots", [1, 4, 1], [1, 2, 3, 4]),
        ("shots", [1, 4, 2], [1, 3]),
        ("shots", [3, 1, -1], [3, 2, 1]),
        ("rate", [0.1, 0.3, 0.1], [0.1, 0.2, 0.3]),  # plain sums would give 0.30000000000000004 or stop before it
        ("rate", [0, 0.5, 0.125], [0.0, 0.125, 0.25, 0.375, 0.5]),
        ("seeds", [1, 3, 1], [[1], [2], [3]]),
    ],
)
def test_ranges_include_their_stop(toy_notebook, name, numbers, values):
    assert [run[name] for run in runs({"axes": {name: {"range": numbers}}})] == values


@pytest.mark.parametrize(
    "where, kept",
    [
        ("loss == 'ce' and rate < 0.5", [("ce", 0.1)]),
        ("not (loss == 'gce' and rate == 0.5)", [("ce", 0.1), ("ce", 0.5), ("gce", 0.1)]),
        ("rate in [0.5, -1] or loss not in ('ce',)", [("ce", 0.5), ("gce", 0.1), ("gce", 0.5)]),
        ("0 < rate <= 0.1 and shots == 4 and 2 in seeds and not flip", [("ce", 0.1), ("gce", 0.1)]),  # of defaults, too
    ],
)
def test_a_filter_keeps_combinations(toy_notebook, where, kept):
    grid = {"axes": {"loss": ["ce", "gce"], "rate": [0.1, 0.5]}, "where": where}
    assert [(run["loss"], run["rate"]) for run in runs(grid)] == kept
    assert runs(grid | {"runs": [{"rate": 1}]})[-1] == {"rate": 1.0}, "explicit runs are not filtered"


def test_the_paper_part_replaces_whole_keys_at_paper_scale_only(toy_notebook):
    grid = {"fixed": {"shots": 2, "flip": True}, "axes": {"seeds": [[1]]}, "paper": {"fixed": {"shots": 16}}}
    assert runs(grid) == [{"shots": 2, "flip": True, "seeds": [1]}]
    assert runs(grid, "paper") == [{"shots": 16, "seeds": [1]}]
    with pytest.raises(ClipnotesError, match="grid.yaml has no part `paper`"):
        runs({"axes": {"seeds": [[1]]}}, "paper")
    with pytest.raises(ClipnotesError, match="scale is 'huge'; allowed: pocket, paper"):
        runs(grid, "huge")


def test_files_become_absolute(toy_notebook):
    Path("bank.npz").touch()
    assert runs({"axes": {"features": ["", "bank.npz"]}}) == [{"features": ""}, {"features": str(Path("bank.npz").absolute())}]


def test_grids_of_the_series_are_known_by_name(toy_notebook):
    folder = toy_notebook.parent / "grids"
    folder.mkdir()
    (folder / "small.yaml").write_text("title: Small\nruns: [{shots: 1}]")
    assert read_grid("small") == {"title": "Small", "runs": [{"shots": 1}]}
    with pytest.raises(ClipnotesError, match="no grid 'large': give a YAML file, or one of .*grids: small"):
        read_grid("large")


@pytest.mark.parametrize(
    "text, message",
    [
        ("axes: [", "grid.yaml is no valid YAML: line 1, while parsing"),
        ("- 1", r"grid.yaml holds \[1\], but must hold the keys title, notebook"),
        ("axis: {shots: [1]}", "unknown key 'axis'; allowed: title"),
        ("axes: [1]", r"has axes: \[1\], but axes must be name: value pairs"),
        ("gpu_minutes: long\nruns: [{}]", "gpu_minutes must be a number"),
        ("title: nothing", "neither axes nor runs"),
        ("where: shots == 1\nruns: [{}]", "has where: 'shots == 1', but no axes to choose combinations of: add axes"),
        ("paper: {titel: x}\nruns: [{}]", None),
        ("axes: {shot: [1]}", "Unknown parameter 'shot'; did you mean 'shots'"),
        ("axes: {shots: [1, 99]}", "Parameter shots is 99; allowed: values from 1 up to 16"),
        ("axes: {seeds: [1, 2]}", r"Parameter seeds is 1 \(int\), but must be list\[int\]"),
        ("axes: {shots: 3}", "Axis shots of the grid is 3, but must be a list of values or {range"),
        ("axes: {shots: []}", r"Axis shots of the grid is \[\], but must be"),
        ("axes: {shots: {range: [1, 2]}}", r"must read {range: \[start, stop, step\]}"),
        ("axes: {shots: {range: [1, 2, 0]}}", "three numbers whose step leads from start to stop"),
        ("axes: {shots: {range: [2, 1, 1]}}", "three numbers whose step leads from start to stop"),
        ("axes: {shots: {from: 1}}", "must read {range"),
        ("fixed: {shots: 1}\naxes: {shots: [2]}", "Parameter shots is fixed and an axis"),
        ("fixed: {out: x}\nruns: [{}]", "Parameter out is 'x', but is set by the option --out"),
        ("runs: [3]", "Run 1 of the grid is 3, but must be name: value pairs"),
        ("axes: {shots: [1]}\nwhere: shots > 1", "keeps no combination"),
        ("axes: {shots: [1]}\nwhere: shots >", "filter 'shots >' of the grid cannot be read"),
        ("axes: {shots: [1]}\nwhere: shot > 1", "names 'shot'; the notebook has shots, rate"),
        ("axes: {shots: [1]}\nwhere: loss > 1", "compares what cannot be compared"),
    ],
)
def test_bad_grids_are_refused_in_one_sentence(toy_notebook, text, message):
    if message is None:
        assert runs(text) == [{}], "what is wrong in the part of another scale is no matter here"
        with pytest.raises(ClipnotesError, match="part paper, has the unknown key 'titel'"):
            runs(text, "paper")
        return
    with pytest.raises(ClipnotesError, match=message) as caught:
        runs(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", [
    "__import__('os').mkdir('made')", "loss.upper() == 'CE'", "[mkdir for mkdir in seeds]", "seeds[0] == 1",
    "shots ** 9 ** 9 > 1", "(lambda: 1)()", "f'{loss}' == 'ce'", "(shots := 2) > 1",
])
def test_a_filter_cannot_run_code(toy_notebook, where):
    with pytest.raises(ClipnotesError, match="allowed are comparisons"):
        runs({"axes": {"shots": [1]}, "where": where})
    assert not Path("made").exists()

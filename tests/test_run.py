"""A notebook run: what start, record, figure, compare and finish leave on disk and show."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PARAMETERS, write_notebook
from PIL import Image
from recorded import holding

from clipnotes import lab
from clipnotes.errors import ClipnotesError
from clipnotes.exhibits import papers
from clipnotes.running import execute
from clipnotes.running.execute import overrides, run_notebook, same_run
from clipnotes.series import run_folder
from clipnotes.series.notebooks import find
from clipnotes.series.run_folder import damage, read_facts

matplotlib.use("Agg")
VALUES = dict(shots=4, rate=0.1, loss="ce", seeds=[1, 2], flip=False, features="", out="")
ALT = "A line that rises with the seed."


@pytest.fixture
def run(toy_notebook):
    return lab.start("01_toy", dict(VALUES, out="results"))


def draw():
    figure, axes = matplotlib.pyplot.subplots()
    axes.plot([1, 2])
    return figure


def facts(run):
    return json.loads((run.out / "run.json").read_text())


def test_start_writes_what_a_repeat_needs_and_shows_the_parameters(toy_notebook, capsys):
    run = lab.start("01_toy", dict(VALUES, shots=8, unrelated="x"))
    assert run.out.as_posix() == "runs/01_toy"
    assert facts(run)["status"] == "running"
    assert facts(run)["parameters"] == VALUES | {"shots": 8}
    assert facts(run)["versions"]["torch"] and len(facts(run)["code_hash"]) == 64
    shown = capsys.readouterr().out
    assert "8 (default 4)" in shown and "images a class" in shown and "clipnotes 0" in shown
    assert str(toy_notebook.parent.parent) not in shown


def test_start_is_strict(toy_notebook):
    with pytest.raises(ClipnotesError, match="shots is 99; allowed: values from 1 up to 16"):
        lab.start("01_toy", VALUES | {"shots": 99})
    with pytest.raises(ClipnotesError, match="rate has no value: run the parameters cell first"):
        lab.start("01_toy", {"shots": 4})
    with pytest.raises(ClipnotesError, match="no notebook '07_gone'; .* 01_toy, 02_more"):
        lab.start("07_gone", VALUES)
    # values of the parameters cell alone may be wrong in another way: papermill -p flip true is a text
    with pytest.raises(ClipnotesError, match="flip is 'true'"):
        lab.start("01_toy", VALUES | {"flip": "true"})


def test_the_data_root_is_that_of_the_machine_unless_one_is_given(toy_notebook, tmp_path, monkeypatch):
    """However a run is started, and as `clipnotes data` has it."""
    write_notebook(toy_notebook, PARAMETERS + '\ndata_root: str = "data"  # folder of the data sets')
    namespace = VALUES | {"data_root": "data"}
    assert lab.start("01_toy", dict(namespace)).parameters["data_root"] == "data"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLIPNOTES_DATA", "~/sets")
    notebook, here = find("01"), str(tmp_path / "sets")
    run = lab.start("01_toy", namespace)
    assert namespace["data_root"] == run.parameters["data_root"] == here
    assert same_run(notebook, overrides(notebook, {}), facts(run))
    given = overrides(notebook, {"data_root": "data"})
    assert given == {"data_root": str(Path("data").absolute())}
    assert lab.start("01_toy", VALUES | given).parameters["data_root"] == given["data_root"]
    assert overrides(notebook, {"data_root": "~/other"}) == {"data_root": str(tmp_path / "other")}


def test_a_notebook_beside_the_reader_works_too(toy_notebook, tmp_path):
    toy_notebook.rename("mine.ipynb")
    assert lab.start("mine", VALUES).notebook.name == "mine"


def test_the_first_seed_seeds_everything(toy_notebook):
    drawn = []
    for seeds in ([3, 1], [3, 2], [4]):
        lab.start("01_toy", VALUES | {"seeds": seeds})
        drawn.append((torch.rand(1).item(), np.random.rand()))
    assert drawn[0] == drawn[1] != drawn[2]


def test_records_are_tidy(run):
    run.record(metric="accuracy", value=torch.tensor(0.5), method="Toy", seed=1)
    run.record(metric="overlap", value=np.float32(0.25), shots=1, bins=200)
    table = pd.read_csv(run.out / "results.csv")
    fixed = "notebook,dataset,model,method,loss,q,shots,noise_kind,noise_rate,seed,metric,value"
    assert list(table.columns) == [*fixed.split(","), "bins"]
    assert list(table["loss"]) == ["ce", "ce"], "from the parameter of that name"
    assert list(table["shots"]) == [4, 1], "a given key goes first"
    assert table["seed"].isna().tolist() == [False, True], "seeds is no seed"
    pd.testing.assert_frame_equal(run.records[["metric", "value"]], table[["metric", "value"]])
    with pytest.raises(ClipnotesError, match="value of accuracy is 'high'"):
        run.record(metric="accuracy", value="high")


def test_a_figure_is_three_files_and_its_description(run, capsys):
    figure, data = draw(), pd.DataFrame({"x": [0, 1], "y": [1.0, 2.0]})
    run.figure("fig1_line", figure, alt=ALT, data=data, caption="A caption.", table=True)
    folder = run.out / "figures"
    assert (folder / "fig1_line.png").read_bytes().startswith(b"\x89PNG")
    svg = (folder / "fig1_line.svg").read_text()
    assert "<svg" in svg
    pd.testing.assert_frame_equal(pd.read_csv(folder / "fig1_line.csv"), data)
    shown = capsys.readouterr().out
    assert ALT in shown and "A caption." in shown and "x" in shown
    assert not matplotlib.pyplot.fignum_exists(figure.number)
    assert facts(run)["figures"] == [{"id": "fig1_line", "alt": ALT, "caption": "A caption.", "exhibit": "", "key": False}]
    run.figure("again", draw(), alt=ALT, data=data)
    assert (folder / "again.svg").read_text() == svg, "the same figure gives the same bytes"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"id": "Fig 1"}, "id is 'Fig 1'; use lower-case"),
        ({"id": "taken"}, "'taken' is taken"),
        ({"alt": " "}, "alt text of figure fig is ' '"),
        ({"alt": "histogram"}, "say in a sentence"),
        ({"data": [1, 2]}, "data of figure fig is a list"),
    ],
)
def test_figure_mistakes(run, change, message):
    data = pd.DataFrame({"x": [1]})
    run.figure("taken", draw(), alt=ALT, data=data)
    settings = {"id": "fig", "alt": ALT, "data": data} | change
    with pytest.raises(ClipnotesError, match=message):
        run.figure(settings.pop("id"), draw(), **settings)
    matplotlib.pyplot.close("all")


def test_finish_marks_the_run_complete(run, capsys):
    run.record(metric="accuracy", value=1)
    run.finish()
    assert facts(run)["status"] == "complete" and facts(run)["seconds"] >= 0
    assert set(facts(run)["files"]) == {"results.csv"} and not damage(run.out)
    assert "Records: 1. Figures: 0. Results: results" in capsys.readouterr().out


def test_a_new_run_removes_the_old_one_s_files_and_no_others(run):
    run.figure("old", draw(), alt=ALT, data=pd.DataFrame({"x": [1]}))
    run.finish()
    (run.out / "figures" / "mine.png").touch()
    lab.start("01_toy", dict(VALUES, out="results"))
    assert [file.name for file in (run.out / "figures").iterdir()] == ["mine.png"]
    assert facts(run)["status"] == "running"


def test_a_user_s_results_are_not_overwritten(toy_notebook):
    Path("mine").mkdir()
    Path("mine/results.csv").write_text("years of work\n")
    with pytest.raises(ClipnotesError, match="^mine/results.csv is there already, and no run of clipnotes made it so: choose "):
        lab.start("01_toy", dict(VALUES, out="mine"))
    assert Path("mine/results.csv").read_text() == "years of work\n" and not Path("mine/run.json").exists()


def test_a_folder_that_takes_no_results_is_named(toy_notebook):
    Path("file").touch()
    with pytest.raises(ClipnotesError, match="^The folder 'file/below' cannot take results .*: choose another one."):
        lab.start("01_toy", dict(VALUES, out="file/below"))
    with pytest.raises(ClipnotesError, match="^The folder '/a+ ... a+' cannot take results .File name too long."):
        lab.start("01_toy", dict(VALUES, out="/" + 5000 * "a"))


def test_a_folder_belongs_to_one_kernel_at_a_time(toy_notebook, monkeypatch):
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    with holding("results"), pytest.raises(ClipnotesError, match="^results is in use by another run: wait until that is over"):
        lab.start("01_toy", dict(VALUES, out="results"))
    assert not Path("results/run.json").exists()
    run = lab.start("01_toy", dict(VALUES, out="results"))  # who held it is gone: killed
    lab.start("01_toy", dict(VALUES, out="results"))  # the first cell, run again
    refused = [sys.executable, "-c", "from clipnotes.series import run_folder as r; r.PATIENCE = 0; r.take('results')"]
    assert "results is in use by another run" in subprocess.run(refused, capture_output=True, text=True).stderr
    lab.start("01_toy", dict(VALUES, out="other")).finish()
    assert subprocess.run(refused).returncode == 0, "the kernel has gone on to another folder"
    assert run.out == Path("results")


def test_a_folder_of_the_same_name_elsewhere_is_another_folder(toy_notebook, monkeypatch):
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    lab.start("01_toy", dict(VALUES, out="results"))
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    with holding("results"), pytest.raises(ClipnotesError, match="^results is in use by another run"):
        lab.start("01_toy", dict(VALUES, out="results"))


def test_a_frame_of_records(run):
    frame = pd.DataFrame({"method": ["a", "b"], "seed": [1, 2], "accuracy": [0.5, 0.25], "memorised": [float("nan"), 0.75],
                          "loss": ["ce", None]})
    run.record_frame(frame, "accuracy", "memorised", dataset="digits")
    looped = lab.start("01_toy", dict(VALUES, out="loop"))
    for row in frame.to_dict("records"):
        for metric in ("accuracy", "memorised"):
            if row[metric] == row[metric]:
                looped.record(metric=metric, value=row[metric], dataset="digits",
                              **{key: row[key] for key in ("method", "seed", "loss")})
    assert (run.out / "results.csv").read_bytes() == (looped.out / "results.csv").read_bytes()
    assert run.records["metric"].tolist() == ["accuracy", "accuracy", "memorised"]
    with pytest.raises(ClipnotesError, match="The metrics are 'recall', but must be columns of the frame, which has method, "):
        run.record_frame(frame, "recall")
    with pytest.raises(ClipnotesError, match="The metrics are none, but must be"):
        run.record_frame(frame)
    with pytest.raises(ClipnotesError, match="The key 'seed' is a column of the frame and an argument"):
        run.record_frame(frame, "accuracy", seed=1)


IN_A_KERNEL = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell('''from clipnotes import lab
values = dict(shots=4, rate=0.1, loss="ce", seeds=[1, 2], flip=False, features="", out="results")
run = lab.start("01_toy", values)''', cell_id="first")
shell.run_cell('for s in (1, 2): run.record(metric="accuracy", value=s)', cell_id="second")
shell.run_cell('for s in (3, 4): run.record(metric="accuracy", value=s)', cell_id="second")
shell.run_cell('run.record(metric="loss", value=9); 1 / 0', cell_id="third")
"""


AFTER_THE_END = IN_A_KERNEL.replace("; 1 / 0", "") + """
shell.run_cell('run.finish()', cell_id="last")
shell.run_cell('for s in (5, 6): run.record(metric="accuracy", value=s)', cell_id="second")
print("-----")
shell.run_cell('lab.start("01_toy", values | dict(shots=99))')
"""


def test_a_cell_may_run_again_after_the_last_one_and_a_mistake_is_one_sentence(toy_notebook):
    shown = subprocess.run([sys.executable, "-c", AFTER_THE_END], capture_output=True, text=True, check=True).stdout
    assert pd.read_csv("results/results.csv")["value"].tolist() == [9, 5, 6]
    assert read_facts("results")["status"] == "complete" and not damage("results")
    assert shown.split("-----\n")[1].splitlines() == ["ClipnotesError: Parameter shots is 99; allowed: values from 1 up to 16."]


def test_cells_flush_even_when_they_fail_and_replace_their_rows_when_run_again(toy_notebook):
    subprocess.run([sys.executable, "-c", IN_A_KERNEL], check=True, capture_output=True)
    assert pd.read_csv("results/results.csv")["value"].tolist() == [3, 4, 9]


def test_compare_sets_our_mean_beside_the_paper(run, capsys):
    for seed, value in ((1, 0.5), (2, 0.6)):
        keys = dict(dataset="dtd", method="PromptTuning", model="RN50", shots=16, noise_rate=0.5, seed=seed)
        run.record(metric="accuracy", value=value, **keys)
        run.record(metric="accuracy", value=0.1, **keys | {"loss": "gce"})
    frame = papers.compare("ptnl", run.records, "Table 3", dataset="DTD")
    row = frame[frame["noise_rate"] == "50"].squeeze()
    assert (row["reference"], row["what it is"]) == ("46.19", "quoted by LZHMS README files (DPL, POMA) and blog")
    assert "not certain" in row["note"]
    assert (row["ours"], row["our_model"]) == ("55.00 ± 7.07 (n 2)", "RN50")
    assert set(frame.loc[frame["noise_rate"] != "50", "ours"]) == {""}
    run.compare("ptnl", item="Table 3", dataset="dtd")
    shown = capsys.readouterr().out
    assert "46.19" in shown and "Table 3: reference numbers and ours." in shown


def test_compare_leaves_out_what_is_empty_and_says_what_every_row_is(run, capsys):
    run.compare("imo", item="exp.log", dataset="EuroSAT")  # without a single record
    shown = capsys.readouterr().out
    assert "log of Tip-Adapter exp.log" in shown and "ours" not in shown
    for paper in ("imo", "ptnl", "measured"):
        numbers = papers.paper_numbers(paper)
        assert set(numbers["status"]) <= set(papers.WHAT_IT_IS) and numbers["source"].all()


def test_compare_needs_no_loss_in_the_records():
    record = dict(metric="overlap_area", dataset="dtd", method="CLIP image features", model="ViT-B-32", value=0.579)
    missing = dict(loss=float("nan"), shots=float("nan"), noise_rate=None)
    frame = papers.compare("measured", pd.DataFrame([record | missing]), "overlap area", dataset="DTD")
    assert frame["ours"].tolist() == ["0.58 (n 1)"]


def test_compare_knows_what_there_is(run):
    with pytest.raises(ClipnotesError, match="no paper 'coop'; known are: imo, measured, ptnl"):
        run.compare("coop", item="Table 3")
    with pytest.raises(ClipnotesError, match="no item 'Table 33'; there are: .*Table 3"):
        run.compare("ptnl", item="Table 33")
    with pytest.raises(ClipnotesError, match="no dataset 'mnist'; there are: Caltech101, DTD"):
        run.compare("ptnl", item="Table 3", dataset="mnist")
    with pytest.raises(ClipnotesError, match="Unknown filter 'data'"):
        run.compare("ptnl", item="Table 3", data="dtd")


def test_the_papers_numbers_are_complete(shared):
    whole = pd.read_csv(shared / "reference" / "paper_numbers.csv", dtype=str, keep_default_na=False)
    parts = pd.concat([papers.paper_numbers("imo"), papers.paper_numbers("ptnl")])
    assert list(parts.columns) == list(whole.columns)
    assert sorted(map(tuple, parts.to_numpy())) == sorted(map(tuple, whole.to_numpy()))


def test_self_check_line(capsys):
    ours = torch.tensor([1.0, 2.0], requires_grad=True)
    assert lab.check("same", ours, [1, 2]) is True
    assert lab.check("near", 1.000001, 1.0) is True
    assert lab.check("far", 1.1, np.array(1.0)) is False
    assert lab.check("shape", [1, 2], [1]) is False
    assert lab.check("not a number", float("nan"), 1.0) is False
    lines = capsys.readouterr().out.splitlines()
    assert "exact: yes  close: yes  max difference: 0.0e+00" in lines[0]
    assert "exact: no   close: yes  max difference: 1.0e-06" in lines[1]
    assert "close: no   max difference: 1.0e-01" in lines[2]
    assert "shapes differ: (2,) and (1,)" in lines[3]


def test_the_style_is_readable_at_half_size_and_its_colours_on_white():
    lab.use_style()
    settings = matplotlib.rcParams
    sizes = ["font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"]
    assert settings["figure.figsize"][0] == 7 and min(settings[name] for name in sizes) >= 11
    for role, colour in lab.PALETTE.items():
        channels = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3, role


def test_start_says_what_untrained_weights_mean_and_which_splits_are_used(toy_notebook, capsys, tmp_path):
    extra = ('\npretrained: str = ""  # weights\ndatasets: list[str] = ["digits"]  # sets [dataset]\n'
             'data_root: str = "data"  # folder of the data sets')
    path = write_notebook(toy_notebook.with_name("03_real.ipynb"), PARAMETERS + extra)
    values = VALUES | {"pretrained": "", "datasets": ["digits"], "data_root": str(tmp_path)}
    lab.start(path.stem, values)
    shown = capsys.readouterr().out
    assert "at chance" not in shown and "Splits" not in shown
    (tmp_path / "dtd").mkdir()
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").touch()
    lab.start(path.stem, values | {"pretrained": "random", "datasets": ["digits", "dtd", "oxford_pets"]})
    shown = capsys.readouterr().out
    assert "Expect accuracies at chance" in shown
    assert "dtd the published split file split_zhou_DescribableTextures.json" in " ".join(shown.split())
    assert "oxford_pets equivalent split, seed 1" in " ".join(shown.split())


# --- machines that are not as at home -------------------------------------------------------------------------------


def test_a_run_heeds_no_foreign_kernel_backend_or_settings_and_no_sign_in_its_path(toy_notebook, tmp_path, monkeypatch):
    """papermill formats paths and takes a leading - for the terminal; Jupyter takes the kernels of JUPYTER_PATH first."""
    foreign = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text(json.dumps({"argv": ["false", "{connection_file}"], "display_name": "mine", "language": "python"}))
    Path("matplotlibrc").write_text("text.usetex: True\nfont.size: 30\nfigure.figsize: 20, 20\n")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    out = Path("-out{seeds}{")
    done = run_notebook(find("01"), {}, out, page=False, progress=False)
    assert done["status"] == "complete", done["error"]
    assert json.loads((out / "notebook.ipynb").read_text())["cells"][-1]["outputs"]
    with Image.open(out / "figures/fig1_toy.png") as drawn:
        assert drawn.size == (840, 504), "7 x 4.2 inches, as the study's style has it"


@pytest.mark.parametrize("set_by, kept", [("65536", None), ("1000000", "1000000")], ids=["Dask", "the user"])
def test_a_kernel_of_a_dask_worker_keeps_the_memory_that_it_frees(toy_notebook, monkeypatch, set_by, kept):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", set_by)
    write_notebook(toy_notebook, body=f"import os\nassert os.environ.get('MALLOC_TRIM_THRESHOLD_') == {kept!r}")
    done = run_notebook(find("01"), {}, "out", page=False, progress=False)
    assert done["status"] == "complete", done["error"]


def test_a_kernel_may_take_minutes_to_start_and_not_for_ever(toy_notebook, monkeypatch):
    given = {}
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **options: given.update(options))
    execute._execute(find("01"), {}, Path("out"))
    assert 300 <= given["start_timeout"] <= 3600


def test_a_backend_that_needs_a_screen_gives_way_to_pictures(monkeypatch):
    with matplotlib.rc_context():
        monkeypatch.setattr("matplotlib.pyplot.get_backend", lambda: "module://no_such_backend")
        lab.use_style()
        matplotlib.pyplot.close(draw())
    assert matplotlib.get_backend().lower() == "agg"


def test_nothing_of_a_personal_matplotlibrc_is_left():
    with matplotlib.rc_context({"text.usetex": True, "figure.figsize": (20, 20), "axes.facecolor": "black", "font.size": 30}):
        lab.use_style()
        assert not matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["figure.figsize"] == [7.0, 4.2]
        assert matplotlib.rcParams["axes.facecolor"] == "white" and matplotlib.rcParams["font.size"] == 12

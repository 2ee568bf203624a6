"""The notebooks run at the quick preset and leave results, figures and takeaways; the README's commands work."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from conftest import caltech_manifest

from clipnotes.analysis import overlap
from clipnotes.analysis.corrected import StoredSets
from clipnotes.data import FeatureBank
from clipnotes.exhibits.claims import CLAIMS, effects
from clipnotes.exhibits.gather import read_gathered
from clipnotes.methods import TipAdapter, ZeroShot
from clipnotes.paths import checkout_dir, notebooks_dir
from clipnotes.running.execute import run_notebook
from clipnotes.running.study import preset_names, read_preset
from clipnotes.series.exercises import is_starter, solutions, solved
from clipnotes.series.notebooks import Notebook, find, series
from clipnotes.series.parameters import read_values

ROOT = Path(__file__).parents[1]
PRESETS = preset_names()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fit_the_notebooks(preset):
    assert set(read_preset(preset)) == {notebook.name for notebook in series()}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks/presets").glob("*_[0-9][0-9].yaml")), ids=lambda path: path.stem)
def test_parameter_files_mean_the_same_to_papermill(path):
    values = read_values(path)
    assert papermill.iorw.read_yaml_file(str(path)) == values
    assert values.items() <= read_preset(path.stem[:-3])[find(path.stem[-2:]).name].items()


@pytest.mark.parametrize("name", [notebook.name for notebook in series()])
def test_notebook_runs_and_leaves_its_results(name, tmp_path):
    """With the solutions of its exercises in their places, each of which its check must find right."""
    content = json.loads(find(name).path.read_text(encoding="utf-8"))
    path = tmp_path / f"{name}.ipynb"
    path.write_text(json.dumps(solved(content)), encoding="utf-8")
    facts = run_notebook(Notebook(path), read_preset("quick")[name], tmp_path, leave_bar=False)
    assert facts["status"] == "complete", facts.get("error")
    assert facts["takeaways"]
    assert len(facts["figures"]) >= (2 if name in ("12_gather", "13_results") else 3)
    for figure in facts["figures"]:
        for kind in ("png", "svg", "csv"):
            assert (tmp_path / "figures" / f"{figure['id']}.{kind}").stat().st_size > 0
        assert f'alt="{figure["alt"][:20]}' in (tmp_path / "notebook.html").read_text(encoding="utf-8")
    results = pd.read_csv(tmp_path / "results.csv")
    assert len(results) and results["value"].notna().all()
    executed = nbformat.read(tmp_path / "notebook.ipynb", as_version=4)
    streams = [out for cell in executed.cells for out in cell.get("outputs", []) if out.output_type == "stream"]
    printed = "".join(out.text for out in streams)
    assert "close: no" not in printed  # every self-check of the notebook holds
    assert "Warning" not in printed
    said = [out.data["text/plain"] for cell in executed.cells if is_starter(cell) for out in cell.outputs if "data" in out]
    assert all(text.endswith(": right.") for text in said) and len(said) == len(solutions(content)), said


ONE_CELL = {
    "05": {"datasets": ["digits"], "source": "digits", "shifted": [], "shots": [1], "seeds": [1], "corrections": ["whitening"]},
    "07": {"closely": ["digits"], "four": [], "datasets": [], "noise_rates": [0.5], "seeds": [2], "finetuning_seeds": [],
           "shots": 4, "epochs": 1},
}


@pytest.mark.parametrize("number", ONE_CELL)
def test_one_cell_of_a_grid_runs_and_claims_no_interval(number, tmp_path):
    """One data set, one seed, one noise rate: numbers are recorded, takeaways say that they are single ones."""
    facts = run_notebook(find(number), ONE_CELL[number], tmp_path, leave_bar=False, page=False)
    assert facts["status"] == "complete", facts.get("error")
    results = pd.read_csv(tmp_path / "results.csv")
    assert (results["metric"] == "accuracy").sum() >= 4 and set(results["dataset"].dropna()) == {"digits"}
    takeaways = " ".join(facts["takeaways"])
    assert re.search(r"\b[01] of 1\b", takeaways) and not re.search(r"\bnan\b|± ", takeaways)


def test_neighbours_of_two_keys_without_names(tmp_path):
    """Notebook 04 on a feature file of two images whose classes have no names, where zero-shot is never wrong."""
    content = find("04").content
    source = next("".join(cell["source"]) for cell in content["cells"] if "def neighbours" in "".join(cell["source"]))
    x, y = torch.eye(2), torch.arange(2)
    np.savez(tmp_path / "bare.npz", train_x=x, train_y=y, test_x=x, test_y=y, text=x)
    names = {"bank": StoredSets(tmp_path, ["bare"]).bank("bare"), "features_dir": "given", "keys": x, "labels": y, "x": x,
             "y": y, "text": x, "tip": TipAdapter().fit(x, y, x), "seeds": [1], "torch": torch, "pd": pd, "ZeroShot": ZeroShot}
    exec(compile(source, "neighbours", "exec"), names)
    assert names["listing"].drop(columns="test image").to_dict("records") == [
        {"class": "0", "zero-shot says": "0", "Tip-Adapter says": "0", "nearest keys": "0, 1"}]


AREAS = {"oxford_pets": 0.44, "caltech101": 0.19, "dtd": 0.58, "stanford_cars": 0.30}  # known of public features of ViT-B/32


@pytest.mark.parametrize("name", AREAS)
def test_overlap_of_real_features(name, shared, tmp_path):
    """The areas that are known, and for one set what notebook 02 makes of its file, with the accuracy that is known of it."""
    file = shared / "data/clip_vitb32" / f"{name}.npz"
    if name == "dtd":
        facts = run_notebook(find("02"), {"features": str(file), "datasets": []}, tmp_path, page=False, leave_bar=False)
        assert facts["status"] == "complete", facts.get("error")
        results = pd.read_csv(tmp_path / "results.csv")
        measured = results[(results["metric"] == "overlap_area") & (results["method"] == "CLIP image features")]["value"].item()
        accuracy = results[(results["metric"] == "accuracy") & (results["method"] == "zero-shot")]["value"].item()
        assert accuracy == pytest.approx(0.447, abs=0.001)
    else:
        test = FeatureBank.load(file).test
        measured = overlap(test.unit(), test.y, draws=10).area
    assert measured == pytest.approx(AREAS[name], abs=0.01)


@pytest.fixture(scope="module")
def photographs(shared, tmp_path_factory):
    """(manifest file, data root) of nine real photographs of each of ten classes of Caltech-101, copied."""
    source, root = shared / "data" / "images", tmp_path_factory.mktemp("data")
    file, images = "caltech-101/split_zhou_Caltech101.json", "caltech-101/101_ObjectCategories"
    splits = json.loads((source / file).read_text())
    for name, n in (("train", 4), ("val", 2), ("test", 3)):
        of_class = [[row for row in splits[name] if row[1] == label] for label in range(10)]
        splits[name] = [row for rows in of_class for row in rows[:n]]
        for path, *_ in splits[name]:
            (root / images / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / images / path, root / images / path)
    (root / file).write_text(json.dumps(splits))
    return caltech_manifest(root, root), root


def run_here(number, values, out):
    """Run a notebook's code in this process, where all is imported already, but no explorer, which draws dozens of figures."""
    names = {}
    with plt.rc_context():
        for cell in nbformat.read(find(number).path, as_version=4).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, cell.id, "exec"), names)
            if "parameters" in cell.metadata.get("tags", []):
                names |= values | {"out": str(out)}
    plt.close("all")


LARGE = "ViT-S-32-alt"  # the least architecture of open_clip for pictures of 224 x 224 pixels
FEW = {"shots": [1, 2], "seeds": [1]}
TRAINED = {"epochs": 2, "class_seeds": [], "finetuning_seeds": [], "seeds": [1]}


@pytest.mark.parametrize("number, method, settings", [
    ("01", "zero-shot", {"shots": 2, "seeds": [1]}),
    ("02", "zero-shot", {}),
    ("04", "zero-shot", FEW | {"corrections": ["whitening"]}),
    ("06", "prompt tuning", TRAINED | {"shots": [1, 2]}),
    ("07", "prompt tuning", TRAINED | {"shots": 2, "noise_rates": [0.0, 0.5]}),
])
def test_real_photographs_and_an_untrained_network(number, method, settings, photographs, tmp_path, capsys, monkeypatch):
    """The whole way runs on photographs, accuracies are near chance, and what is shown says why."""
    name, root = str(photographs[0]), str(photographs[1])
    sets = {"dataset": name, "datasets": [name], "generic": [name], "closely": [name], "four": [name]}
    given = sets | {"model": LARGE, "models": [LARGE], "pretrained": "random", "data_root": root} | settings
    values = {key: given[key] for key in given.keys() & {parameter.name for parameter in find(number).parameters}}
    if number == "02":
        facts = run_notebook(find(number), values, tmp_path / number, leave_bar=False)
        assert facts["status"] == "complete", facts.get("error")
        shown = (tmp_path / number / "notebook.html").read_text(encoding="utf-8")
    else:
        monkeypatch.setattr("clipnotes.lab.run.explore", lambda *_: None)
        run_here(number, values, tmp_path / number)
        shown = capsys.readouterr().out
    assert "Expect accuracies at chance" in shown
    results = pd.read_csv(tmp_path / number / "results.csv")
    found = results[(results["metric"] == "accuracy") & (results["method"].str.lower() == method)]["value"]
    assert len(found) and found.between(0, 0.35).all()  # ten classes, thirty images


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebooks_are_executed_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "run `make notebooks`"
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    text = json.dumps([output for output in outputs])
    assert str(Path.home()) + "/" not in text and str(ROOT) not in text
    assert "close: no" not in text and "Warning: " not in text
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert pictures and all(output.metadata["image/png"]["alt"] for output in pictures)


UNBREAKABLE = re.compile(r"\s*(\||.*\]\()")  # Markdown wants a row of a table, or a link, on one line


@pytest.mark.parametrize("notebook", series(), ids=lambda notebook: notebook.name)
def test_a_cell_is_seen_whole(notebook):
    for cell in notebook.content["cells"]:
        lines = cell["source"].splitlines()
        assert cell["cell_type"] == "markdown" or len(lines) <= 25, lines[0]
        assert not [line for line in lines if len(line) > 128 and (cell["cell_type"] == "code" or not UNBREAKABLE.match(line))]


def readme_commands():
    """The commands of the bash blocks of README and guide, comments removed."""
    pages = [ROOT / "README.md", *sorted((ROOT / "notebooks" / "guide").glob("*.md"))]
    blocks = [block for page in pages for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.S)]
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


NEEDS_MORE = {  # commands that need a network, a data set, an hour, or run other tests of this suite
    "make study", "make test", "clipnotes book runs/quick", "clipnotes study --preset laptop", "clipnotes pocket show",
    "clipnotes run 02 -p features=oxford_pets.npz --out runs/pets",
    "clipnotes run 04 -p features_dir=features -p datasets=[dtd,stanford_cars] -p dataset=dtd -p generic=[imagenet,food101] "
    "-p corrections=[whitening]",
    "clipnotes run 07 -p features=[oxford_pets.npz] -p datasets=[digits] -p finetuning_seeds=[] --out runs/pets_noise",
    "clipnotes run 02 -p model=ViT-B-32 -p pretrained=openai -p dataset=oxford_pets -p datasets=[oxford_pets,dtd] "
    "-p data_root=data",
    "papermill notebooks/02_intra_modal_overlap.ipynb out.ipynb -p dataset pocket-textures",
    "clipnotes sweep 07 --grid ptnl_fig1 --out runs/fig1 --workers 2",
    "clipnotes sweep 07 --grid ptnl_fig1 --out runs/fig1 --resume",
    "clipnotes gather runs/fig1", "clipnotes table runs/fig1 --like ptnl:fig1",
    "clipnotes run 12 -p sweeps=[runs/fig1/gathered.csv] --out runs/figures",
}


@pytest.mark.parametrize("command", [line for line in readme_commands() if line not in NEEDS_MORE])
def test_readme_command_works(command, tmp_path):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    program, *arguments = shlex.split(command)
    done = subprocess.run([Path(sys.executable).with_name(program), *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_names_the_commands_left_out():
    assert set(readme_commands()) >= NEEDS_MORE


def test_plain_papermill_runs_from_anywhere(tmp_path):
    """Without our command line: papermill alone, from a foreign folder, with a parameter."""
    source = ROOT / "notebooks/02_intra_modal_overlap.ipynb"
    command = [Path(sys.executable).with_name("papermill"), source, "out.ipynb", "-k", "python3", "-p", "dataset",
               "pocket-textures", "-y", "{datasets: [], max_images: 300}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert pd.read_csv(tmp_path / "runs/02_intra_modal_overlap/results.csv")["dataset"].unique().tolist() == ["pocket-textures"]


def test_the_readme_lists_every_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for notebook in series():
        assert f"notebooks/{notebook.path.name}" in text and notebook.question in text
    assert checkout_dir() == ROOT


def test_minutes_are_those_of_the_notebooks_metadata():
    """One source, `clipnotes.minutes` in a notebook's metadata: its box and the README repeat it, notebook 00 reads it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for notebook in series():
        minutes = str(notebook.facts["minutes"])
        box = re.search(r"\| \*\*Minutes on a laptop\*\* \| ([\d.]+)", notebook.content["cells"][0]["source"])
        row = next(line for line in text.splitlines() if line.startswith(f"| [{notebook.number}]"))
        assert (box and box[1], row.split(" | ")[3]) == (minutes, minutes), notebook.name


def test_the_readme_s_answer_is_what_the_shipped_numbers_say():
    """How many claims real CLIP bears out, by the tables under data_manifests/papers, and pocket, by the gathered one."""
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = {"B": re.search(r"(\d) of the (\d) claims of paper B", text), "A": re.search(r"(\d) of (\d) of paper A", text)}
    for paper, found in said.items():
        measured = [claim.real() for claim in CLAIMS if claim.sided and claim.id[0] == paper]
        means = [values.mean() for values in measured if values is not None]
        assert found.groups() == (str(sum(mean > 0 for mean in means)), str(len(means))), paper
    world = re.search(r"is on that side in (\d+) of (\d+) claims of paper B and in (\d+) of (\d+) of paper A", text)
    found = effects(read_gathered([notebooks_dir() / "sweeps" / "pocket.csv"])).query("scale == 'pocket'")
    means = found.groupby("claim")["value"].mean()[[claim.id for claim in CLAIMS if claim.sided]]
    counted = [(means.filter(like=paper) > 0).agg(["sum", "size"]) for paper in "BA"]
    assert [int(number) for number in world.groups()] == [number for pair in counted for number in pair]


@pytest.mark.parametrize("notebook", series(), ids=lambda notebook: notebook.name)
def test_the_author_marked_one_takeaway_and_one_figure_for_the_contents(notebook):
    code = "\n".join("".join(cell["source"]) for cell in notebook.content["cells"] if cell["cell_type"] == "code")
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    for kind in ("takeaway", "figure"):
        marked = [call for call in calls if call.func.attr == kind and "key" in {keyword.arg for keyword in call.keywords}]
        assert len(marked) == 1, kind

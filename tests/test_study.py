"""The series headless: artefacts, failures, resuming, presets, calm committed outputs."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import write_notebook
from recorded import finish_toy, holding

import clipnotes
from clipnotes.cli.main import main
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write
from clipnotes.paths import manifests_dir
from clipnotes.running import cluster, engine, execute
from clipnotes.running.commit import commit_outputs
from clipnotes.running.contents import write_contents
from clipnotes.running.execute import absolute, completed, overrides, run_notebook
from clipnotes.running.study import preset_names, read_preset, study, summary
from clipnotes.series import run_folder
from clipnotes.series.notebooks import find
from clipnotes.series.run_folder import damage, read_facts, refuse_foreign, write_facts

ALT = 'alt="A line that rises with the seed."'


def facts(folder):
    return json.loads((Path(folder) / "run.json").read_text())


def test_a_study_survives_a_failure_and_resumes(toy_notebook, tmp_path, monkeypatch):
    # a kernel of another environment under the name python3 must not be taken
    wrong = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    wrong.parent.mkdir(parents=True)
    wrong.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "wrong", "language": "python"}))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    Path("02_more.break").touch()

    toy, more = results = study(out="study")

    assert (toy["status"], more["status"]) == ("complete", "failed")
    assert more["error"] == "KeyError: 'broken\\non purpose'"
    assert len(pd.read_csv("study/02_more/results.csv")) == 2, "records before the failure are kept"
    assert "broken" in Path("study/02_more/notebook.html").read_text()
    for name in [
        "notebook.ipynb",
        "results.csv",
        *(f"figures/fig1_toy.{kind}" for kind in ("png", "svg", "csv")),
    ]:
        assert Path("study/01_toy", name).stat().st_size
    assert ALT in Path("study/01_toy/notebook.html").read_text()
    contents = Path("study/index.html").read_text()
    assert ALT in contents and "1 of 2 notebooks complete" in contents and "KeyError" in contents
    assert '<a href="01_toy/notebook.html">What does 01_toy show?</a>' in contents
    assert "KeyError" in summary(results)
    assert not list(Path("study").rglob("*partial*"))

    Path("02_more.break").unlink()
    before = Path("study/01_toy/notebook.ipynb").stat().st_mtime_ns
    toy, more = results = study(out="study", resume=True)
    assert (toy["kept"], more["kept"], more["status"]) == (True, False, "complete")
    assert Path("study/01_toy/notebook.ipynb").stat().st_mtime_ns == before
    assert "complete (kept)" in summary(results)
    assert "2 of 2 notebooks complete" in Path("study/index.html").read_text()


def test_two_at_a_time_give_what_one_by_one_gives(toy_notebook):
    Path("02_more.break").touch()
    one_by_one, together = study(out="one"), study(out="two", jobs=2)
    assert [each["notebook"] for each in together] == ["01_toy", "02_more"]  # in the order of the series
    assert [each["status"] for each in together] == ["complete", "failed"]
    assert together[1]["error"] == one_by_one[1]["error"]
    assert Path("one/01_toy/results.csv").read_text() == Path("two/01_toy/results.csv").read_text()
    assert "1 of 2 notebooks complete" in Path("two/index.html").read_text()


def test_the_longest_start_first(toy_notebook):
    for name, minutes in {"01_toy": 2, "02_more": 3, "03_more": 1, "04_more": 4}.items():
        path = write_notebook(toy_notebook.with_name(f"{name}.ipynb"))
        content = json.loads(path.read_text())
        content["metadata"]["clipnotes"]["minutes"] = minutes
        path.write_text(json.dumps(content))
    jobs = [engine.Job(find(number), {}, Path("out", number)) for number in ("01", "02", "03", "04")]
    with cluster.local_client(workers=1) as client:
        assert [job.notebook.number for job, _ in engine.compute(jobs, client)] == ["04", "02", "01", "03"]


def test_where_all_is_kept_no_workers_are_started(toy_notebook, monkeypatch):
    finish_toy("out/01_toy")
    monkeypatch.setattr(cluster, "local_client", None)
    assert [each["kept"] for each in study(out="out", only=["01"], jobs=2, resume=True)] == [True]


def test_update_writes_back_what_is_kept_and_says_where_it_cannot(toy_notebook, monkeypatch):
    write_notebook(toy_notebook.with_name("02_more.ipynb"))
    for name in ("01_toy", "02_more"):
        finish_toy(f"out/{name}")
    written = []

    def write_back(done, source):
        if source.stem == "01_toy":
            raise ClipnotesError("An output holds a path.")
        written.append(source.stem)

    monkeypatch.setattr("clipnotes.running.study.commit_outputs", write_back)
    monkeypatch.setattr("clipnotes.running.study.completed", lambda notebook, *rest: {
        "notebook": notebook.name, "status": "complete"})
    results = study(out="out", resume=True, update=True)
    assert [facts["status"] for facts in results] == ["not written back", "complete"] and written == ["02_more"]
    assert "An output holds a path." in summary(results)


def test_a_killed_run_is_not_taken_for_whole(toy_notebook):
    command = [sys.executable, "-m", "clipnotes", "run", "01", "--out", "out", "--resume"]
    Path("block").touch()
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not Path("out/results.csv").exists():  # written by lab.start
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        Path("block").unlink()
    assert facts("out")["status"] == "running" and not Path("out/notebook.ipynb").exists()
    assert completed(find("01"), {}, "out") is None

    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "Complete in" in done.stdout, done.stderr
    assert facts("out")["status"] == "complete" and not list(Path("out").glob("*partial*"))
    assert completed(find("01"), {}, "out")


@pytest.fixture
def finished(toy_notebook):
    """The folder of a complete run of 01_toy, made without a kernel."""
    return finish_toy("out")


def test_complete_means_same_code_parameters_version_and_all_files(finished, toy_notebook, monkeypatch):
    assert completed(find("01"), {}, finished)
    assert completed(find("01"), {"shots": 4}, finished), "a default, given"
    assert completed(find("01"), {"shots": 5}, finished) is None
    with monkeypatch.context() as patch:
        patch.setattr("clipnotes.__version__", "0.0.9")
        assert completed(find("01"), {}, finished) is None
    source = toy_notebook.read_text()
    toy_notebook.write_text(source.replace("What does", "What else does"))
    assert completed(find("01"), {}, finished), "prose may change"
    toy_notebook.write_text(source.replace("time.sleep(0.05)", "time.sleep(0.06)"))
    assert completed(find("01"), {}, finished) is None
    toy_notebook.write_text(source)
    (finished / "results.csv").unlink()
    assert completed(find("01"), {}, finished) is None
    (finished / "run.json").write_text('{"status": "complete"')
    assert completed(find("01"), {}, finished) is None


def test_a_run_is_made_again_once_a_file_that_it_read_has_changed(toy_notebook, tmp_path):
    """Features, tables and manifests under their old names: the results of the old ones were kept."""
    lines = ['table: str = ""  # a table [file]', 'more: list[str] = []  # tables [path or empty]',
             'data: str = ""  # feature files [folder]', 'dataset: str = "digits"  # what it is about [dataset]',
             'pretrained: str = ""  # weights, a tag or a file']
    source = nbformat.read(toy_notebook, 4)
    source.cells[1].source += "".join(f"\n{line}" for line in lines)
    nbformat.write(source, toy_notebook)
    files = [tmp_path / name for name in ("one.csv", "two.csv", "features/pets.npz", "mine.yaml", "w.pt")]
    files[2].parent.mkdir()
    for file in files:
        file.write_text((manifests_dir() / "digits.yaml").read_text())
    (tmp_path / "features" / "notes.txt").write_text("old")
    parameters = {"table": str(files[0]), "more": [str(files[1])], "data": str(files[2].parent), "dataset": str(files[3]),
                  "pretrained": str(files[4])}
    done = run_notebook(find("01"), parameters, "out", progress=False)
    assert done["status"] == "complete", done["error"]
    assert set(facts("out")["inputs"]) == set(map(str, files))
    assert completed(find("01"), parameters, "out")
    (tmp_path / "features" / "notes.txt").write_text("new")
    assert completed(find("01"), parameters, "out"), "nobody reads it"
    for file in files:
        was, old = file.stat().st_mtime_ns, file.read_text()
        file.write_text(f"{old}# new\n")
        assert completed(find("01"), parameters, "out") is None
        file.write_text(old)
        os.utime(file, ns=(was, was))
        assert completed(find("01"), parameters, "out")


def emptied(file):
    file.write_bytes(b"")


def cut_after_the_first_row(file):
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))


DAMAGES = [("results.csv", emptied), ("results.csv", cut_after_the_first_row), ("figures/fig1_toy.png", emptied),
           ("notebook.ipynb", emptied), ("notebook.html", emptied), ("run.json", emptied)]


@pytest.fixture
def computed(monkeypatch):
    """The folders in which runs are begun, instead of running them."""
    begun = []

    def run_notebook(notebook, parameters, out, **settings):
        begun.append(Path(out).as_posix())
        return {"notebook": notebook.name, "status": "complete", "seconds": 1.0}

    monkeypatch.setattr(engine, "run_notebook", run_notebook)
    monkeypatch.setattr("clipnotes.running.execute.run_notebook", run_notebook)
    return begun


@pytest.mark.parametrize("name, damage", DAMAGES)
def test_what_is_damaged_runs_again(toy_notebook, computed, capsys, name, damage):
    commands = {"out": ["run", "01", "--out", "out", "--resume"],
                "study/01_toy": ["study", "--only", "01", "--out", "study", "--resume", "--jobs", "1"]}
    for folder, command in commands.items():
        finish_toy(folder)
        with pytest.raises(SystemExit) as caught:
            main(command)
        assert caught.value.code == 0 and not computed, "it is whole"
        damage(Path(folder, name))
        with pytest.raises(SystemExit) as caught:
            main(command)
        assert caught.value.code == 0 and computed.pop() == folder


def test_a_run_that_was_moved_is_whole(finished):
    finished.rename("elsewhere")
    assert not damage("elsewhere") and completed(find("01"), {}, "elsewhere")


def test_a_notebook_that_a_reader_worked_on_in_is_whole_and_stays(finished, computed):
    (finished / "notebook.ipynb").write_text('{"cells": [], "nbformat": 4, "metadata": {"mine": true}}')
    assert not damage(finished) and completed(find("01"), {}, finished)
    with pytest.raises(ClipnotesError, match="^out/notebook.ipynb was edited since the run that it belongs to: copy it to"):
        refuse_foreign(finished)
    with pytest.raises(SystemExit) as caught:
        main(["run", "01", "--out", "out", "--resume"])
    assert caught.value.code == 0 and not computed
    Path("study").mkdir()
    finished.rename("study/01_toy")
    assert study(only=["01"], out="study", resume=True)[0]["kept"]


FOREIGN = [("results.csv", "mine"), ("notebook.ipynb", "mine"), ("notebook.html", "mine"), ("run.json", "[]")]


@pytest.mark.parametrize("name, content", [*FOREIGN, ("../index.html", "<p>mine</p>")])
def test_a_user_s_files_stay_unless_forced(toy_notebook, computed, capsys, name, content):
    file = Path("study/01_toy", name)
    Path("study/01_toy").mkdir(parents=True)
    file.write_text(content)
    commands = [["study", "--jobs", "1"], ["run", "01", "--out", "study/01_toy"]]
    for command in commands[:1 + (".." not in name)]:
        with pytest.raises(SystemExit) as caught:
            main([*command, "--out", "study"] if command[0] == "study" else command)
        message = capsys.readouterr().err
        assert caught.value.code == 2 and message.count("\n") == 1 and not computed and file.read_text() == content
        assert message.startswith(f"Error: {os.path.normpath(file)} is there already, and")
        assert message.endswith("made it so: choose another folder, or add --force to overwrite it.\n") or ".." in name
    with pytest.raises(SystemExit) as caught:
        main(["study", "--jobs", "1", "--out", "study", "--force"])
    assert caught.value.code == 0 and computed == ["study/01_toy", "study/02_more"]
    assert "2 notebooks complete" in Path("study/index.html").read_text()
    if ".." in name:
        with pytest.raises(SystemExit) as caught:
            main(["study", "--jobs", "1", "--out", "study"])
        assert caught.value.code == 0, "its own page it may overwrite"


def test_two_commands_do_not_work_in_one_folder(toy_notebook, computed, monkeypatch):
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    with holding("study"), pytest.raises(ClipnotesError, match="^study is in use by another run: wait until that"):
        study(out="study", jobs=1)
    assert not computed and not Path("study/index.html").exists()


def test_a_run_into_a_folder_that_another_one_uses_is_refused(toy_notebook, monkeypatch, capsys):
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    with holding("out"), pytest.raises(SystemExit) as caught:
        main(["run", "01", "--out", "out"])
    assert caught.value.code == 2 and capsys.readouterr().err.startswith("Error: out is in use by another run: wait until")


@pytest.mark.parametrize("command", [["run", "01"], ["study", "--jobs", "1"]])
def test_ctrl_c_is_one_line(toy_notebook, monkeypatch, capsys, command):
    def stop(*arguments, **engine):
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "_execute", stop)
    with pytest.raises(SystemExit) as caught:
        main([*command, "--out", "out"])
    assert caught.value.code == 130 and capsys.readouterr().err.splitlines()[-1].startswith("Stopped. What is done is kept; go")
    (folder,) = [path.parent for path in Path("out").rglob("run.json")]
    assert read_facts(folder)["status"] == "failed" and read_facts(folder)["error"] == "stopped"


def test_a_run_whose_folder_is_in_use_fails_and_the_rest_goes_on(toy_notebook, monkeypatch):
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    monkeypatch.setattr(execute, "_execute", kernel)
    with holding("study/01_toy"):
        toy, more = study(out="study", jobs=1)
    assert (toy["status"], more["status"]) == ("failed", "complete")
    assert toy["error"].startswith("study/01_toy is in use by another run: wait until that is over")
    assert not Path("study/01_toy/run.json").exists(), "what the other one does is left alone"


def kernel(notebook, values, out, **engine):
    """What a kernel leaves, as `execute._execute` has it."""
    (out / "results.csv").write_text("notebook,metric,value\n")
    (out / "notebook.ipynb").write_text(json.dumps(nbformat.v4.new_notebook()))
    write_facts(out, read_facts(out) | {
        "status": "finished", "code_hash": notebook.code_hash, "versions": {"clipnotes": clipnotes.__version__},
        "parameters": {parameter.name: parameter.default for parameter in notebook.parameters} | values})


@pytest.mark.parametrize("file", ["run.json", "notebook.html"])
def test_a_full_disk_fails_one_run_and_the_rest_goes_on(toy_notebook, monkeypatch, file):
    """No space is left once the first notebook is at its end, and there is some again for the second."""
    def full(path, mode="w"):
        if str(path) == f"study/01_toy/{file}" and Path("study/01_toy/notebook.ipynb").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return atomic_write(path, mode)

    monkeypatch.setattr(execute, "_execute", kernel)
    for module in ("clipnotes.series.run_folder", "clipnotes.running.page"):
        monkeypatch.setattr(f"{module}.atomic_write", full)
    results = study(out="study", jobs=1)
    assert [facts["status"] for facts in results] == ["failed", "complete"]
    assert results[0]["error"] == f"study/01_toy/{file}: No space left on device." and "No space left" in summary(results)
    assert not completed(find("01"), {}, "study/01_toy") and completed(find("02"), {}, "study/02_more")
    monkeypatch.undo()
    refuse_foreign("study/01_toy")  # what it left is its own, and may be written anew


def test_where_nothing_can_be_written_nothing_runs(toy_notebook, computed):
    Path("file").touch()
    for out in ("file", "file/below", "/" + 5000 * "a", "/proc/study"):
        with pytest.raises(ClipnotesError, match="^The folder '.*' cannot take results .*: choose another one."):
            study(out=out, jobs=1)
    assert not computed


def test_foreign_facts_bring_no_html_into_the_page(toy_notebook, tmp_path):
    evil = "<script>alert(1)</script>"
    for number, facts in enumerate([
        {"seconds": evil}, {"status": evil}, {"figures": [{"id": evil, "alt": "x"}]}, {"figures": evil}, {"takeaways": [7]},
        {"error": evil}, {"takeaways": [evil]}, {"figures": [{"id": "a", "alt": f'"{evil}'}]}, {"error": "\ud800"}, [], None,
    ]):
        folder = Path("study", "01_toy")
        folder.mkdir(parents=True, exist_ok=True)
        whole = {"notebook": "01_toy", "status": "failed", "parameters": {}, "seconds": 1.5}
        (folder / "run.json").write_text(json.dumps(whole | facts if isinstance(facts, dict) else facts))
        write_contents("study", "pocket")
        assert "<script" not in Path("study/index.html").read_text(), number


def test_files_become_absolute_and_out_is_an_option(toy_notebook):
    Path("bank.npz").touch()
    assert overrides(find("01"), {"features": "bank.npz"}) == {"features": str(Path.cwd() / "bank.npz")}
    assert overrides(find("01"), {"features": ""}) == {"features": ""}
    assert absolute(["bank.npz", ""]) == [str(Path.cwd() / "bank.npz"), ""]
    with pytest.raises(ClipnotesError, match="option --out"):
        overrides(find("01"), {"out": "x"})


def preset(toy_notebook, text):
    (toy_notebook.parent / "presets" / "quick.yaml").write_text(text)


def test_presets_reach_the_notebooks_that_have_the_parameter(toy_notebook):
    preset(toy_notebook, '"*": {rate: 1e-2, shots: 2}\n"02": {shots: 3}\n')
    assert read_preset("quick") == {"01_toy": {"rate": 0.01, "shots": 2}, "02_more": {"shots": 3}}
    assert read_preset("pocket") == {"01_toy": {}, "02_more": {}}


@pytest.mark.parametrize(
    "text, message",
    [
        ('"*": {shot: 2}', r"sets 'shot' under '\*', but no notebook has it"),
        ('"01": {speed: 2}', "Preset quick, notebook 01_toy: Unknown parameter 'speed'"),
        ('"*": {shots: 17}', "notebook 01_toy: Parameter shots is 17; allowed: values from 1 up to 16"),
        ('"07": {shots: 2}', "no notebook '07'"),
    ],
)
def test_presets_are_strict_before_anything_runs(toy_notebook, text, message):
    preset(toy_notebook, text)
    with pytest.raises(ClipnotesError, match=message):
        study("quick")
    assert not Path("runs").exists()


def test_a_file_of_one_notebook_belongs_to_its_preset_and_to_clipnotes_run(toy_notebook):
    preset(toy_notebook, '"*": {rate: 1e-2}\n"02": {shots: 3}\n')
    (toy_notebook.parent / "presets" / "quick_01.yaml").write_text("shots: 5\nrate: 0.5\n")
    assert read_preset("quick") == {"01_toy": {"rate": 0.5, "shots": 5}, "02_more": {"shots": 3}}
    assert preset_names() == ["pocket", "quick"]
    (toy_notebook.parent / "presets" / "quick_02.yaml").write_text("shots: 5\n")
    with pytest.raises(ClipnotesError, match="^Preset quick sets 02_more in quick.yaml and in quick_02.yaml; keep one of"):
        read_preset("quick")


def test_unknown_preset_and_empty_series(toy_notebook, monkeypatch, tmp_path):
    with pytest.raises(ClipnotesError, match="no preset 'huge'; .* has: pocket"):
        read_preset("huge")
    monkeypatch.setenv("CLIPNOTES_NOTEBOOKS", str(tmp_path))
    with pytest.raises(ClipnotesError, match="no notebooks"):
        study()


def executed(source, target, prints=("ab",), seconds=1):
    """A stand-in for papermill's output: the source's cells with outputs, timing, an injected cell."""
    notebook = nbformat.read(source, as_version=4)
    v4 = nbformat.v4
    for number, cell in enumerate(notebook.cells):
        cell.metadata["papermill"] = {"duration": seconds}
        if cell.cell_type == "code":
            cell.execution_count = number + seconds
            cell.outputs = [v4.new_output("stream", name="stdout", text=text) for text in prints]
            cell.outputs += [
                v4.new_output("stream", name="stderr", text=f"100% in {seconds} s"),
                v4.new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}}),
                v4.new_output("execute_result", data={"text/plain": "4"}, execution_count=number + seconds),
            ]
    injected = v4.new_code_cell("shots = 2", metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(2, injected)
    notebook.metadata |= {"papermill": {"duration": seconds}, "widgets": {}}
    nbformat.write(notebook, target)
    return target


def test_committed_outputs_are_calm(toy_notebook):
    ids = [cell.id for cell in nbformat.read(toy_notebook, as_version=4).cells]
    commit_outputs(executed(toy_notebook, "a.ipynb"), toy_notebook)
    first = toy_notebook.read_bytes()
    commit_outputs(executed(toy_notebook, "b.ipynb", prints=("a", "b"), seconds=7), toy_notebook)
    assert toy_notebook.read_bytes() == first, "timing and the cutting of prints leave no trace"

    notebook = nbformat.read(toy_notebook, as_version=4)
    assert [cell.id for cell in notebook.cells] == ids
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4]
    assert [output.output_type for output in code[0].outputs] == ["stream", "execute_result"]
    assert code[0].outputs[1].execution_count == 1
    assert code[0].metadata == {"tags": ["parameters"]} and "clipnotes" in notebook.metadata
    assert not {"papermill", "widgets"} & set(notebook.metadata)


def test_outputs_of_other_code_or_with_machine_paths_are_refused(toy_notebook):
    before = toy_notebook.read_bytes()
    done = executed(toy_notebook, "a.ipynb", prints=(f"saved in {Path.cwd()}/x",))
    with pytest.raises(ClipnotesError, match="holds the path"):
        commit_outputs(done, toy_notebook)
    text = Path(executed(toy_notebook, "b.ipynb")).read_text()
    Path("b.ipynb").write_text(text.replace("time.sleep(0.05)", "time.sleep(1)"))
    with pytest.raises(ClipnotesError, match="'cell-3' of 01_toy.ipynb has no executed counterpart"):
        commit_outputs("b.ipynb", toy_notebook)
    assert toy_notebook.read_bytes() == before

"""Exercises: the form of their cells, solutions in their place, copies for students, and what a starter cell says."""

import json

import nbformat
import pytest
from conftest import write_notebook

from clipnotes import lab
from clipnotes.errors import ClipnotesError
from clipnotes.series.exercises import copy_series, for_students, is_starter, solutions, solved
from clipnotes.series.notebooks import series

TASK = """**Exercise 1.** What is six times seven?
<details><summary>Hint</summary>

Count.
</details>
<details><summary>Solution</summary>

```python
six = 6
answer = six * 7
```
</details>
"""
STARTER = 'answer = ...  # a number\nlab.exercise("1", answer, lambda n: None if n == 42 else "Too far off.")'


def content(task=TASK, starter=STARTER):
    v4 = nbformat.v4
    cells = [v4.new_markdown_cell(task, id="task"), v4.new_code_cell(starter, id="try", metadata={"tags": ["exercise"]}),
             v4.new_code_cell("1 + 1", id="other", outputs=[v4.new_output("stream", text="2")], execution_count=1)]
    return json.loads(nbformat.writes(v4.new_notebook(cells=cells)))


def test_a_solution_stands_in_the_place_of_the_dots():
    assert solutions(content()) == {"try": "six = 6\nanswer = six * 7"}
    cell = solved(content())["cells"][1]
    assert "".join(cell["source"]) == "six = 6\nanswer = six * 7\n" + STARTER.split("\n")[1]


def test_a_students_copy_keeps_questions_and_hints_alone():
    task, starter, other = for_students(content())["cells"]
    text = "".join(task["source"])
    assert "Hint" in text and "Solution" not in text and "six * 7" not in text
    assert "".join(starter["source"]) == STARTER and not other["outputs"] and other["execution_count"] is None


@pytest.mark.parametrize("task, starter", [("No solution.", STARTER), (TASK + TASK, STARTER), (TASK, "answer = 1")])
def test_an_exercise_without_one_solution_or_a_start_is_refused(task, starter):
    with pytest.raises(ClipnotesError, match="^Exercise cell 'try' has . solutions before it .* it needs one solution"):
        solutions(content(task, starter))


@pytest.mark.parametrize("answer, said", [
    (..., "Exercise 1: not tried yet."), (42, "Exercise 1: right."),
    (41, "Exercise 1: not yet. Too far off."),
    (None, "Exercise 1: not yet. The check stopped with TypeError")])
def test_a_starter_cell_says_what_is_off(answer, said, capsys):
    lab.exercise("1", answer, lambda n: None if n + 0 == 42 else "Too far off.")
    assert capsys.readouterr().out.startswith(said)


def test_every_notebook_has_exercises_of_this_form():
    for notebook in series():
        content = json.loads(notebook.path.read_text(encoding="utf-8"))
        assert set(solutions(content)) == {cell["id"] for cell in content["cells"] if is_starter(cell)}


def test_copies_of_the_series(toy_notebook, tmp_path):
    write_notebook(toy_notebook, finish="run.finish()")
    (toy_notebook.parent / "presets" / ".ipynb_checkpoints").mkdir()  # of an editor
    (toy_notebook.parent / "01_toy-Copy1.ipynb").write_text(toy_notebook.read_text())  # of a reader
    paths = copy_series(tmp_path / "mine")
    assert [path.name for path in paths] == ["01_toy.ipynb", "02_more.ipynb"]
    assert (tmp_path / "mine" / "presets" / "pocket.yaml").is_file()
    assert json.loads(paths[0].read_text())["cells"] == json.loads(toy_notebook.read_text())["cells"]
    with pytest.raises(ClipnotesError, match="mine is not empty, and nothing there is overwritten; name a new folder"):
        copy_series(tmp_path / "mine", students=True)

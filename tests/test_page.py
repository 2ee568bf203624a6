"""Plain pages: formulas become MathML, code stays code, alternative texts survive, nothing of run.json is HTML."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from clipnotes.running.contents import contents_html
from clipnotes.running.mathml import mathml
from clipnotes.running.page import write_page
from clipnotes.series.notebooks import find, series


def page_of(tmp_path, *cells):
    nbformat.write(new_notebook(cells=list(cells)), tmp_path / "notebook.ipynb")
    write_page(tmp_path, "A < B?")
    return (tmp_path / "notebook.html").read_text(encoding="utf-8")


def test_formulas_become_mathml(tmp_path):
    text = "The area $\\min(p_b, q_b)$ is\n\n$$\\sum_b p_b$$\n\n`echo $HOME $PATH` and\n```\na = $b + $c\n```\ncosts 5 $"
    page = page_of(tmp_path, new_markdown_cell(text))
    assert re.findall(r'<math[^>]*display="(\w+)"', page) == ["inline", "block"]
    aligned = page_of(tmp_path, new_markdown_cell("$$\\begin{aligned} a &= b \\\\ c &= d \\end{aligned}$$"))
    assert aligned.count("<mtr>") == 2 and "<mi>&" not in aligned
    assert "<code>echo $HOME $PATH</code>" in page and "a = $b + $c" in page and "costs 5 $" in page


@pytest.mark.parametrize("notebook", series(), ids=lambda notebook: notebook.name)
def test_every_formula_of_the_series_is_drawn_and_not_spelt(notebook):
    """A word of LaTeX that the converter does not know would stand in the page as it is, with its backslash."""
    prose = "\n".join(cell["source"] for cell in notebook.content["cells"] if cell["cell_type"] == "markdown")
    prose = re.sub(r"```.*?```|`[^`]*`", "", prose, flags=re.S)
    for block, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", prose, re.S):
        drawn = re.sub(r"<[^>]*>", "", mathml(block or inline))
        assert "\\" not in drawn and "&" not in re.sub(r"&#?\w+;", "", drawn), block or inline


def test_a_page_needs_nothing_beside_it_and_keeps_alternative_texts(tmp_path):
    figure = '<figure id="a"><img src="data:image/webp;base64," alt="A line that rises."></figure>'
    page = page_of(tmp_path, new_markdown_cell("# Title"), new_code_cell("draw()", outputs=[
        new_output("display_data", {"text/html": figure, "image/png": "iVBORw0KGgo=", "text/plain": "A line that rises."})]))
    assert re.search(r'<figure id="a"><img [^>]*alt="A line that rises."', page) and "<title>A &lt; B?</title>" in page
    assert not re.search(r'(src|href)="(https?:)?//', page) and "mathjax" not in page.lower() and "require" not in page


def test_contents_escape_what_a_run_wrote(toy_notebook):
    bad = {"takeaway": "<script>1</script>", "error": "KeyError: <b>", "status": "failed", "seconds": 1.5, "number": "01",
           "name": "13_results", "takeaways": ["<script>2</script>"], "question": "a < b", "link": None, "reproduces": "<i>",
           "minutes": 1, "picture": 'x" onerror="1', "figure": {"id": "f", "alt": '"><script>', "caption": "<b>"}}
    page = contents_html([bad])
    assert not re.search(r"<script|<b>|<i>|a < b", page) and 'onerror="' not in page
    assert "&lt;script&gt;1" in page and "0 of 1 notebooks complete." in page
    answered = contents_html([bad | {"status": "complete"}])
    assert "So, is it true?" in answered and "&lt;script&gt;2" in answered and "So, is it true?" not in page
    assert not re.search(r"<script|<b>|<i>|a < b", answered) and 'onerror="' not in answered
    assert find("01").question in contents_html([bad | {"question": find("01").question}])

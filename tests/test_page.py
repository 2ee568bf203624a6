"""Pages read without a network: formulas become MathML, code stays code, alternative texts survive."""

import nbformat
from nbformat.v4 import new_markdown_cell, new_notebook

from clipnotes.running.page import formulas_to_mathml, write_page


def test_formulas_become_mathml():
    text = formulas_to_mathml(r"The area $\min(p_b, q_b)$ is" + "\n\n" + r"$$\sum_{b=1}^{B} p_b$$")
    assert "$" not in text and text.count("<math") == 2
    assert text.index('display="inline"') < text.index('display="block"')
    assert "\u2211" in text.replace("&#x02211;", "\u2211")


def test_dollars_in_code_are_no_formulas():
    text = "`echo $HOME $PATH` and\n```\na = $b + $c\n```\ncosts 5 $"
    assert formulas_to_mathml(text) == text


def test_the_page_needs_no_mathjax(tmp_path):
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title\n\n$x_i$")]), tmp_path / "notebook.ipynb")
    write_page(tmp_path, "Title")
    page = (tmp_path / "notebook.html").read_text(encoding="utf-8")
    assert "<msub><mi>x</mi><mi>i</mi></msub>" in page and "cdnjs.cloudflare.com/ajax/libs/mathjax" not in page

"""Plain pages that need nothing beside them: an executed notebook, and the contents of a study. `clipnotes book` does more."""

from pathlib import Path
from typing import Any

import jinja2
import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

from clipnotes.files import atomic_write
from clipnotes.running.mathml import mathml


def templates_in(folder: Path) -> jinja2.Environment:
    """The templates of a folder, in which all is escaped and a name that is missing is an error."""
    return jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True,
                              undefined=jinja2.StrictUndefined)


TEMPLATES = templates_in(Path(__file__).parent)


def write_page(out: str | Path, title: str) -> None:
    """Write OUT/notebook.html from OUT/notebook.ipynb, if there is one."""
    source = Path(out) / "notebook.ipynb"
    if source.is_file():
        body, _ = NotebookBody(template_name="basic").from_notebook_node(nbformat.read(source, as_version=4))
        write_html(Path(out) / "notebook.html", title, body)


def write_html(path: Path, title: str, body: str) -> None:
    """Write an HTML file with our style around `body`, HTML itself."""
    code = HtmlFormatter(style="sas").get_style_defs(".highlight")
    with atomic_write(path) as stream:
        stream.write(TEMPLATES.get_template("page.html.j2").render(title=title, code_style=code, body=body))


class NotebookBody(HTMLExporter):
    """nbconvert's plain HTML of a notebook, with formulas as MathML in place of text for MathJax."""

    @jinja2.pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        return MarkdownWithMath(renderer=MathMLRenderer(escape=False, attachments=attachments)).render(source)


class MathMLRenderer(IPythonRenderer):
    """nbconvert's Markdown, which knows what is a formula and what is code."""

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

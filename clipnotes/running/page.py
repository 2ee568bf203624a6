"""The executed notebook as one HTML page that reads well without a network: alternative texts, formulas as MathML."""

import re
from pathlib import Path

from clipnotes.files import atomic_write

_CODE = r"```.*?```|`[^`\n]+`"  # dollars inside are not formulas
_FORMULA = re.compile(rf"(?P<code>{_CODE})|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", re.S)

# the template's page is too narrow for our lines of code, and its tables set words flush right
_STYLE = """<style>
.container { width: 94% !important; max-width: 84rem !important; }
.rendered_html th, .rendered_html td { text-align: left; vertical-align: top; max-width: 40rem; }
</style>
</head>"""


def write_page(out, title):
    """Write OUT/notebook.html from OUT/notebook.ipynb, if there is one.

    The template is classic, since nbconvert's default one drops alternative texts.
    """
    import nbformat
    from nbconvert import HTMLExporter

    source = Path(out) / "notebook.ipynb"
    if not source.is_file():
        return
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = formulas_to_mathml(cell.source)
    exporter = HTMLExporter(template_name="classic", mathjax_url="")
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    with atomic_write(Path(out) / "notebook.html") as stream:
        stream.write(page.replace("</head>", _STYLE, 1))


def formulas_to_mathml(markdown):
    """Markdown with its LaTeX formulas as MathML, which browsers draw by themselves; MathJax would be a download."""
    from latex2mathml.converter import convert

    def mathml(match):
        if match["code"]:
            return match["code"]
        if match["block"]:
            return convert(match["block"].strip(), display="block")
        return convert(match["inline"])

    return _FORMULA.sub(mathml, markdown)

"""A Sphinx extension: formulas as MathML, mentions of a notebook as links to its page, no empty table heads."""

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

from clipnotes.running.mathml import mathml

MENTION = re.compile(r"\b[Nn]otebooks?\s+\d\d(?:(?:,|,? and| to| or)\s+\d\d)*\b")
NUMBER = re.compile(r"(\d\d)")


class LinkNotebooks(SphinxTransform):
    """Turn the numbers in "notebook 07" and "notebooks 03 to 05" into links, where the book has these pages."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        pages = {name[:2]: name for name in self.env.found_docs if re.match(r"\d\d_", name)}
        for text in list(self.document.findall(nodes.Text)):
            if not isinstance(text.parent, (nodes.reference, nodes.literal, nodes.literal_block, nodes.title, nodes.raw)):
                text.parent.replace(text, list(linked(str(text), pages)))


class DropEmptyHeads(SphinxTransform):
    """Markdown has no table without a head; one whose head is empty was meant so, and a screen reader should not read it."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for head in list(self.document.findall(nodes.thead)):
            if not head.astext().strip():
                head.parent.remove(head)


def linked(text: str, pages: dict[str, str]) -> Iterator[nodes.Node]:
    """Docutils nodes of `text`, with a link for each number that `pages` ({number: document}) knows."""
    end = 0
    for mention in MENTION.finditer(text):
        for number in NUMBER.finditer(text, *mention.span()):
            if number[0] in pages:
                yield nodes.Text(text[end:number.start()])
                yield addnodes.pending_xref("", nodes.inline("", number[0]), refdomain="std", reftype="doc", refexplicit=True,
                                            reftarget=f"/{pages[number[0]]}", refwarn=True)
                end = number.end()
    yield nodes.Text(text[end:])


def inline_math(writer: Any, node: nodes.Node) -> None:
    writer.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block_math(writer: Any, node: nodes.Node) -> None:
    writer.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_transform(LinkNotebooks)
    app.add_transform(DropEmptyHeads)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

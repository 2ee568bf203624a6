"""Explorers: a picture for every setting of a few controls, drawn ahead.

What a reader moves is plain JavaScript that changes pictures, the same in JupyterLab, in a saved notebook and in the book. So
an explorer needs no kernel, leaves nothing behind that does, and never shows a half-drawn picture. Where no script may run,
the picture of the starting values stands there.
"""

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clipnotes.errors import ClipnotesError
from clipnotes.lab.display import display_bundle, show_figure, webp

MOST = 48  # pictures of an explorer: about as many kilobytes times five
SCRIPT = Path(__file__).with_name("explore.js")


@dataclass(frozen=True)
class Control:
    """What a reader moves: a named list of values, each with its text, and the place of the first one shown."""

    kind: str  # "range" or "select"
    label: str
    values: list
    texts: list[str]
    start: int


def slider(label: str, values: Sequence, form: str = "{:g}", start: float | None = None) -> Control:
    """A slider over `values`, which may be spaced as a scale needs it, such as np.geomspace; `form` writes a value."""
    return _control("range", label, values, form, start)


def menu(label: str, values: Sequence, form: str = "{}", start: Any = None) -> Control:
    """A menu of `values`. start: the value shown first, the first one where it is None."""
    return _control("select", label, values, form, start)


def _control(kind, label, values, form, start):
    values = list(values)
    if not values or (start is not None and start not in values):
        raise ClipnotesError(f"The control {label!r} starts at {start!r}; its values are: {values}.")
    return Control(kind, label, values, [form.format(value) for value in values], 0 if start is None else values.index(start))


def explore(id: str, draw: Callable[..., str], controls: dict[str, Control], caption: str = "",
            size: tuple[float, float] = (7.0, 3.6)) -> None:
    """Show `draw(figure, **values)` for all combinations of the controls' values (see `Run.explore`).

    draw: draws into an empty figure that pyplot knows nothing of, and returns a sentence on what is to be seen: it is shown,
    and it is the picture's alternative text. Where there are more than `MOST` combinations, the longest lists are thinned.
    """
    controls = thinned(controls)
    states = []
    for values in product(*(control.values for control in controls.values())):
        figure = Figure(figsize=size, layout="constrained")
        text = draw(figure, **dict(zip(controls, values, strict=True)))
        if not isinstance(text, str) or len(text.split()) < 3:
            raise ClipnotesError(f"The explorer {id} returned {text!r}: return a sentence that says what the picture shows.")
        states.append((picture(figure), text))
    start = np.ravel_multi_index([c.start for c in controls.values()], [len(c.values) for c in controls.values()])
    png, text = states[start]
    show_figure(id, png, alt=text, caption=f"{caption} {text}".strip())
    facts = [{"kind": c.kind, "label": c.label, "texts": c.texts, "start": c.start} for c in controls.values()]
    drawn = [[f"data:image/webp;base64,{base64.b64encode(webp(png)).decode()}", text] for png, text in states]
    html = explorer_html({"id": id, "caption": caption, "controls": facts, "states": drawn})
    moved = ", ".join(control.label for control in controls.values())
    display_bundle({"text/plain": f"{len(states)} pictures: {moved}", "text/html": html}, {"explorer": id})


def explorer_html(content: dict) -> str:
    """The script that brings the figure `content["id"]` to life; the pictures stand in its first part, as JSON."""
    states = json.dumps(content, ensure_ascii=False).replace("</", "<\\/")
    return f'<script type="application/json">{states}</script>\n<script>{SCRIPT.read_text(encoding="utf-8")}</script>'


def explorer_content(html: str) -> dict:
    """The content of which `explorer_html` made `html`."""
    states = html.removeprefix('<script type="application/json">')
    return json.loads(states[:states.index("</script>")])


def thinned(controls: dict[str, Control]) -> dict[str, Control]:
    """The controls with so few values, evenly spaced and with the starting ones, that there are at most `MOST` combinations."""
    counts = {name: len(control.values) for name, control in controls.items()}
    while prod(counts.values()) > MOST:
        counts[max(counts, key=counts.get)] -= 1
    return {name: _spread(control, counts[name]) for name, control in controls.items()}


def _spread(control, count):
    kept = np.linspace(0, len(control.values) - 1, count).round().astype(int)
    kept[abs(kept - control.start).argmin()] = control.start
    return replace(control, values=[control.values[i] for i in kept], texts=[control.texts[i] for i in kept],
                   start=int(np.flatnonzero(kept == control.start)[0]))


def picture(figure: Figure) -> bytes:
    """The PNG of a figure, small enough that dozens of them travel in a notebook."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=90)
    return drawn.getvalue()

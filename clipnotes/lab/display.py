"""What a notebook shows beside its figures: text, tables, self-checks, and words around numbers; plain text outside one."""

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import display
from PIL import Image

from clipnotes.series.run_folder import MARK

NO_FORMULAS = "tex2jax_ignore mathjax_ignore"  # MathJax of either age: a class may be called "$5 to $10"


def show(text: str, html: str | None = None, mark: dict | None = None) -> None:
    """Display `text`, or `html` with `text` as its fallback; `mark` is kept as the output's metadata (see `MARK`)."""
    bundle = {"text/plain": text}
    if html is not None:
        bundle["text/html"] = f'<div class="{NO_FORMULAS}">{html}</div>'
    display_bundle(bundle, mark)


def show_figure(id: str, png: bytes, alt: str, caption: str = "") -> None:
    """Display a picture with its alternative text and its caption.

    As HTML, since JupyterLab knows alternative texts in HTML alone; as PNG for those who take no HTML.
    """
    picture = f"data:image/webp;base64,{base64.b64encode(webp(png)).decode()}"
    below = f"\n<figcaption><em>{escape(caption)}</em></figcaption>" if caption else ""
    html = (f'<figure id="{escape(id)}" class="{NO_FORMULAS}" style="margin: 1em 0">\n<img src="{picture}" alt="{escape(alt)}" '
            f'style="max-width: 100%; height: auto">{below}\n</figure>')
    bundle = {"text/plain": f"{alt}\n{caption}".strip(), "text/html": html, "image/png": base64.b64encode(png).decode()}
    display_bundle(bundle, {"figure": id}, {"image/png": {"alt": alt}})


def display_bundle(bundle: dict[str, str], mark: dict | None = None, metadata: dict | None = None) -> None:
    """Display the first of `bundle` that the reader's program can show; outside a notebook print its plain text."""
    if get_ipython() is None:
        print(bundle["text/plain"])
    else:
        display(bundle, raw=True, metadata=(metadata or {}) | ({MARK: mark} if mark else {}))


def webp(png: bytes) -> bytes:
    """The same pixels in half the bytes."""
    small = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(small, "webp", lossless=True)
    return small.getvalue()


def show_table(frame: pd.DataFrame, caption: str = "", rows: int = 12) -> None:
    """Display the first `rows` rows of a data frame, to four digits, and say how many there are."""
    head = frame.head(rows).rename_axis(columns=None)  # the name of a pivoted axis would be a column without a head
    left = len(frame) - len(head)
    note = f" The first {rows} of {len(frame)} rows; the CSV file holds all." if left else ""
    number = "{:.4g}".format
    body = head.to_html(index=False, border=0, na_rep="", float_format=number)
    title = f"<caption>{escape(caption + note)}</caption>" if caption + note else ""
    text = f"{caption}{note}\n{head.to_string(index=False, na_rep='', float_format=number)}".strip()
    show(text, html=body.replace("<thead>", f"{title}<thead>", 1))


def short_path(value: str | Path) -> str:
    """Return a path without what belongs to one machine: relative to the current folder, else its name."""
    path = Path(value)
    if not path.is_absolute():
        return path.as_posix()
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name


def check(name: str, ours: Any, reference: Any, tolerance: float = 1e-5) -> bool:
    """Print whether `ours` equals `reference` exactly, closely, and the largest difference; return if close.

    Both are numbers, arrays or tensors of one shape; close: |difference| <= tolerance * (1 + |reference|).
    Nothing is raised: another shape or a NaN prints as a difference and returns False.
    """
    ours, reference = (np.asarray(_plain(value), dtype=float) for value in (ours, reference))
    if ours.shape != reference.shape:
        print(f"{name:<32} shapes differ: {ours.shape} and {reference.shape}")
        return False
    exact = bool(np.array_equal(ours, reference))
    close = bool(np.allclose(ours, reference, rtol=tolerance, atol=tolerance))
    largest = np.abs(ours - reference).max(initial=0.0)
    print(f"{name:<32} exact: {_word(exact)}  close: {_word(close)}  max difference: {largest:.1e}")
    return close


def _plain(value):
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _word(truth):
    return "yes" if truth else "no "


def plural(n: int, noun: str) -> str:
    """Text such as "1 data set" or "6 data sets"."""
    return f"{n} {noun}{'s' * (n != 1)}"


def mean_std(mean: float, std: float, digits: int = 1) -> str:
    """Text such as "51.4 ± 0.6", or "51.4" where a single value has no standard deviation (NaN)."""
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if std == std else "")


def plus_minus(value: float, half: float, unit: str = "points", of: str = "data set", digits: int = 1) -> str:
    """Text such as "+1.2 ± 0.3 points": a difference with the half width of its interval, or, where that is NaN since there is
    one data set (draw ...) only, that there is none."""
    number, unit = f"{value:+.{digits}f}", f" {unit}" if unit else ""
    return f"{number} ± {half:.{digits}f}{unit}" if half == half else f"{number}{unit}, one {of}, no interval"

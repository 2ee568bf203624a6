"""What a notebook run shows: rich in a notebook, plain text anywhere else."""

import base64
from html import escape
from pathlib import Path

from IPython import get_ipython
from IPython.display import display

NO_FORMULAS = "tex2jax_ignore mathjax_ignore"  # MathJax of either age: a class may be called "$5 to $10"


def show(text, html=None, png=None):
    """Display `text`, or `html` or the image `png` (bytes) with `text` as its fallback or alternative."""
    if get_ipython() is None:
        print(text)
        return
    bundle, metadata = {"text/plain": text}, {}
    if html is not None:
        bundle["text/html"] = f'<div class="{NO_FORMULAS}">{html}</div>'
    if png is not None:
        bundle["image/png"] = base64.b64encode(png).decode()
        metadata["image/png"] = {"alt": text}
    display(bundle, raw=True, metadata=metadata)


def show_table(frame, caption="", rows=12):
    """Display the first `rows` rows of a data frame, to four digits, and say how many there are."""
    head = frame.head(rows)
    left = len(frame) - len(head)
    note = f" The first {rows} of {len(frame)} rows; the CSV file holds all." if left else ""
    number = "{:.4g}".format
    body = head.to_html(index=False, border=0, na_rep="", float_format=number)
    title = f"<caption>{escape(caption + note)}</caption>" if caption + note else ""
    text = f"{caption}{note}\n{head.to_string(index=False, na_rep='', float_format=number)}".strip()
    show(text, html=body.replace("<thead>", f"{title}<thead>", 1))


def short_path(value):
    """Return a path without what belongs to one machine: relative to the current folder, else its name."""
    path = Path(value)
    if not path.is_absolute():
        return path.as_posix()
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name

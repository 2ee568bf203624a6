"""What a notebook run shows when it starts: its parameters, the versions, what untrained weights mean, and splits."""

from html import escape
from pathlib import Path

import pandas as pd

from clipnotes.folder_names import FolderName, in_names
from clipnotes.lab.display import short_path, show, show_table
from clipnotes.series.notebooks import Notebook

UNTRAINED = ('pretrained is "random": this model has learnt nothing. Expect accuracies at chance, one over the number of '
             "classes; the figures show that everything runs, and nothing about CLIP.")


def describe(notebook: Notebook, values: dict, out: Path, versions: dict) -> None:
    """Show the parameters' values, image folders by their short names, changed ones marked in words, and what follows."""
    _show_parameters(notebook, values, out, ", ".join(f"{name} {number}" for name, number in versions.items()))
    if values.get("pretrained") == "random":
        show(UNTRAINED, html=f"<p><strong>{escape(UNTRAINED)}</strong></p>")
    splits = _splits(notebook, values)
    if len(splits):
        show_table(splits, "Splits of the data sets that are not built in.", rows=40)


def _show_parameters(notebook, values, out, used):
    rows = []
    for parameter in notebook.parameters:
        name, value, default = parameter.name, values[parameter.name], parameter.default
        if name == "out":
            value, default = out.as_posix(), f"runs/{notebook.name}"
        changed = "" if value == default else f" (default {_short(default)})"
        rows.append((name, f"{_short(value)}{changed}", parameter.help))
    text = "\n".join(f"{name:<16} {value:<24} {help}" for name, value, help in rows)
    cells = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td><td>{escape(help)}</td></tr>'
                    for name, value, help in rows)
    html = (f"<table><caption>Parameters of this run</caption><thead><tr><th>name</th><th>value</th>"
            f"<th>meaning</th></tr></thead><tbody>{cells}</tbody></table><p>{escape(used)}</p>")
    show(f"Parameters of this run\n{text}\n{used}", html=html)


def _splits(notebook, values):
    """Which split each data set of the parameters has, where there is more than one."""
    from clipnotes.data.manifests import load_manifest
    from clipnotes.data.split_rules import which_split

    names = [values[p.name] for p in notebook.parameters if p.domain == "dataset"]
    names = dict.fromkeys(name for value in names for name in (value if isinstance(value, list) else [value]) if name)
    manifests = {name: load_manifest(name) for name in names}
    data_root = values.get("data_root", "data")
    return pd.DataFrame([{"data set": name, "split": which_split(manifest, data_root)}
                         for name, manifest in manifests.items() if not manifest.built_in])


def _short(value):
    if isinstance(value, str) and Path(value).is_absolute():
        return short_path(value)
    return str(in_names(lambda name: f"folder:{name}" if isinstance(name, FolderName) else name, value))

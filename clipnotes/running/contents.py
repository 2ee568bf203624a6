"""The contents page of a study: each notebook's question, status, seconds and key figure."""

import os
from html import escape
from pathlib import Path

from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write
from clipnotes.series.notebooks import series
from clipnotes.series.run_folder import read_facts

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="clipnotes study">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>clipnotes: the study ({preset})</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
caption {{ text-align: left; padding-bottom: .5rem; }}
th, td {{ text-align: left; vertical-align: top; padding: .6rem; border-top: 1px solid #767676; }}
img {{ width: 16rem; height: auto; }}
</style>
</head>
<body>
<main>
<h1>clipnotes: the study</h1>
<table>
<caption>Preset {preset}: {complete} of {total} notebooks complete, each with its first takeaway and its first figure.</caption>
<thead><tr><th scope="col">No</th><th scope="col">Question</th><th scope="col">Status</th>
<th scope="col">Seconds</th><th scope="col">Figure</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</main>
</body>
</html>
"""


def check_contents(out):
    """ClipnotesError if OUT/index.html is not one that `write_contents` wrote."""
    page = Path(out) / "index.html"
    if not os.path.lexists(page):
        return
    mark = b'<meta name="generator" content="clipnotes study">'
    if not page.is_file() or mark not in page.read_bytes()[:2000]:
        raise ClipnotesError(f"{page} is there already, and no clipnotes study made it so: choose another folder, or add "
                             "--force to overwrite it.")


def write_contents(out, preset):
    """Write OUT/index.html over the whole series, from what lies in OUT/NAME/run.json."""
    notebooks = series()
    facts = {notebook.name: read_facts(Path(out) / notebook.name) for notebook in notebooks}
    page = _PAGE.format(
        preset=escape(preset),
        complete=sum(f.get("status") == "complete" for f in facts.values()),
        total=len(notebooks),
        rows="\n".join(_row(Path(out), notebook, facts[notebook.name]) for notebook in notebooks),
    )
    with atomic_write(Path(out) / "index.html") as stream:
        stream.write(page)


def _row(out, notebook, facts):
    question = escape(notebook.question)
    if (out / notebook.name / "notebook.html").is_file():
        question = f'<a href="{notebook.name}/notebook.html">{question}</a>'
    question += "".join(f"<p>{escape(takeaway)}</p>" for takeaway in facts.get("takeaways", [])[:1])
    status = escape(facts.get("status", "not run"))
    if "error" in facts:
        status += f"<br><code>{escape(facts['error'])}</code>"
    seconds = facts.get("seconds", "")
    return (
        f'<tr><th scope="row">{notebook.number}</th><td>{question}</td><td>{status}</td>'
        f"<td>{seconds}</td><td>{_thumbnail(notebook, facts)}</td></tr>"
    )


def _thumbnail(notebook, facts):
    if not facts.get("figures"):
        return ""
    figure = facts["figures"][0]
    source = f"{notebook.name}/figures/{figure['id']}.png"
    return f'<img src="{source}" alt="{escape(figure["alt"])}" loading="lazy">'

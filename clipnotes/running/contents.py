"""The contents of a study: what it is about and its answer, then each notebook's question, key takeaway, figure and status."""

import os
from pathlib import Path

from clipnotes.errors import ClipnotesError
from clipnotes.running.page import TEMPLATES, write_html
from clipnotes.series.notebooks import Notebook, series
from clipnotes.series.run_folder import read_facts

ANSWER = "13_results"  # the notebook that holds all claims against the numbers


def check_contents(out: str | Path) -> None:
    """ClipnotesError if OUT/index.html is not one that `write_contents` wrote."""
    page = Path(out) / "index.html"
    if not os.path.lexists(page):
        return
    mark = b'<meta name="generator" content="clipnotes study">'
    if not page.is_file() or mark not in page.read_bytes()[:2000]:
        raise ClipnotesError(f"{page} is there already, and no clipnotes study made it so: choose another folder, or add "
                             "--force to overwrite it.")


def write_contents(out: str | Path, preset: str) -> None:
    """Write OUT/index.html over the whole series, from what lies in OUT/NAME/run.json, with links to the plain pages."""
    out = Path(out)
    entries = [entry(out, notebook) for notebook in series()]
    for each in entries:
        page = f"{each['name']}/notebook.html"
        each["link"] = page if (out / page).is_file() else None
        each["picture"] = each["figure"] and f"{each['name']}/figures/{each['figure']['id']}.png"
    write_html(out / "index.html", "clipnotes: the study", "<h1>clipnotes: the study</h1>\n" + contents_html(entries, preset))


def entry(study: Path, notebook: Notebook) -> dict:
    """What the contents say of one notebook; takeaway and figure are those that its author marked as key."""
    facts = read_facts(study / notebook.name)
    return {
        "name": notebook.name,
        "number": notebook.number,
        "question": notebook.question,
        "reproduces": notebook.facts.get("reproduces", "nothing"),
        "minutes": notebook.facts.get("minutes", "?"),
        "status": facts.get("status", "not run"),
        "seconds": facts.get("seconds"),
        "error": facts.get("error"),
        "takeaway": facts.get("key_takeaway"),
        "takeaways": facts.get("takeaways", []),
        "figure": next((figure for figure in facts.get("figures", []) if figure.get("key")), None),
    }


def contents_html(entries: list[dict], preset: str = "") -> str:
    """The list of `entries`, each with "link" and "picture" besides, as HTML; everything is escaped."""
    complete = [each for each in entries if each["status"] == "complete"]
    answer = next((each for each in complete if each["name"] == ANSWER), None)
    return TEMPLATES.get_template("contents.html.j2").render(entries=entries, preset=preset, answer=answer,
                                                             complete=len(complete))

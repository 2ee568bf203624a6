"""What Sphinx reads: the executed notebooks made ready for pages, the contents, and the gallery of figures."""

import base64
import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

from clipnotes.errors import ClipnotesError
from clipnotes.lab.explore import explorer_content, explorer_html
from clipnotes.paths import notebooks_dir
from clipnotes.running.contents import contents_html, entry
from clipnotes.running.outputs import readable
from clipnotes.running.page import templates_in
from clipnotes.series.notebooks import Notebook, series
from clipnotes.series.run_folder import MARK, read_facts

TEMPLATES = templates_in(Path(__file__).parent)
DRAWS = re.compile(r"\b(run\.(figure|explore)|show_sides)\(")
STARTS = re.compile(r"\blab\.start\(")
TO_NOTEBOOK = re.compile(r"\[([^\]]*)\]\(\d\d_\w+\.ipynb\)")


def write_sources(study: Path, folder: Path) -> None:
    """Write the book's sources into the new folder `folder`: NAME.ipynb, index.md, gallery.md and the files they link to."""
    notebooks = [notebook for notebook in series() if (study / notebook.name / "notebook.ipynb").is_file()]
    if not notebooks:
        raise ClipnotesError(f"No notebook of the series was run in {study}: run `clipnotes study --out {study}` first.")
    (folder / "extra").mkdir(parents=True)
    figures = []
    for notebook in notebooks:
        run = study / notebook.name
        drawn = figures_of(run, notebook)
        if drawn:
            copy_files(run / "figures", folder / "extra" / "figures" / notebook.name)
        ready = page_source(nbformat.read(run / "notebook.ipynb", as_version=4), drawn, folder)
        nbformat.write(ready, folder / f"{notebook.name}.ipynb")
        figures += drawn.values()
    guide = write_guide(folder)
    write_raw(folder, "gallery", "Figures by exhibit", render("gallery.html.j2", groups=by_exhibit(figures)))
    write_raw(folder, "index", "clipnotes: the study", contents(study, notebooks), toctree(notebooks, guide))


def copy_files(source: Path, target: Path) -> None:
    """Copy a folder of files without their modes, which not every file system takes."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)


def figures_of(run: Path, notebook: Notebook) -> dict[str, dict]:
    """{id: facts} of the figures in a run folder, with the addresses of their files and their size in pixels."""
    found = {}
    for facts in read_facts(run).get("figures", []):
        picture = run / "figures" / f"{facts['id']}.png"
        if not picture.is_file():
            continue
        width, height = Image.open(picture).size
        found[facts["id"]] = {"exhibit": "", "caption": ""} | facts | {
            "width": width, "height": height, "files": f"figures/{notebook.name}/{facts['id']}",
            "page": f"{notebook.name}.html", "number": notebook.number, "question": notebook.question,
            "anchor": anchor(facts.get("exhibit", ""))}
    return found


def page_source(notebook: nbformat.NotebookNode, figures: dict[str, dict], folder: Path) -> nbformat.NotebookNode:
    """The notebook with linked pictures in place of embedded ones, drawing code folded, and nothing that needs a kernel."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            cell.source = TO_NOTEBOOK.sub(r"\1", cell.source)  # a mention, which becomes a link where the book has the page
            continue
        tags = set(cell.metadata.get("tags", []))
        cell.metadata["tags"] = sorted(tags | folds(cell.source, tags))
        cell.outputs = readable(cell.outputs)
        for output in cell.outputs:
            mark = output.get("metadata", {}).get(MARK, {})
            if mark.get("figure") in figures:
                output.data = {"text/html": render("figure.html.j2", figure=figures[mark["figure"]])}
            if "explorer" in mark:
                output.data = {"text/html": with_files(output.data["text/html"], folder)}
    return notebook


def folds(source: str, tags: set[str]) -> set[str]:
    """What MyST-NB is to fold of a code cell: imports and the table of parameters together, the code of drawings; parameters
    that the study put in are in that table, and not shown twice."""
    if "injected-parameters" in tags:
        return {"remove-cell"}
    if STARTS.search(source):
        return {"hide-cell"}
    return {"hide-input"} if DRAWS.search(source) else set()


def with_files(html: str, folder: Path) -> str:
    """An explorer's script with the addresses of its pictures, which become files: a page loads those that are looked at."""
    content = explorer_content(html)
    (folder / "extra" / "explorers").mkdir(exist_ok=True)
    for state in content["states"]:
        picture = base64.b64decode(state[0].split(",", 1)[1])
        state[0] = f"explorers/{hashlib.sha256(picture).hexdigest()[:16]}.webp"
        (folder / "extra" / state[0]).write_bytes(picture)
    return explorer_html(content)


def by_exhibit(figures: list[dict]) -> list[dict]:
    """Groups {"exhibit", "anchor", "figures"}: the papers' exhibits in order, then the figures that redraw none."""
    names = sorted({figure["exhibit"] for figure in figures}, key=lambda name: (not name, exhibit_order(name)))
    return [{"exhibit": name, "anchor": anchor(name), "figures": [figure for figure in figures if figure["exhibit"] == name]}
            for name in names]


def exhibit_order(name: str) -> list[tuple]:
    """Numbers in an exhibit's name count as numbers: Fig. 2 before Fig. 10."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]


def anchor(exhibit: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", exhibit.lower()).strip("-") or "further"


def contents(study: Path, notebooks: list[Notebook]) -> str:
    """The list of the whole series, with links to the pages that there are."""
    there = {notebook.name for notebook in notebooks}
    entries = [entry(study, notebook) for notebook in series()]
    for each in entries:
        each["link"] = f"{each['name']}.html" if each["name"] in there else None
        each["picture"] = each["figure"] and f"figures/{each['name']}/{each['figure']['id']}.png"
    return contents_html(entries)


def toctree(notebooks: list[Notebook], guide: list[str]) -> str:
    lines = [f"{notebook.number} {notebook.question} <{notebook.name}>" for notebook in notebooks]
    return "\n".join(["```{toctree}", ":hidden:", "", *lines, "Figures by exhibit <gallery>", *guide, "```", ""])


def write_guide(folder: Path) -> list[str]:
    """Copy the pages of notebooks/guide; links to files of the repository become their names, since a book stands alone."""
    pages = sorted((notebooks_dir() / "guide").glob("*.md"))
    for page in pages:
        text = re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", page.read_text(encoding="utf-8"))
        (folder / f"guide_{page.stem}.md").write_text(text, encoding="utf-8")
    return [f"guide_{page.stem}" for page in pages]


def write_raw(folder: Path, name: str, title: str, html: str, markdown: str = "") -> None:
    """A page NAME.md whose text is HTML: read from a file, it meets no Markdown."""
    (folder / f"{name}.html").write_text(html, encoding="utf-8")
    page = f"# {title}\n\n```{{raw}} html\n:file: {name}.html\n```\n\n{markdown}"
    (folder / f"{name}.md").write_text(page, encoding="utf-8")


def render(template: str, **values: Any) -> str:
    return TEMPLATES.get_template(template).render(**values)

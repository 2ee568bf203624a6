"""The book: a site over executed notebooks, without a kernel, without a network, with a place for every figure."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("myst_nb")
pytest.importorskip("sphinx_book_theme")

from docutils import nodes  # noqa: E402

from clipnotes.book.build import build_book  # noqa: E402
from clipnotes.book.extension import linked  # noqa: E402
from clipnotes.book.repository import buttons  # noqa: E402
from clipnotes.book.sources import by_exhibit, page_source  # noqa: E402
from clipnotes.errors import ClipnotesError  # noqa: E402
from clipnotes.lab.explore import explorer_content  # noqa: E402
from clipnotes.running.study import study  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent / "browser"))
import check_book  # noqa: E402
import chromium  # noqa: E402
from explorers import wrong_states  # noqa: E402

PROSE = """## What notebook 02 adds

As notebook 02 and notebooks 01 to 09 say, $x_i < y$ and

$$\\frac{1}{n} \\sum_i x_i$$

| | |
|---|---|
| needs | nothing |

<details><summary>Hint</summary>

*Look* at `notebook 02`.
</details>
"""


@pytest.fixture(scope="module")
def toy_study(tmp_path_factory):
    """The folder of a study of two notebooks, the second of which failed."""
    from conftest import PARAMETERS, write_notebook

    folder = tmp_path_factory.mktemp("series")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPNOTES_NOTEBOOKS", str(folder / "notebooks"))
        patch.chdir(folder)
        for name in ("01_toy", "02_more"):
            path = write_notebook(folder / "notebooks" / f"{name}.ipynb", PARAMETERS)
            notebook = nbformat.read(path, as_version=4)
            notebook.cells.insert(1, nbformat.v4.new_markdown_cell(PROSE, id="prose"))
            nbformat.write(notebook, path)
        (folder / "notebooks" / "presets").mkdir()
        (folder / "notebooks" / "presets" / "pocket.yaml").write_text("# nothing\n")
        Path("02_more.break").touch()
        study(out="study")
        yield folder / "study"


@pytest.fixture(scope="module")
def book(toy_study):
    return build_book(toy_study, repository="https://github.com/someone/clipnotes.git").parent


def text(book, page):
    return (book / page).read_text(encoding="utf-8")


def test_every_page_is_there_and_asks_no_other_host(book):
    pages = sorted(path.name for path in book.glob("*.html"))
    assert {"01_toy.html", "02_more.html", "gallery.html", "index.html", "search.html"} <= set(pages)
    for page in pages:
        assert not re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', text(book, page)), page


def test_a_page_has_formulas_links_and_no_empty_heads(book):
    page = text(book, "01_toy.html")
    assert page.count("<math") == 2 and "<mfrac>" in page
    article = page[page.index("<article"):page.index("</article")]
    prose = article[article.index("As notebook"):article.index("<table")]
    assert re.findall(r'href="([^"]*)"', prose) == ["02_more.html", "#"], "a page may mention itself"
    assert "<h2>What notebook 02 adds" in article and '<span class="pre">02</span>' in article, "no links in headings and code"
    assert not re.search(r"<th[^>]*>\s*(<p>\s*</p>)?\s*</th>", article)


def test_a_notebook_s_page_has_buttons_for_the_repository_that_is_named(book, monkeypatch):
    page = text(book, "01_toy.html")
    assert "https://mybinder.org/v2/gh/someone/clipnotes/" in page
    (colab,) = set(re.findall(r'href="(https://colab[^"]*)"', page))
    assert re.fullmatch(r"https://colab.research.google.com/github/someone/clipnotes/blob/[^/]+/notebooks/01_toy.ipynb", colab)
    assert "mybinder" not in text(book, "index.html")
    origin = "git@github.com:else/fork.git"
    monkeypatch.setattr("clipnotes.book.repository.git", lambda *words: origin if words[0] == "remote" else "side")
    assert buttons()["repository_url"] == "https://github.com/else/fork" and buttons()["repository_branch"] == "side"
    origin = "/srv/mirrors/clipnotes"
    assert buttons() == {}
    with pytest.raises(ClipnotesError, match="^Option --repository is 'ftp://x', but must be an address on GitHub"):
        buttons("ftp://x")


def test_figures_have_anchor_caption_alternative_text_and_files(book):
    page = text(book, "01_toy.html")
    figure = re.search(r'<figure id="fig1_toy".*?</figure>', page, re.S)[0]
    assert 'alt="A line that rises with the seed."' in figure and "Toy." in figure and "data:image" not in figure
    for target in re.findall(r'(?:src|href)="([^"#]+)"', figure):
        assert (book / target.split("#")[0]).is_file(), target
    assert 'href="gallery.html#b-fig-4"' in figure
    gallery = text(book, "gallery.html")
    assert '<h2 id="b-fig-4">Paper B, Fig. 4</h2>' in gallery and 'href="01_toy.html#fig1_toy"' in gallery


def test_an_explorer_loads_its_pictures_from_files(book):
    page = text(book, "01_toy.html")
    content = explorer_content(re.search(r'<script type="application/json">.*?</script>', page, re.S)[0])
    assert [alt for _, alt in content["states"]] == [f"A line that rises to {height}." for height in (1, 2, 3)]
    assert len({source for source, _ in content["states"]}) == 3
    assert all((book / source).is_file() for source, _ in content["states"])


def test_parameters_and_results_are_seen_first_the_code_of_drawings_is_folded(book):
    page = text(book, "01_toy.html")
    cells = re.findall(r'<div class="cell ([^"]*)">', page)
    folded = [re.findall(r"hide-\w+", cell) for cell in cells]
    assert folded == [[], ["hide-cell"], ["hide-input"], []]  # parameters, start, a drawing, the end
    assert "# Parameters" not in page, "what papermill put in stands in the table of parameters"


def test_the_index_shows_what_its_author_marked_and_escapes_it(book):
    page = text(book, "index.html")
    assert "2 seeds &amp; no &lt;bold&gt; claim" in page and 'src="figures/01_toy/fig1_toy.png"' in page
    assert "1 of 2 notebooks complete" in page and "KeyError" in page and 'href="02_more.html"' in page


def test_a_study_named_relative_to_here_has_its_figures(toy_study, monkeypatch):
    monkeypatch.chdir(toy_study.parent)
    page = build_book(toy_study.name, "relative/book")
    shown = re.findall(r'<img src="(figures/[^"]+)"', "".join(path.read_text() for path in page.parent.glob("*.html")))
    assert shown and all((page.parent / picture).is_file() for picture in shown)


def test_a_book_replaces_a_book_and_nothing_else(toy_study, book, tmp_path):
    before = (book / "index.html").stat().st_mtime_ns
    build_book(toy_study)
    assert (book / "index.html").stat().st_mtime_ns > before
    assert not list(toy_study.glob("book?*")), "nothing left over"
    (tmp_path / ".buildinfo").touch()  # another site of Sphinx's
    (tmp_path / "letter.txt").touch()
    with pytest.raises(ClipnotesError, match="holds something else than a book, which would be lost"):
        build_book(toy_study, tmp_path)
    with pytest.raises(ClipnotesError, match="No notebook of the series was run in .*nowhere"):
        build_book(tmp_path / "nowhere")


def test_numbers_of_notebooks_become_links():
    parts = list(linked("See notebooks 03 to 05, 07 and notebook 08; not 03.", {"03": "03_a", "05": "05_b", "08": "08_c"}))
    assert [part["reftarget"] for part in parts if not isinstance(part, nodes.Text)] == ["/03_a", "/05_b", "/08_c"]
    assert "".join(part.astext() for part in parts) == "See notebooks 03 to 05, 07 and notebook 08; not 03."


def test_links_to_notebook_files_become_mentions(tmp_path):
    """A file beside the notebook is none beside the page, and the book may lack it."""
    text = "See [notebook 07](07_noisy_labels.ipynb), [the data](guide/data.md)."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    assert page_source(notebook, {}, tmp_path).cells[0].source == "See notebook 07, [the data](guide/data.md)."


def test_exhibits_stand_in_the_papers_order():
    names = ["", "B, Table 2", "B, Fig. 10", "B, Fig. 2", "A, Fig. 1"]
    groups = by_exhibit([{"exhibit": name} for name in names])
    assert [group["exhibit"] for group in groups] == ["A, Fig. 1", "B, Fig. 2", "B, Fig. 10", "B, Table 2", ""]


@pytest.mark.skipif(chromium.program() is None, reason="no Chromium here")
def test_a_browser_finds_the_pages_whole(book):
    with chromium.Browser() as browser:
        reports = [check_book.visit(browser, (book / f"{name}.html").as_uri(), width=390, dark=dark)
                   for name, dark in (("index", False), ("01_toy", True), ("gallery", False))]
    assert not [line for report in reports for line in report["faults"]]
    assert reports[1]["math"] == 2
    (explorer,) = reports[1]["explorers"]
    assert [state["text"] for state in explorer["states"]] == [f"A line that rises to {height}." for height in (1, 2, 3)]


def test_a_state_of_an_explorer_that_is_not_whole_is_told():
    whole = {"text": "A line that rises.", "width": 7, "height": 5, "ink": [0.1, 0.1, 0.1, 0.1]}
    states = [whole | {"mark": "a"}, whole | {"mark": "b", "ink": [0.1, 0.1, 0.1, 0]}, whole | {"mark": "c", "text": ""},
              {"text": "A line that rises.", "error": "EncodingError"}]
    told = wrong_states([{"id": "e", "count": 4, "states": states}])
    assert len(told) == 4 and "several sizes" in told[0] and "state 2 of 4: a quarter of the picture is empty" in told[1]
    assert "state 3 of 4: no words" in told[2] and "state 4 of 4: EncodingError" in told[3]
    assert not wrong_states([{"id": "e", "count": 2, "states": [whole | {"mark": mark} for mark in "ab"]}])
    assert "never changes" in wrong_states([{"id": "e", "count": 2, "states": [whole | {"mark": "a"}] * 2}])[0]
    assert "1 of 2 states" in wrong_states([{"id": "e", "count": 2, "states": [whole | {"mark": "a"}]}])[0]

"""Build the book of a study. The site needs no network, and no server either: its pages open from the disk."""

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from clipnotes.book.repository import buttons
from clipnotes.book.sources import write_sources
from clipnotes.errors import ClipnotesError

HERE = Path(__file__).parent
MARK = ".clipnotes-book"  # in a folder that may be replaced
MISSING = "The book needs Sphinx, MyST-NB and a theme, which are not installed here: pip install 'clipnotes[book]'."


def build_book(study: str | Path, out: str | Path | None = None, repository: str = "") -> Path:
    """Write the book of the notebooks run in the folder `study` into `out` (STUDY/book); return its first page.

    What stood there is replaced when the new book is whole. repository: see `clipnotes.book.repository.buttons`.
    ClipnotesError: Sphinx is missing, no notebook was run in `study`, or `out` holds something else than a book.
    """
    options = buttons(repository)
    out = Path(out or Path(study) / "book")
    if out.exists() and any(out.iterdir()) and not (out / MARK).is_file():
        raise ClipnotesError(f"The folder {out} holds something else than a book, which would be lost: choose another one.")
    try:
        import myst_nb  # noqa: F401
        import sphinx_book_theme  # noqa: F401
    except ImportError:
        raise ClipnotesError(MISSING) from None
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.") as folder:
        source, pages = Path(folder).resolve() / "source", Path(folder) / "pages"  # Sphinx looks below the source else
        write_sources(Path(study), source)
        run_sphinx(source, pages, options)
        (pages / MARK).touch()
        if out.exists():
            shutil.rmtree(out)
        os.replace(pages, out)
    return out / "index.html"


def run_sphinx(source: Path, pages: Path, options: dict[str, Any]) -> str:
    """Sphinx without a conf.py: all settings are `settings`; `options` are further ones of the theme."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    warnings = io.StringIO()
    with patch_docutils(), docutils_namespace():
        app = Sphinx(source, None, pages, pages.with_name("doctrees"), "html", settings(source, options), status=None,
                     warning=warnings)
        app.build(force_all=True)
    if app.statuscode:
        raise ClipnotesError(f"Sphinx could not build the book: {warnings.getvalue().strip().rstrip('.')}.")
    return warnings.getvalue()


def settings(source: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Sphinx's configuration."""
    return {
        "project": "clipnotes",
        "author": "The clipnotes authors",
        "extensions": ["myst_nb", "clipnotes.book.extension"],
        "nb_execution_mode": "off",
        "nb_ipywidgets_js": {},  # would be loaded from another host
        "nb_code_prompt_show": "Show the cell's {type}",
        "nb_code_prompt_hide": "Hide the cell's {type}",
        "myst_enable_extensions": ["dollarmath", "amsmath"],
        "myst_heading_anchors": 3,
        "html_math_renderer": "mathml",
        "html_theme": "sphinx_book_theme",
        "html_title": "clipnotes",
        "html_static_path": [str(HERE / "static")],
        "html_css_files": ["book.css"],
        "html_js_files": ["book.js"],
        "html_extra_path": [str(source / "extra")],
        "exclude_patterns": ["extra"],
        "html_copy_source": False,
        "html_show_sourcelink": False,
        "html_theme_options": {
            "home_page_in_toc": True,
            "use_download_button": False,
            "navbar_persistent": [],  # a second search button
            "show_toc_level": 2,
            "navigation_with_keys": False,
            "pygments_light_style": "a11y-high-contrast-light",
            "pygments_dark_style": "a11y-high-contrast-dark",
        } | options,
    }

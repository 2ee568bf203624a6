"""Progress: a line of text in a notebook, one at a time, and no widget."""

import io

import pytest

from clipnotes import progress
from clipnotes.progress import progress_bar


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(progress, "in_kernel", lambda: True)


def test_a_notebook_shows_one_line_that_is_gone_at_the_end(kernel):
    written = io.StringIO()
    with progress_bar(total=32, desc="prompt tuning", file=written) as bar:
        bar.update(4)
        bar.refresh()
        assert written.getvalue().split("\r")[-1].strip() == "prompt tuning 4/32"
        with progress_bar(range(3), file=written) as inner:
            assert inner.disable and list(inner) == [0, 1, 2]
    assert "\n" not in written.getvalue() and not written.getvalue().split("\r")[-1].strip()


def test_elsewhere_it_is_the_bar_that_was_asked_for():
    written = io.StringIO()
    with progress_bar(total=2, desc="reading", file=written, leave=True) as bar:
        bar.update(2)
    assert "reading: 100%" in written.getvalue() and not progress.in_kernel()
    assert progress_bar(total=1, disable=True).disable

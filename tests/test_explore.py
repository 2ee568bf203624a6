"""Explorers: every combination is drawn, the script's order is the drawing's, and what stands without a script."""

import base64
import io
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from clipnotes.errors import ClipnotesError
from clipnotes.lab.explore import MOST, explore, explorer_content, explorer_html, menu, slider, thinned


@pytest.fixture
def shown(monkeypatch):
    """The bundles that were displayed."""
    bundles = []
    monkeypatch.setitem(plt.rcParams, "savefig.facecolor", "auto")  # the style of the study, if a test set it, has white
    monkeypatch.setattr("clipnotes.lab.display.get_ipython", lambda: True)
    monkeypatch.setattr("clipnotes.lab.display.display", lambda bundle, raw, metadata: bundles.append((bundle, metadata)))
    return bundles


def colour(figure, red, blue):
    figure.set_facecolor((red, 0, blue))
    return f"A picture with {red} red and {blue} blue."


def test_every_combination_has_its_picture_in_the_script_s_order(shown):
    controls = {"red": slider("Red", [0, 0.5, 1], start=0.5), "blue": menu("Blue", [0, 1])}
    explore("colours", colour, controls, "Colours.", size=(1, 1))
    (static, mark), (script, script_mark) = shown
    assert mark["clipnotes"] == {"figure": "colours"} and script_mark["clipnotes"] == {"explorer": "colours"}
    assert 'alt="A picture with 0.5 red and 0 blue."' in static["text/html"] and "Colours. A picture" in static["text/html"]
    content = explorer_content(script["text/html"])
    assert [control["texts"] for control in content["controls"]] == [["0", "0.5", "1"], ["0", "1"]]
    assert [control["start"] for control in content["controls"]] == [1, 0]
    for (source, text), (red, blue) in zip(content["states"], [(r, b) for r in (0, 0.5, 1) for b in (0, 1)], strict=True):
        assert text == f"A picture with {red} red and {blue} blue."
        pixel = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB").getpixel((5, 5))
        assert np.allclose(pixel, (255 * red, 0, 255 * blue), atol=1)


def test_text_of_a_run_cannot_end_the_script():
    html = explorer_html({"id": "a", "caption": "</script><script>alert(1)", "controls": [], "states": []})
    assert html.count("</script>") == 2 and explorer_content(html)["caption"] == "</script><script>alert(1)"
    assert json.dumps(explorer_content(html))


@pytest.mark.parametrize("start", [0, 17, 49])
def test_long_lists_are_thinned_evenly_and_keep_their_start(start):
    few = thinned({"a": slider("A", range(50), start=start), "b": menu("B", "xyz")})
    assert len(few["a"].values) * 3 <= MOST < (len(few["a"].values) + 1) * 3
    values = few["a"].values
    assert values[few["a"].start] == start and few["a"].texts == [str(value) for value in values]
    assert values == sorted(set(values)) and values[0] <= 1 and values[-1] >= 48 and max(np.diff(values)) <= 6


def test_mistakes_have_their_sentence(shown):
    with pytest.raises(ClipnotesError, match=r"The control 'Red' starts at 2; its values are: \[0, 1\]"):
        slider("Red", [0, 1], start=2)
    with pytest.raises(ClipnotesError, match="The control 'Red' starts at None; its values are: "):
        menu("Red", [])
    with pytest.raises(ClipnotesError, match="The explorer e returned None: return a sentence"):
        explore("e", lambda figure, a: None, {"a": slider("A", [1])})
    assert not shown


def test_pictures_are_drawn_outside_pyplot(shown):
    explore("plain", lambda figure, a: f"One picture of {a}.", {"a": menu("A", ["nothing"])}, size=(1, 1))
    assert not plt.get_fignums() and len(explorer_content(shown[1][0]["text/html"])["states"]) == 1

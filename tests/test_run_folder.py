"""The folder of a run: what is whole, and what another making may put into its files without harm."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import finish_toy, plan_sweep

from clipnotes.errors import ClipnotesError
from clipnotes.exhibits.gather import gather, read_gathered
from clipnotes.running.contents import write_contents
from clipnotes.running.execute import completed
from clipnotes.running.sweep import state
from clipnotes.series.notebooks import find
from clipnotes.series.run_folder import damage, read_facts, read_sweep, refuse_foreign, seal, write_facts

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("<script>")
values = st.recursive(scalars, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part),
                      max_leaves=8)
odd = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@st.composite
def changed(draw, whole):
    """A JSON value with one of its places, at any depth, taken out or replaced by anything."""
    if isinstance(whole, dict) and whole and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(whole)))
        rest = {name: value for name, value in whole.items() if name != key}
        return rest if not draw(st.integers(0, 3)) else rest | {key: draw(changed(whole[key]))}
    if isinstance(whole, list) and whole and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(whole) - 1))
        return whole[:place] + [draw(changed(whole[place]))] + whole[place + 1:]
    return draw(values)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found |= {tag, *(f"{tag} {name}" for name, _ in attributes if name.startswith("on"))}


def bear(folder):
    """Everything that reads a run in study/01_toy, which must refuse in one sentence or do its work."""
    table = gather([folder.parent], progress=False)
    assert table["metric"].notna().sum() in (0, 2) and (table["status"] == "complete").any() == table["value"].notna().any()
    assert completed(find("01"), {}, folder) is None or not damage(folder)
    assert state(find("01"), {}, folder) in ("done", "failed", "missing", "stale", "damaged")
    write_contents(folder.parent, "pocket")
    assert not Tags((folder.parent / "index.html").read_text()).found & {"script", "img onerror"}
    try:
        refuse_foreign(folder)
    except ClipnotesError as error:
        assert "choose another folder" in str(error)


@pytest.fixture
def run(toy_notebook):
    return finish_toy("study/01_toy")


def test_any_facts_are_borne(run):
    whole = read_facts(run)

    @odd
    @given(changed(whole))
    def bears(facts):
        (run / "run.json").write_text(json.dumps(facts))
        bear(run)

    bears()


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"null", b'"text"', b"7", b"NaN", b"[" * 5000 + b"]" * 5000, b'{"a": ' * 5000, b"\xff\xfe{}",
    bytes(100), b"9" * 5000, b'{"notebook": "\\ud800"}'])
def test_any_bytes_are_borne(run, content):
    (run / "run.json").write_bytes(content)
    bear(run)
    assert gather([run], progress=False)["status"].tolist() == ["damaged"] and not read_facts(run)
    assert re.match("(run.json in )?study/01_toy/run.json is (damaged or of another making: )?", damage(run))
    (run / "run.json").unlink()
    Path("study/sweep.json").write_bytes(content)
    with pytest.raises(ClipnotesError, match="sweep.json .*Delete it or add --force: the runs beside it are kept"):
        read_sweep("study")


@pytest.mark.parametrize("content", [
    b"", b"\xff\xfe", b"\0" * 50, b"a,b\n1\n1,2,3\n", b"notebook\n", b'"', b"value\n1\n", b"metric,value\n,\n"])
def test_any_results_are_borne_though_their_digest_fits(run, content):
    (run / "results.csv").write_bytes(content)
    write_facts(run, read_facts(run) | {"files": seal(run, read_facts(run)["files"])})
    assert not damage(run)
    table = gather([run], progress=False)
    assert table["status"].tolist() == ["damaged"] and table["error"].notna().all()


@odd
@given(st.binary(max_size=60) | st.text(alphabet='notebkmricvalu,"\n1.5', max_size=80).map(str.encode))
def test_any_table_is_borne(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("table") / "x.csv"
    file.write_bytes(content)
    with pytest.raises(ClipnotesError, match=r"x.csv (cannot be read as a table|has no column)"):
        read_gathered([file])


def test_a_table_with_numbers_that_are_none_is_refused(run, tmp_path):
    table = gather([run], progress=False)
    table.to_csv(tmp_path / "x.csv", index=False)
    assert read_gathered([tmp_path / "x.csv"])["value"].tolist() == [0.5, 0.75]
    for name, value in (("shots", "many"), ("shots", 1.5), ("seed", "1e400"), ("value", "high"), ("status", None)):
        table.astype(object).assign(**{name: value}).to_csv(tmp_path / "x.csv", index=False)
        with pytest.raises(ClipnotesError, match="x.csv cannot be read as a table"):
            read_gathered([tmp_path / "x.csv"])


def test_any_plan_is_borne(run):
    plan_sweep("study", "01_toy", {"01-abc": {"seeds": [1], "loss": "ce"}})
    whole = json.loads(Path("study/sweep.json").read_text())

    @odd
    @given(changed(whole))
    def bears(plan):
        Path("study/sweep.json").write_text(json.dumps(plan))
        try:
            table = gather(["study"], progress=False)
        except ClipnotesError as error:
            assert "sweep.json" in str(error)
        else:
            assert isinstance(table, pd.DataFrame)

    bears()

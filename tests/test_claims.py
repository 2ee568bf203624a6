"""The claims of both papers as effects: signs, sources, words."""

import re

import numpy as np
import pandas as pd
import pytest

from clipnotes.exhibits import claims, real_clip
from clipnotes.exhibits.gather import read_gathered
from clipnotes.paths import notebooks_dir
from clipnotes.series.notebooks import find
from clipnotes.series.run_folder import COLUMNS


def rows(notebook, metric="accuracy", **columns):
    """Records of one notebook: the cross product of lists is not taken, all lists have one length."""
    frame = pd.DataFrame(columns)
    return frame.assign(notebook=notebook, metric=metric, run="r", status="complete", seconds=1.0, version="0", error="",
                        model=frame.get("model", "pocket-vit")).reindex(columns=[
                            *COLUMNS, *[c for c in ("features", "epoch", "run", "status", "seconds", "version", "p_source")]])


def curve(method, loss, clean, noisy, dataset="a"):
    return rows("07_noisy_labels", dataset=[dataset] * 4, method=[method] * 4, loss=[loss] * 4, noise_rate=[0.0, 0.0, 0.5, 0.5],
                seed=[1, 2, 1, 2], shots=16, noise_kind="uniform", value=[clean, clean, noisy - 0.01, noisy + 0.01])


def claim(id):
    return next(each for each in claims.CLAIMS if each.id == id)


@pytest.fixture
def table():
    return pd.concat([curve("Prompt Tuning", "ce", 0.8, 0.7), curve("Linear Probe", "ce", 0.9, 0.5),
                      curve("Prompt Tuning", "gce", 0.8, 0.78), curve("Linear Probe", "gce", 0.9, 0.6)], ignore_index=True)


def test_effects_are_positive_where_the_paper_is_right(table):
    assert claim("B1a").pocket(table).to_dict() == {"a": pytest.approx(40 - 10)}
    assert claim("B2a").pocket(table).to_dict() == {"a": pytest.approx(8)}
    assert claim("B2b").pocket(table).to_dict() == {"a": pytest.approx(30 - 2)}
    swapped = table.assign(method=table["method"].map({"Prompt Tuning": "Linear Probe", "Linear Probe": "Prompt Tuning"}))
    assert claim("B1a").pocket(swapped).to_dict() == {"a": pytest.approx(-30)}


def test_a_table_without_the_runs_of_a_claim_gives_nothing(table):
    found = claims.effects(table)
    assert set(found[found["scale"] == "pocket"]["claim"]) == {"B1a", "B2a", "B2b", "B7b"}
    assert claim("B5").pocket(table) is None and claim("A2").pocket(table) is None


def test_the_overlap_claim_counts_gains_where_it_fell_and_losses_where_it_rose():
    sets, kinds = ["a", "b", "c"], ("original", "supervised adapters")
    area = {"original": [0.5, 0.5, 0.5], "supervised adapters": [0.4, 0.6, 0.4]}
    accuracy = {"original": [0.6, 0.6, 0.6], "supervised adapters": [0.65, 0.58, 0.57]}
    parts = [rows("05_does_overlap_explain_accuracy", "overlap", dataset=sets, method="CLIP image features", features=kind,
                  value=area[kind], p_source="x") for kind in kinds]
    for method in ("Tip-Adapter", "nearest class mean"):
        parts += [rows("05_does_overlap_explain_accuracy", dataset=sets, method=method, features=kind, value=accuracy[kind],
                       shots=16, seed=1, p_source="x") for kind in kinds]
    table = pd.concat(parts, ignore_index=True)
    assert claim("A2").pocket(table).to_dict() == pytest.approx({"a": 10, "b": -10, "c": 10})
    assert claim("A4").pocket(table).to_dict() == pytest.approx({"a": 5, "b": 2, "c": -3})


def test_words():
    assert claims.in_words(pd.Series([1.0, 2.0, -1.5])) == "+0.5 ± 4.5, 2 of 3"
    assert claims.in_words(pd.Series([14.0])) == "+14.0, 1 of 1"
    assert claims.in_words(pd.Series([14.0, 16.0]), sided=False) == "15.0 ± 12.7, 2 sets"
    assert claims.in_words(pd.Series(dtype=float)) == ""


def test_real_clip_agrees_with_the_tables_it_comes_from():
    areas = real_clip.read("overlap").set_index(["features", "dataset"])["area"]
    effect = claim("A2").real()
    assert effect["DTD"] == pytest.approx(100 * (areas["original", "dtd"] - areas["whitening", "dtd"]))
    assert set(effect.index) == set(claims.REAL_NAMES.values())
    assert len(claims.grid()) == 6 and (claim("B2a").real() > 0).sum() >= 5


def test_every_claim_of_the_shipped_table_has_effects_and_points_to_a_notebook():
    found = claims.effects(read_gathered([notebooks_dir() / "sweeps" / "pocket.csv"]))
    words = claims.results(found)
    assert list(words["claim"]) == [each.id for each in claims.CLAIMS] and words["claim"].is_unique
    assert (words["pocket"] != "").all() and np.isfinite(found["value"]).all()
    for each in claims.CLAIMS:
        notebook, figure = re.fullmatch(r"(\d\d), Fig\. (\w+)", each.see).groups()
        code = "\n".join(cell["source"] for cell in find(notebook).content["cells"] if cell["cell_type"] == "code")
        assert f'"fig{figure}_' in code and (each.source != "") == (each.real() is not None), each.see

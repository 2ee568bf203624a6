"""Pseudo-labels: the published selection, both kinds by hand, bad input."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import GOLDEN, says
from hypothesis import given, settings
from hypothesis import strategies as st

from clipnotes.methods.pseudo import ensemble_logits, select_pseudo_labels


@pytest.mark.parametrize("scores", ["probabilities", "logits"])
def test_published_selection(scores):
    with np.load(GOLDEN / "upl_topk.npz", allow_pickle=False) as file:
        scores = file[scores]
    record = json.loads((GOLDEN / "upl_topk.json").read_text())
    for k in record["K"]:
        expected = record["results"][f"probabilities_in/K={k}"]
        chosen = select_pseudo_labels(scores, None if k == -1 else k)
        assert chosen.indices.tolist() == expected["selected_index"] and chosen.labels.tolist() == expected["label"]
        assert np.allclose(chosen.confidence, expected["confidence"], rtol=0, atol=1e-6)
        assert chosen.never_predicted == [2]
    assert record["predicted_count_per_class"] == chosen.counts.tolist() and chosen.short == {}
    assert select_pseudo_labels(scores, 8).short == {0: 6, 4: 1}


SCORES = torch.tensor([[3.0, 0, 0], [5, 0, 0], [4, 0, 0], [0, 1, 0], [2, 0, 0]])


def test_a_frame_chooses_what_its_array_does():
    scores = np.random.default_rng(0).dirichlet(np.ones(5), 3)
    frame, array = select_pseudo_labels(pd.DataFrame(scores), 2), select_pseudo_labels(scores, 2)
    assert torch.equal(frame.indices, array.indices) and torch.equal(frame.counts, array.counts)


def test_by_hand():
    chosen = select_pseudo_labels(SCORES, 2)
    assert chosen.indices.tolist() == [1, 2, 3] and chosen.labels.tolist() == [0, 0, 1] and len(chosen) == 3
    assert torch.equal(chosen.confidence, SCORES.softmax(1).max(1).values[[1, 2, 3]])
    assert chosen.never_predicted == [2] and chosen.short == {1: 1}
    assert chosen.accuracy([9, 0, 2, 1, 9]) == 2 / 3
    tie = select_pseudo_labels(torch.tensor([[1.0, 0]] * 5), 3)
    assert tie.indices.tolist() == [0, 1, 2]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_random_selection(seed, k):
    scores = torch.randn(50, 4, generator=torch.Generator().manual_seed(seed)) * torch.tensor([1, 1, 1, 0.1])
    chosen, all_rows = select_pseudo_labels(scores, k, "random", seed), select_pseudo_labels(scores, None)
    assert torch.equal(chosen.counts, all_rows.counts.clamp(max=k))
    assert len(set(chosen.indices.tolist())) == len(chosen)
    assert torch.equal(chosen.labels, scores.argmax(1)[chosen.indices]) and (chosen.labels.diff() >= 0).all()
    assert torch.equal(select_pseudo_labels(scores, k, "random", seed).indices, chosen.indices)


def test_random_selection_is_uniform_and_less_sure():
    scores = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    drawn = torch.cat([select_pseudo_labels(scores, 16, "random", seed).indices for seed in range(300)])
    counts = torch.bincount(drawn, minlength=400).double()
    assert len(counts) == 400 and 19 < counts.mean() < 29 and counts.max() < 55  # 300 * 16 / 200 each
    sure = select_pseudo_labels(scores, 16)
    assert sure.confidence.min() > select_pseudo_labels(scores, 16, "random").confidence.mean()


def test_ensemble_is_the_mean_of_logits():
    assert ensemble_logits([SCORES, -SCORES, np.zeros((5, 3), np.float32)]).abs().max() == 0
    assert torch.equal(ensemble_logits([SCORES]), SCORES)


def test_bad_input():
    with says("^kind = 'best' is unknown; choose 'confident' or 'random'.$"):
        select_pseudo_labels(SCORES, 2, "best")
    with says("^k = 0 is out of range; it must be a whole number of 1 or more or None.$"):
        select_pseudo_labels(SCORES, 0)
    with says(r"^Scores have shape \[5\]; give zero-shot logits or probabilities \[N, C\].$"):
        select_pseudo_labels(SCORES[:, 0])
    with says("^1 rows of scores hold NaN or infinite values; compute them again.$"):
        select_pseudo_labels(torch.cat([SCORES, torch.full((1, 3), torch.nan)]))
    with says("^k = 1.5 is no whole number"):
        select_pseudo_labels(SCORES, 1.5)
    with says("^seed = -1 is out of range"):
        select_pseudo_labels(SCORES, 2, "random", seed=-1)
    with says("^true_y holds values of type float64; labels must be whole numbers"):
        select_pseudo_labels(SCORES, 2).accuracy([0.5] * 5)
    with says("^3 true labels, but row 3 was chosen; give the labels of all images that were scored.$"):
        select_pseudo_labels(SCORES, 2).accuracy([0, 0, 1])
    with says(r"^Members of shapes \[\(4, 3\), \(5, 3\)\]; an ensemble needs logits of one shape"):
        ensemble_logits([SCORES, SCORES[1:]])

"""Methods under wrong labels on original and corrected features: who learns from what, and what is told of it."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import says

from clipnotes.analysis.noisy_methods import ALONE, METHODS, ORIGINAL_ONLY, PROBES, learns, needs_text, noisy_methods
from clipnotes.analysis.robustness import labels_by_people, noisy_shots
from clipnotes.analysis.trust import auroc, trust, trust_histograms, trust_table
from clipnotes.data import FeatureBank, load_task
from clipnotes.data.bank import FeatureSplit
from clipnotes.methods import NoisyMeans, RobustProbe, SGDConfig, TipAdapter


def banks(text=True, parts=("train", "val", "test"), C=5, d=12):
    """{"blobs": {"original": bank, "whitening": the same turned round}}."""
    g = torch.Generator().manual_seed(0)
    centres, splits = F.normalize(torch.randn(C, d, generator=g), dim=1), {}
    for part in parts:
        y = torch.arange(C).repeat_interleave(20)
        splits[part] = FeatureSplit(F.normalize(centres[y] + torch.randn(len(y), d, generator=g) / d**0.5, dim=1), y)
    turned = {part: FeatureSplit(split.x.flip(1), split.y) for part, split in splits.items()}
    names = [str(c) for c in range(C)]
    return {"blobs": {"original": FeatureBank("blobs", splits, names, centres if text else None),
                      "whitening": FeatureBank("blobs", turned, names)}}


def test_every_method_runs_and_turned_features_change_nothing():
    """Means, caches and probes from zero see only cosines, not which axis is which."""
    table = noisy_methods(banks(), rates=(0.0, 0.5), seeds=(1,), shots=8, logit_scale=20.0, progress=False, sgd=SGDConfig(3))
    assert set(table["method"]) == set(METHODS) and table["accuracy"].between(0, 1).all()
    assert not set(table[table["features"] == "whitening"]["method"]) & ORIGINAL_ONLY
    pairs = table.pivot(index=["method", "noise_rate"], columns="features", values="accuracy").dropna()
    from_zero = [name for name in ALONE if "APE" not in name] + [name for name, (_, init) in PROBES.items() if init == "zero"]
    pairs = pairs[pairs.index.get_level_values("method").isin(from_zero)]
    assert len(pairs) >= 20 and (pairs["original"] - pairs["whitening"]).abs().max() < 0.011


def test_rows_are_what_the_methods_alone_give():
    table = noisy_methods(banks(), ["soft means", "Tip-Adapter, soft labels", "forward correction"], (0.5,), (2,), shots=8,
                          logit_scale=20.0, progress=False, sgd=SGDConfig(3)).set_index(["method", "features"])["accuracy"]
    bank = banks()["blobs"]["original"]
    noisy, test = noisy_shots(bank, 8, 0.5, seed=2), (bank.test.unit(), bank.test.y)
    x = bank.train.unit()[noisy.indices]
    assert table["soft means", "original"] == NoisyMeans(noisy.rate).fit(x, noisy.labels).score(*test)
    soft = NoisyMeans().fit(x, noisy.labels).labels_
    tip = TipAdapter(logit_scale=20.0).fit(x, soft, bank.text)
    tip.search(bank.val.unit(), bank.val.y, betas=(1.0, 2.0, 4.0, 8.0, 16.0))
    assert table["Tip-Adapter, soft labels", "original"] == tip.score(*test)
    probe = RobustProbe("forward", noisy.rate, init="zero", scale=20.0, sgd=SGDConfig(3), seed=2).fit(x, noisy.labels)
    assert table["forward correction", "original"] == pytest.approx(probe.score(*test), abs=0.011)


def test_arguments_may_be_used_up_by_reading_them():
    two = banks() | {"again": banks()["blobs"]}
    given = {"methods": ["class means", "soft means"], "rates": [0.0, 0.5], "seeds": [1, 2]}
    tables = [noisy_methods(two, **{name: make(values) for name, values in given.items()}, shots=4, progress=False)
              for make in (list, iter)]
    pd.testing.assert_frame_equal(*(table.drop(columns="seconds") for table in tables))
    pd.testing.assert_frame_equal(*(trust_histograms(two, seeds=make([1, 2]), shots=4) for make in (list, iter)))


def test_methods_that_lack_what_they_need_are_left_out():
    few = banks(text=False, parts=("train", "test"))
    bare = noisy_methods(few, rates=(0.25,), seeds=(1,), shots=8, progress=False, sgd=SGDConfig(1))
    assert "soft means" in set(bare["method"]) and not [m for m in bare["method"] if needs_text(m) or "cache" in m]
    with says("Method 'hope' is unknown; choose from class means"):
        noisy_methods(banks(), ["hope"])


def test_an_annotators_logits_decide_the_labels():
    bank = banks()["blobs"]["original"]
    logits = torch.zeros(len(bank.train.y), 5)
    logits[:, 3] = 9.0  # somebody who sees class 3 everywhere
    noisy = noisy_shots(bank, 8, 0.5, "annotator", 1, logits)
    assert (noisy.labels[noisy.is_noisy] == 3).all() and noisy.rate == pytest.approx(0.5)
    with says('Noise kind "annotator" needs class texts'):
        noisy_shots(banks(text=False)["blobs"]["original"], 8, 0.5, "annotator")


def test_trust_tells_right_labels_from_wrong_ones():
    bank = banks()["blobs"]["original"]
    table = trust(bank, noisy_shots(bank, 16, 0.4, seed=1))
    right, wrong = (table[table["right"] == each]["trust"].to_numpy() for each in (True, False))
    assert auroc(table) == pytest.approx(np.mean(right[:, None] > wrong) + np.mean(right[:, None] == wrong) / 2)
    assert auroc(table) > 0.8
    assert np.isnan(auroc(pd.DataFrame({"right": [True, True], "trust": [0.1, 0.9]})))


def test_tables_of_trust():
    """One row a draw; the histograms hold every image of a rate once, right and wrong ones apart."""
    table = trust_table(banks(), rates=(0.0, 0.5), seeds=(1, 2), shots=8)
    assert len(table) == 2 * 2 * 2 and table["auroc"].isna().tolist() == [rate == 0 for rate in table["noise_rate"]]
    assert (table["rho_error"] > 0).any() and ((table["rho"] - table["true_rate"]).abs() < 0.35).all()
    counts = trust_histograms(banks(), 0.5, seeds=(1, 2), shots=8, bins=10)
    sums = counts.groupby("features")[["right", "wrong"]].sum()
    assert (sums == 2 * 5 * 8 / 2).all().all() and counts["bin"].between(0, 9).all()
    top = counts[counts["bin"] == 9]
    assert (top["right"] > top["wrong"]).all()


def test_labels_by_people_are_taken_as_they_are():
    bank = banks()["blobs"]["original"]
    people = torch.where(torch.arange(100) % 4 == 0, (bank.train.y + 2) % 5, bank.train.y)
    noisy = noisy_shots(bank, 8, 0.0, "human", 1, people)
    assert torch.equal(noisy.labels, people[noisy.indices]) and torch.equal(noisy.is_noisy, noisy.indices % 4 == 0)
    table = trust_table(banks(), [0.0], [1], "human", 8, {"blobs": people})
    assert (table["true_rate"] == noisy.rate).all() and table["auroc"].notna().all()
    with says('Noise kind "human" needs the labels that people gave'):
        noisy_shots(bank, 8, 0.0, "human")
    with says("has no labels by people; cifar10 and cifar100 have"):
        labels_by_people(load_task("digits"), "worse_label")


def test_what_is_trained_step_by_step():
    trained = {method for method in METHODS if learns(method)}
    assert {"LP++", "text-initialised probe, early stopping", *PROBES} == trained

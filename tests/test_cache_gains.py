"""Accuracies of the cache models over draws, with original and corrected features of the same images."""

import numpy as np
import pandas as pd
import pytest
import torch

from clipnotes.analysis.cache_gains import ALL_CACHE_MODELS, cache_accuracies, fit_cache_model, paired_gains, shifted_accuracies
from clipnotes.data import FeatureBank
from clipnotes.data.bank import FeatureSplit
from clipnotes.data.images import SPLITS
from clipnotes.errors import ClipnotesError
from clipnotes.methods import TipAdapter, TipAdapterF, Whitening, ZeroShot


def blobs(name="blobs", text=True):
    """Four classes of 12 features each a split, far from what their texts say."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 8, generator=g)
    y = torch.arange(48) % 4
    splits = {split: FeatureSplit(centres[y] + 0.8 * torch.randn(48, 8, generator=g), y) for split in SPLITS}
    texts = torch.nn.functional.normalize(centres + 2 * torch.randn(4, 8, generator=g), dim=1)
    return FeatureBank(name, splits, list("abcd"), text=texts if text else None)


@pytest.fixture(scope="module")
def banks():
    plain = blobs()
    whitening = Whitening().fit(plain.train.x)
    moved = {split: FeatureSplit(whitening.transform(part.x), part.y) for split, part in plain.splits.items()}
    return {"original": plain, "whitening": FeatureBank("blobs", moved, plain.classnames)}


@pytest.mark.parametrize("method", ALL_CACHE_MODELS)
def test_a_cache_model_is_fitted_on_train_and_searched_on_val(banks, method):
    bank, corrected = banks["original"], banks["whitening"]
    for other in (None, corrected):
        model = fit_cache_model(method, bank, other, logit_scale=20.0)
        own = ALL_CACHE_MODELS[method](logit_scale=20.0).fit(bank.train.x, bank.train.y, bank.text, other and other.train.x)
        own.search(bank.val.x, bank.val.y, other and other.val.x)
        beside = () if other is None else (other.test.x,)
        assert torch.equal(model.logits(bank.test.x, *beside), own.logits(bank.test.x, *beside))
    assert isinstance(fit_cache_model("Tip-Adapter-F", bank), TipAdapterF)


def test_accuracies_draw_by_draw(banks):
    table = cache_accuracies({"blobs": banks}, [2, 4], [1, 2], ["Tip-Adapter", "Tip-Adapter-F"], 20.0, progress=False)
    assert list(table) == ["dataset", "method", "features", "shots", "seed", "accuracy"] and len(table) == 1 + 2 * 2 * 2 * 2
    bank = banks["original"]
    zero = table[table["shots"] == 0]
    assert zero["method"].tolist() == ["zero-shot"]
    assert zero["accuracy"].item() == ZeroShot(bank.text).score(bank.test.x, bank.test.y)
    few = {kind: each.few_shot(4, 2) for kind, each in banks.items()}  # the same images of both
    model = TipAdapter(logit_scale=20.0).fit(few["original"].train.x, few["original"].train.y, bank.text,
                                             few["whitening"].train.x)
    model.search(bank.val.x, bank.val.y, banks["whitening"].val.x)
    row = table.set_index(["method", "features", "shots", "seed"])["accuracy"]
    assert row["Tip-Adapter", "whitening", 4, 2] == model.score(bank.test.x, bank.test.y, banks["whitening"].test.x)


def test_a_cache_tested_elsewhere_keeps_images_and_settings_of_its_source(banks):
    plain = banks["original"]
    turned = {kind: FeatureBank("turned", {split: FeatureSplit(-part.x, part.y) for split, part in bank.splits.items()},
                                bank.classnames, text=plain.text) for kind, bank in banks.items()}
    table = shifted_accuracies({"blobs": banks, "turned": turned}, "blobs", ["turned"], 4, [1, 2], 20.0)
    row = table.set_index(["dataset", "features", "seed"])["accuracy"]
    assert len(row) == 2 * 2 * 2
    at_home = cache_accuracies({"blobs": banks}, [4], [1, 2], ["Tip-Adapter"], 20.0, progress=False)
    for each in at_home[at_home["shots"] == 4].itertuples():
        assert row["blobs", each.features, each.seed] == each.accuracy
    few = plain.few_shot(4, 1)
    cache = fit_cache_model("Tip-Adapter", few, None, 20.0)
    assert row["turned", "original", 1] == cache.score(-plain.test.x, plain.test.y) < row["blobs", "original", 1]


def test_gains_are_paired_within_a_draw():
    rows = [{"dataset": "d", "method": m, "features": f, "shots": k, "seed": s, "accuracy": a}
            for m, f, k, s, a in [("zero-shot", "original", 0, 0, 0.1), ("A", "original", 4, 1, 0.5),
                                  ("A", "original", 4, 2, 0.6), ("A", "pca", 4, 2, 0.9), ("A", "pca", 4, 1, 0.4)]]
    gains = paired_gains(pd.DataFrame(rows))
    assert gains["seed"].tolist() == [2, 1]
    assert np.allclose(gains["original"], [0.6, 0.5]) and np.allclose(gains["gain"], [0.3, -0.1])


def test_bad_input(banks):
    with pytest.raises(ClipnotesError, match="^method = 'Tip' is unknown; choose 'Tip-Adapter', 'Tip-X', 'APE' or"):
        fit_cache_model("Tip", banks["original"])
    with pytest.raises(ClipnotesError, match="^Bank blobs has no text features, which zero-shot and every cache model need"):
        fit_cache_model("APE", blobs(text=False))

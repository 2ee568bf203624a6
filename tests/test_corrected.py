"""Which data sets corrections learn from and are tried on, and what is refused."""

import numpy as np
import pytest
import torch

from clipnotes.analysis.corrected import (
    EncodedSets,
    StoredSets,
    check_same_classes,
    corrected_banks,
    generic_adapters,
    n_learnt,
    parts_of,
    uses_labels,
)
from clipnotes.data import FeatureBank
from clipnotes.data.bank import FeatureSplit
from clipnotes.data.images import SPLITS
from clipnotes.errors import ClipnotesError
from clipnotes.methods import Centring, WithinClassWhitening


@pytest.fixture
def stored(tmp_path):
    """Feature files a, b (same classes), swapped (other order), few (two classes) and bare (no names) in a folder."""
    x, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    names = {"a": ["ant", "bee", "cat"], "b": ["ant", "bee", "cat"], "swapped": ["bee", "ant", "cat"], "few": ["ant", "bee"]}
    for name, classes in names.items():
        few = y < len(classes)
        FeatureBank(name, {split: FeatureSplit(x[few], y[few]) for split in SPLITS}, classes).save(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "bare.npz", test_x=x.numpy(), test_y=y.numpy())
    return StoredSets(tmp_path, ["a"])


def test_two_files_of_one_data_set_are_refused(stored):
    stored.bank("a").save(stored.folder / "a.safetensors")
    with pytest.raises(ClipnotesError, match="has both a.npz and a.safetensors; keep the one that is meant"):
        stored.bank("a")


def test_a_shifted_set_must_have_the_classes_of_the_source(stored):
    check_same_classes(stored, "a", ["b", "a"])
    for name, message in (("few", "few has 2 classes, but a has 3"), ("swapped", "has the class 'bee' where a has 'ant'"),
                          ("bare", "bare has the class '0' where a has 'ant'")):
        with pytest.raises(ClipnotesError, match=message):
            check_same_classes(stored, "a", ["b", name])


def test_a_file_without_names_has_its_labels_for_names_and_nothing_to_compare_is_refused(stored):
    assert stored.bank("bare").classnames == stored.classnames("bare") == ["0", "1", "2"]
    assert stored.bank("few").classnames == ["ant", "bee"]
    with pytest.raises(ClipnotesError, match="^There is no data set to compare: name one"):
        corrected_banks(stored, [], ["whitening"])


def test_with_a_model_there_is_one_generic_set(clip):
    sets = EncodedSets(clip, ["digits"], progress=False)
    check_same_classes(sets, "digits", ["digits"])
    assert not sets.banks, "nothing was encoded"
    with pytest.raises(ClipnotesError, match=r"Generic is \['digits', 'pocket-pairs'\], but with a model .* one generic set"):
        EncodedSets(clip, ["digits", "pocket-pairs"])


def test_parts_of_a_correction_and_their_need_of_labels():
    assert parts_of("supervised adapters + pca") == ("supervised adapters", ["pca"])
    assert parts_of("pca+whitening") == (None, ["pca", "whitening"]) and parts_of("self-supervised adapters")[1] == []
    assert [uses_labels(name) for name in ("whitening", "pca + feature adapter", "supervised adapters", "centring")] == [
        False, True, True, False]
    for name in ("pca + supervised adapters", "magic", "", "pca + "):
        with pytest.raises(ClipnotesError, match=r"^Correction '.*' in '.*' is unknown; give parts joined by \+"):
            parts_of(name)


def test_corrections_learn_from_generic_features_alone_and_in_turn(stored):
    banks = corrected_banks(stored, ["b"], ["centring", "centring + within-class whitening"])
    x, y = stored.generic()
    centring = Centring().fit(x)
    whitening = WithinClassWhitening().fit(centring.transform(x), y)
    bank = stored.bank("b")
    for split in SPLITS:
        part = bank.splits[split].x
        assert torch.equal(banks["b"]["original"].splits[split].x, part)
        assert torch.equal(banks["b"]["centring"].splits[split].x, centring.transform(part))
        both = banks["b"]["centring + within-class whitening"].splits[split].x
        assert torch.equal(both, whitening.transform(centring.transform(part)))
    assert banks["b"]["centring"].text is None  # texts do not go through, so they would no longer fit


def test_numbers_learnt_are_those_that_are_kept(stored):
    assert n_learnt(stored, "centring") == 4, "a mean of four numbers"
    assert n_learnt(stored, "pca") == 4 + 2 * 4, "and half of the axes"
    assert n_learnt(stored, "centring + pca") == 4 + 4 + 2 * 4


def test_unknown_recipes_of_adapters_are_refused(clip):
    with pytest.raises(ClipnotesError, match="^recipe = 'big' is unknown; choose 'paper' or 'pocket'.$"):
        generic_adapters(clip, None, "supervised adapters", recipe="big")

"""What corrected features do to the cache models: accuracies of the plain and the ++ forms on the same images (paper A)."""
from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from clipnotes.checks import OneOf
from clipnotes.data import FeatureBank
from clipnotes.methods import APE, TipAdapter, TipAdapterF, TipX, ZeroShot

CACHE_MODELS = {"Tip-Adapter": TipAdapter, "Tip-X": TipX, "APE": APE}  # paper A's
ALL_CACHE_MODELS = CACHE_MODELS | {"Tip-Adapter-F": TipAdapterF}


def fit_cache_model(method: str, bank: FeatureBank, corrected: FeatureBank | None = None,
                    logit_scale: float = 100.0) -> TipAdapter:
    """A cache model on the training rows of a bank, its settings searched on the validation rows.

    method: "Tip-Adapter", "Tip-X", "APE" or "Tip-Adapter-F". corrected: a bank of the same images with other features, for the
    ++ form. Raises ClipnotesError for another method and for banks that lack texts or are not of the same images.
    """
    OneOf(*ALL_CACHE_MODELS)(method, "method")
    keys, val_x = (corrected.train.x, corrected.val.x) if corrected else (None, None)
    given = bank.train.x, bank.train.y, bank.text_features()
    model = ALL_CACHE_MODELS[method](logit_scale=logit_scale).fit(*given, affinity_keys=keys)
    return model.search(bank.val.x, bank.val.y, val_x)


def cache_accuracies(banks: dict[str, dict[str, FeatureBank]], shots: Sequence[int], seeds: Sequence[int],
                     methods: Sequence[str] = tuple(CACHE_MODELS), logit_scale: float = 100.0,
                     progress: bool = True) -> pd.DataFrame:
    """Test accuracy in [0, 1] of every method, number of shots, draw and kind of features: a tidy DataFrame.

    banks: {data set: {"original": bank, name of a correction: bank of the same images, ...}} with the whole training
    split. Columns: dataset, method, features, shots, seed, accuracy; rows of `shots` 0 hold zero-shot. A draw is the
    same for all methods and features, so that differences within it are paired.
    """
    from clipnotes.progress import progress_bar

    jobs = [(name, k, seed, method) for name in banks for k in shots for seed in seeds for method in methods]
    rows = [{"dataset": name, "method": "zero-shot", "features": "original", "shots": 0, "seed": 0,
             "accuracy": ZeroShot(kinds["original"].text).score(kinds["original"].test.x, kinds["original"].test.y)}
            for name, kinds in banks.items()]
    for name, k, seed, method in progress_bar(jobs, desc="cache models", disable=not progress, leave=False):
        few = {kind: bank.few_shot(k, seed) for kind, bank in banks[name].items()}
        bank = few["original"]
        for kind, corrected in few.items():
            corrected = None if kind == "original" else corrected
            model = fit_cache_model(method, bank, corrected, logit_scale)
            score = model.score(bank.test.x, bank.test.y, corrected.test.x if corrected else None)
            rows.append({"dataset": name, "method": method, "features": kind, "shots": k, "seed": seed, "accuracy": score})
    return pd.DataFrame(rows)


def shifted_accuracies(banks: dict[str, dict[str, FeatureBank]], source: str, shifted: Sequence[str], shots: int,
                       seeds: Sequence[int], logit_scale: float = 100.0) -> pd.DataFrame:
    """Test accuracy in [0, 1] of Tip-Adapter whose cache and settings come from `source`, there and on sets of its classes.

    banks: as `cache_accuracies` takes them. Columns: dataset (tested on), features, seed, accuracy; a row for every draw of
    `shots` images a class.
    """
    rows = []
    for seed in seeds:
        few = {kind: bank.few_shot(shots, seed) for kind, bank in banks[source].items()}
        for kind, corrected in few.items():
            corrects = kind != "original"
            cache = fit_cache_model("Tip-Adapter", few["original"], corrected if corrects else None, logit_scale)
            for name in (source, *shifted):
                test = banks[name]["original"].test
                score = cache.score(test.x, test.y, banks[name][kind].test.x if corrects else None)
                rows.append({"dataset": name, "features": kind, "seed": seed, "accuracy": score})
    return pd.DataFrame(rows)


def paired_gains(table: pd.DataFrame, keys: Sequence[str] = ("dataset", "method", "shots", "seed")) -> pd.DataFrame:
    """Accuracy with corrected minus with original features, draw by draw: the table's corrected rows with `gain`."""
    table = table[table["shots"] > 0]
    original = table[table["features"] == "original"].set_index(list(keys))["accuracy"]
    corrected = table[table["features"] != "original"]
    before = original.loc[pd.MultiIndex.from_frame(corrected[list(keys)])].to_numpy()
    return corrected.assign(original=before, gain=corrected["accuracy"] - before)

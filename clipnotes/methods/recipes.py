"""The methods of paper B by the names of its tables, and what each is trained with."""
from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

from clipnotes.backbone.clip import Clip
from clipnotes.errors import ClipnotesError
from clipnotes.methods.base import Classifier
from clipnotes.methods.encoder_tuning import TextEncoderTuning
from clipnotes.methods.probes import LinearProbe
from clipnotes.methods.prompts import PromptTuning
from clipnotes.methods.sgd import SGDConfig

PROMPTS = {"Prompt Tuning": {}, "Full Prompt Tuning": {"learn": "both"}, "CLS Tuning": {"learn": "classnames"}}
PROBES = {"Classifier-R": {"init": "random"}, "Classifier-C": {"init": "text"}, "Linear Probe": {"init": "random"}}
METHODS = (*PROMPTS, *PROBES, "TEnc-FT", "Image Finetuning")

# "paper": SGD as its code has it, one learning rate for all methods. "pocket": the same, but the logit scale of the pocket
# models is a quarter of CLIP's and their words are larger, so the rate does not carry over: of nine, the one with the best mean
# accuracy over the methods on CLEAN validation images. "pocket-own": for each method the smallest rate that comes within half
# a point of its own best on the same images. Both: tests/benchmarks/choose_learning_rates.py.
SGD_RECIPES = {
    "paper": {"epochs": 50, "lr": dict.fromkeys(METHODS, 0.002)},
    "pocket": {"epochs": 50, "lr": dict.fromkeys(METHODS, 0.01)},
    "pocket-own": {"epochs": 50, "lr": {
        "Prompt Tuning": 0.1, "Full Prompt Tuning": 0.002, "CLS Tuning": 0.005, "Classifier-R": 0.01, "Linear Probe": 0.01,
        "Classifier-C": 0.001, "TEnc-FT": 0.001, "Image Finetuning": 0.01}},
}


def sgd_config(method: str, recipe: str = "paper", **changes: Any) -> SGDConfig:
    """How a method is trained: one of `METHODS`, or "Ctx-M", prompt tuning with M vectors of context.

    recipe: "paper", "pocket" or "pocket-own". changes: fields of `SGDConfig`, which go before the recipe's.
    Raises ClipnotesError for another method or recipe and for values out of range.
    """
    if recipe not in SGD_RECIPES:
        raise ClipnotesError(f"Recipe {recipe!r} is unknown; choose from {', '.join(SGD_RECIPES)}.")
    base = "Prompt Tuning" if context_length(method) is not None else method
    if base not in METHODS:
        raise ClipnotesError(f"Method {method!r} is unknown; choose from {', '.join(METHODS)} or Ctx-M, such as Ctx-4.")
    return replace(SGDConfig(SGD_RECIPES[recipe]["epochs"], lr=SGD_RECIPES[recipe]["lr"][base]), **changes)


def settings(method: str, recipe: str = "paper", **options: Any) -> dict[str, Any]:
    """The constructor's arguments of a method: `sgd`, as `sgd_config` has it, and the options.

    Options that are fields of `SGDConfig`, such as epochs, change it; the others are handed on.
    """
    of_sgd = {field.name for field in fields(SGDConfig)} & set(options)
    changes = {name: options.pop(name) for name in of_sgd}
    return {"sgd": sgd_config(method, recipe, **changes)} | options


def context_length(method: str) -> int | None:
    """M of "Ctx-M", None for another name."""
    found = re.fullmatch(r"Ctx-(\d+)", method)
    return int(found[1]) if found else None


def build(method: str, clip: Clip, classnames: list[str], recipe: str = "paper", **options: Any) -> Classifier:
    """An unfitted model of a method for a CLIP and its classes; options as those of `settings`.

    Raises ClipnotesError for "Image Finetuning", which starts from a network without a text side, not from a CLIP.
    """
    if method == "Image Finetuning":
        raise ClipnotesError("Method 'Image Finetuning' trains images, not the features of a CLIP; make an "
                             "ImageEncoderFineTuning, or use fine_tuning_accuracies.")
    options = settings(method, recipe, **options)
    if context_length(method) is not None:
        return PromptTuning(clip, classnames, n_context=context_length(method), **options)
    if method in PROMPTS:
        return PromptTuning(clip, classnames, **PROMPTS[method], **options)
    if method in PROBES:
        return LinearProbe(scale=clip.logit_scale, **PROBES[method], **options)
    return TextEncoderTuning(clip, classnames, **options)

"""The methods of paper B by the names of its tables, and what each is trained with."""
from __future__ import annotations

import re

from clipnotes.errors import ClipnotesError
from clipnotes.methods.encoder_tuning import TextEncoderTuning
from clipnotes.methods.probes import LinearProbe
from clipnotes.methods.prompts import PromptTuning

PROMPTS = {"Prompt Tuning": {}, "Full Prompt Tuning": {"learn": "both"}, "CLS Tuning": {"learn": "classnames"}}
PROBES = {"Classifier-R": {"init": "random"}, "Classifier-C": {"init": "text"}, "Linear Probe": {"init": "random"}}
METHODS = (*PROMPTS, *PROBES, "TEnc-FT", "Image Finetuning")

# "paper": SGD as its code has it, for all methods. "pocket": the logit scale of the pocket models is a sixth of CLIP's and
# gradients go with its square, so rates do not carry over. For each method the smallest rate whose accuracy on CLEAN
# validation images comes within half a point of the best of seven: tests/benchmarks/choose_learning_rates.py.
RECIPES = {
    "paper": {"epochs": 50, "lr": dict.fromkeys(METHODS, 0.002)},
    "pocket": {"epochs": 10, "lr": {"Prompt Tuning": 0.01, "Full Prompt Tuning": 0.02, "CLS Tuning": 0.02, "Classifier-R": 0.02,
                                    "Linear Probe": 0.02, "Classifier-C": 0.005, "TEnc-FT": 0.01, "Image Finetuning": 0.01}},
}


def settings(method, recipe="paper"):
    """{"epochs": .., "lr": ..} of a method, one of `METHODS` or "Ctx-M" (prompt tuning with M vectors of context).

    Raises ClipnotesError for another method or recipe.
    """
    if recipe not in RECIPES:
        raise ClipnotesError(f"recipe {recipe!r} is unknown; choose from {', '.join(RECIPES)}")
    base = "Prompt Tuning" if context_length(method) is not None else method
    if base not in METHODS:
        raise ClipnotesError(f"method {method!r} is unknown; choose from {', '.join(METHODS)} or Ctx-M, such as Ctx-4")
    return {"epochs": RECIPES[recipe]["epochs"], "lr": RECIPES[recipe]["lr"][base]}


def context_length(method):
    """M of "Ctx-M", None for another name."""
    found = re.fullmatch(r"Ctx-(\d+)", method)
    return int(found[1]) if found else None


def build(method, clip, classnames, recipe="paper", **options):
    """An unfitted model of a method (see `settings`) for a CLIP and its classes; options go before the recipe's.

    Not for "Image Finetuning", which has no CLIP: see `methods.encoder_tuning`.
    """
    options = settings(method, recipe) | options
    if context_length(method) is not None:
        return PromptTuning(clip, classnames, n_context=context_length(method), **options)
    if method in PROMPTS:
        return PromptTuning(clip, classnames, **PROMPTS[method], **options)
    if method in PROBES:
        return LinearProbe(scale=clip.logit_scale, **PROBES[method], **options)
    return TextEncoderTuning(clip, classnames, progress=False, **options)

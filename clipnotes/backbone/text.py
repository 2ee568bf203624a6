"""Class names to text features: templates and the zero-shot classifier."""
from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from clipnotes.checks import class_names
from clipnotes.errors import ClipnotesError, shown


def as_read(text: str) -> str:
    """A text as CLIP's tokenizers read it: one form of Unicode, HTML entities resolved, single blanks, lower case."""
    from open_clip.tokenizer import get_clean_fn

    return get_clean_fn("lower")(text.replace("_", " "))


def warn_of_equal_names(names: Sequence[str], where: str) -> None:
    """Warn of class names that read alike, as no prompt can tell them apart; where: what they belong to."""
    labels = {}  # text: labels of the classes that it stands for
    for label, name in enumerate(names):
        labels.setdefault(as_read(name), []).append(label)
    alike = [owners for owners in labels.values() if len(owners) > 1]
    if alike:
        some = "; ".join(" and ".join(f"{shown(names[label])} (label {label})" for label in owners[:3]) for owners in alike[:3])
        warnings.warn(f"{where} has classes with the same text for CLIP, which no prompt can tell apart: {some}"
                      + " ..." * (len(alike) > 3), stacklevel=1)  # one place, so that it is shown once


def check_cut_texts(clip: Any, texts: Sequence[str]) -> None:
    """ClipnotesError where texts that differ become the same tokens since they are longer than the model's context."""
    first = {}  # tokens: the text that they were first made of
    for text, tokens in zip(texts, map(tuple, clip.tokenizer(list(texts)).tolist()), strict=True):
        other = first.setdefault(tokens, text)
        if as_read(other) != as_read(text):
            raise ClipnotesError(f"Texts {shown(other)} and {shown(text)} are the same for {clip.name}, which cuts texts after "
                                 f"{len(tokens)} tokens; shorten the class names or the template.")


def fill(templates: Sequence[str], classname: str) -> list[str]:
    """Every template with the class name in place of its {}; ClipnotesError for a template without {}."""
    for template in templates:
        if "{}" not in template:
            raise ClipnotesError(f"Template {template!r} has no place for the class name; write {{}} where it belongs.")
    return [template.replace("{}", classname.replace("_", " ")) for template in templates]


def template_features(clip: Any, classnames: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
    """Unit text features of every class under every template, float32 [C, T, d]; see `check_cut_texts` for names too long."""
    classnames = class_names(classnames)
    if not len(templates):
        raise ClipnotesError("No templates given; at least one is needed, such as 'a photo of a {}.'.")
    texts = [text for name in classnames for text in fill(templates, name)]
    longest = max(range(len(templates)), key=lambda i: len(templates[i]))
    check_cut_texts(clip, texts[longest::len(templates)])
    return F.normalize(clip.encode_texts(texts), dim=-1).reshape(len(classnames), len(templates), -1)


def classifier(clip: Any, classnames: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
    """Zero-shot weights, float32 [C, d]: unit features, mean over templates, unit again (Radford et al. 2021, 3.1.4)."""
    return ensemble(template_features(clip, classnames, templates))


def ensemble(features: Any) -> torch.Tensor:
    """Text features [C, T, d] to class weights [C, d]; averaging before normalising would weigh templates by length."""
    return F.normalize(F.normalize(torch.as_tensor(features), dim=-1).mean(1), dim=-1)

"""Class names to text features: templates and the zero-shot classifier."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from clipnotes.errors import ClipnotesError


def fill(templates, classname):
    """Every template with the class name in place of its {}; ClipnotesError for a template without {}."""
    for template in templates:
        if "{}" not in template:
            raise ClipnotesError(f"template {template!r} has no place for the class name; write {{}} where it belongs")
    return [template.replace("{}", classname.replace("_", " ")) for template in templates]


def template_features(clip, classnames, templates):
    """Unit text features of every class under every template, float32 [C, T, d]."""
    if not len(classnames) or not len(templates):
        raise ClipnotesError(f"{len(classnames)} class names and {len(templates)} templates given; "
                             "both need at least one entry")
    texts = [text for name in classnames for text in fill(templates, name)]
    return F.normalize(clip.encode_texts(texts), dim=-1).reshape(len(classnames), len(templates), -1)


def classifier(clip, classnames, templates):
    """Zero-shot weights, float32 [C, d]: unit features, mean over templates, unit again (Radford et al. 2021, 3.1.4)."""
    return ensemble(template_features(clip, classnames, templates))


def ensemble(features):
    """Text features [C, T, d] to class weights [C, d]; averaging before normalising would weigh templates by length."""
    return F.normalize(F.normalize(torch.as_tensor(features), dim=-1).mean(1), dim=-1)

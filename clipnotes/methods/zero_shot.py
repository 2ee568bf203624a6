"""Zero-shot classification: CLIP as it is (paper B, eq. 1)."""
from __future__ import annotations

from typing import Any, Self

import torch

from clipnotes.checks import Number
from clipnotes.methods.base import Classifier
from clipnotes.methods.inputs import unit_features, unit_texts


class ZeroShot(Classifier):
    """Class probabilities from cosines with class text features, Pr(y = i | x) = softmax(logit_scale cos(x, t_i)).

    text: class weights [C, d], see `Clip.classifier`; logit_scale: 1/temperature, 100 in released CLIP. There is nothing to
    learn, so `fit` may be left out. Raises ClipnotesError, with `logits`, for texts that are not finite or no matrix.
    """

    rules = {"logit_scale": Number(0)}

    def __init__(self, text: torch.Tensor, logit_scale: float = 100.0) -> None:
        self.text, self.logit_scale = text, logit_scale

    def fit(self, x: Any = None, y: Any = None) -> Self:
        """Only check the settings."""
        self.unit_text()
        return self

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C] from features [N, d], which need not be unit; of V views [V, N, d] their mean counts."""
        text = self.unit_text()
        return self.logit_scale * unit_features(x, "x", text.shape[1]).float() @ text.T

    def unit_text(self) -> torch.Tensor:
        self.check_settings()
        return unit_texts(self.text).float()

"""Zero-shot classification: CLIP as it is (paper B, eq. 1)."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from clipnotes.methods.inputs import unit_features


class ZeroShot:
    """Class probabilities from cosines with class text features, Pr(y = i | x) = softmax(logit_scale cos(x, t_i)).

    text: class weights [C, d], see `Clip.classifier`; logit_scale: 1/temperature, 100 in released CLIP.
    """

    def __init__(self, text, logit_scale=100.0):
        self.text, self.logit_scale = F.normalize(torch.as_tensor(text).float(), dim=-1), float(logit_scale)

    def logits(self, x):
        """[N, C] from features [N, d], which need not be unit; of V views [V, N, d] their mean counts."""
        return self.logit_scale * unit_features(x, "x").float() @ self.text.T

    def predict(self, x):
        """Most likely class of each row: int64 [N]."""
        return self.logits(x).argmax(1)

    def score(self, x, y):
        """Top-1 accuracy in [0, 1]."""
        return (self.predict(x) == torch.as_tensor(y)).float().mean().item()

"""Two plain but strong linear baselines with text: LP++, and a probe that starts as zero-shot CLIP and stops early."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from clipnotes.checks import Number, OneOf, Whole, class_labels
from clipnotes.errors import ClipnotesError
from clipnotes.methods.base import Classifier, LinearClassifier
from clipnotes.methods.inputs import unit_features, unit_texts
from clipnotes.methods.probes import LinearProbe
from clipnotes.methods.sgd import PAPER, TRAINING, SGDConfig


class LPPlusPlus(Classifier):
    """LP++: logits = x W' + b + a_c x . t_c, the text blended in class by class (Huang et al., CVPR 2024).

    Full-batch gradient descent whose step sizes follow from the data: for W 4 N / (largest eigenvalue of x'x), with momentum
    0.9; for a N / (4 max_c sum_i (x_i . t_c)^2), every tenth step, with the gradient of that step. W starts at the class
    means, a at 250 times the mean over classes of m_c . t_c. No text-free form, nothing to tune.
    compat="reference": the released code keeps the step that does best on validation images, and never clears the gradient
    of a, so that a moves by the sum over all steps so far; give val.
    After `fit`: weight_ [C, d], bias_ and alpha_ [C], losses_.
    """
    rules = {"epochs": Whole(1), "compat": OneOf(None, "reference")}

    def __init__(self, epochs: int = 300, compat: str | None = None) -> None:
        self.epochs, self.compat = epochs, compat

    def fit(self, x: torch.Tensor, y: torch.Tensor, text: torch.Tensor, val: tuple | None = None) -> LPPlusPlus:
        """Train on features [N, d], labels [N] and class texts [C, d]; val: (features, labels), for compat only."""
        self.check_settings()
        x = unit_features(x, "x")
        text = unit_texts(text, x.shape[1]).to(x)
        y = class_labels(y, "y", len(x), len(text))
        if self.compat and val is None:
            raise ClipnotesError('compat="reference" keeps the best step on validation images; give val=(features, labels).')
        one_hot, of_text = F.one_hot(y, len(text)).to(x), x @ text.T  # [N, C] each
        means = one_hot.T @ x / one_hot.sum(0).clamp(min=1)[:, None]
        step_w = 4 * len(x) / torch.linalg.eigvalsh(x.T @ x)[-1].item()
        step_a = len(x) / (4 * (of_text**2).sum(0).max().item())
        weight, bias = means.clone().requires_grad_(), x.new_zeros(len(text)).requires_grad_()
        alpha = (250 * (means * text).sum(1).mean()).expand(len(text)).clone().requires_grad_()
        optimizer, self.losses_, best = torch.optim.SGD([weight, bias], lr=step_w, momentum=0.9), [], -1.0
        for epoch in range(1, self.epochs + 1):
            loss = F.cross_entropy(x @ weight.T + bias + alpha * of_text, y)
            optimizer.zero_grad()
            alpha.grad = alpha.grad if self.compat and alpha.grad is not None else torch.zeros_like(alpha)
            loss.backward()
            optimizer.step()
            if epoch % 10 == 0:
                alpha.data -= step_a * alpha.grad
            self.losses_.append(loss.item())
            right = self.keep(weight, bias, alpha, text).score(*val) if self.compat else 0
            if self.compat and right >= best:
                best, kept = right, (self.weight_, self.bias_, self.alpha_)
        self.keep(weight, bias, alpha, text)
        if self.compat:
            self.weight_, self.bias_, self.alpha_ = kept
        return self

    def keep(self, weight: torch.Tensor, bias: torch.Tensor, alpha: torch.Tensor, text: torch.Tensor) -> LPPlusPlus:
        """Store copies of what has been learnt so far."""
        self.weight_, self.bias_, self.alpha_ = (part.detach().clone() for part in (weight, bias, alpha))
        self.text_ = text
        return self

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C] from features [N, d], which need not be unit."""
        x = unit_features(x, "x", self.fitted("weight_").shape[1]).to(self.weight_)
        return x @ (self.weight_ + self.alpha_[:, None] * self.text_).T + self.bias_


class EarlyStoppedProbe(LinearClassifier):
    """A probe that starts as zero-shot CLIP and keeps its best epoch on validation images, the untrained start included.

    The last of equally good epochs counts. Settings as those of `LinearProbe`, whose init is "text" here.
    After `fit`: weight_ [C, d], epoch_ (0 is zero-shot CLIP), val_accuracy_ (of every epoch from 0).
    """

    rules = TRAINING | {"scale": Number(0)}

    def __init__(self, scale: float = 100.0, sgd: SGDConfig = PAPER, seed: int = 1) -> None:
        self.scale, self.sgd, self.seed = scale, sgd, seed

    def fit(self, x: torch.Tensor, y: torch.Tensor, text: torch.Tensor, val: tuple) -> EarlyStoppedProbe:
        """Train on features [N, d], labels [N] and class texts [C, d]; val: (features, labels) that decide when to stop."""
        self.check_settings()
        self.weight_, self.epoch_ = unit_texts(text), 0
        self.val_accuracy_ = [self.score(*val)]

        def after(epoch: int, probe: LinearProbe) -> None:
            self.val_accuracy_.append(probe.score(*val))
            if self.val_accuracy_[-1] >= max(self.val_accuracy_):
                self.weight_, self.epoch_ = probe.weight_, epoch

        probe = LinearProbe("text", scale=self.scale, sgd=self.sgd, seed=self.seed)
        probe.fit(x, y, text=text, callback=after, progress=False)
        return self

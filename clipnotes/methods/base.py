"""What all methods share: settings that are stored, checked in `fit` and never changed, and the way from logits to a score.

Built on scikit-learn's `BaseEstimator`: the constructor only stores, `fit` checks and learns and returns self, what was
learnt ends in _, and `clone`, `get_params` and `set_params` work.
"""
from __future__ import annotations

import inspect
from typing import Any, ClassVar, Self

import torch
from sklearn.base import BaseEstimator

from clipnotes.checks import check_all, class_labels, same
from clipnotes.errors import ClipnotesError, shown
from clipnotes.methods.inputs import unit_features


class Method(BaseEstimator):
    """A method with settings. rules: {setting: what it may be}, see `checks`; `fit` calls `check_settings` first."""

    rules: ClassVar[dict[str, Any]] = {}

    def check_settings(self) -> None:
        """ClipnotesError for the first setting that breaks its rule."""
        check_all(self.rules, self)

    def fitted(self, name: str) -> Any:
        """The learnt value `name`; ClipnotesError before `fit`."""
        if not hasattr(self, name):
            raise ClipnotesError(f"This {type(self).__name__} has learnt nothing yet; call fit first.")
        return getattr(self, name)

    def __sklearn_clone__(self) -> Self:
        # The settings themselves: scikit-learn would copy a whole CLIP, and models of one CLIP are trained together.
        return type(self)(**self.get_params(deep=False))

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        """The settings that differ from the defaults, arrays by their shape."""
        known = inspect.signature(type(self)).parameters
        changed = {name: getattr(self, name) for name in known if not same(getattr(self, name), known[name].default)}
        return f"{type(self).__name__}({', '.join(f'{name}={shown(value)}' for name, value in changed.items())})"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        return {"text/plain": repr(self)}  # scikit-learn's table would spell out every array


class Classifier(Method):
    """A method with `logits`, float [N, C] of N rows, whatever else they take beside the rows."""

    def logits(self, x: Any, *beside: Any, **named: Any) -> torch.Tensor:
        raise NotImplementedError

    def predict(self, x: Any, *beside: Any, **named: Any) -> torch.Tensor:
        """Most likely class of each row: int64 [N]. Arguments as those of `logits`."""
        return self.logits(x, *beside, **named).argmax(1)

    def score(self, x: Any, y: Any, *beside: Any, **named: Any) -> float:
        """Top-1 accuracy in [0, 1] for labels y [N]; further arguments as those of `logits`.

        Raises ClipnotesError for labels that do not fit (see `checks.class_labels`) and for whatever `logits` refuses.
        """
        logits = self.logits(x, *beside, **named)
        y = class_labels(y, "y", *logits.shape)
        return (logits.argmax(1) == y.to(logits.device)).double().mean().item()


class LinearClassifier(Classifier):
    """logits = scale x W' of unit features x: the learnt value is weight_ [C, d], scale a setting."""

    scale: float

    def logits(self, x: Any) -> torch.Tensor:
        """[N, C] from features [N, d], which need not be unit."""
        weight = self.fitted("weight_")
        return self.scale * unit_features(x, "x", weight.shape[1]).to(weight) @ weight.T

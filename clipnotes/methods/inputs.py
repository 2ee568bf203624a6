"""What methods on features accept: the same checks and the same sentences for all of them."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from clipnotes.errors import ClipnotesError


def unit_features(x, name, width=None):
    """Unit rows [N, d] of features [N, d]; of V views [V, N, d] the mean over the views first, then unit.

    float64 stays float64, all else becomes float32. `width`: the d that is expected, if any.
    Raises ClipnotesError for other shapes, no rows, NaN or infinite values, another width.
    """
    x = torch.as_tensor(x)
    x = x if x.dtype == torch.float64 else x.float()
    if x.ndim not in (2, 3):
        raise ClipnotesError(f"{name} has shape {list(x.shape)}, but must be [N, d] or, with V views, [V, N, d]")
    if not x.numel():
        raise ClipnotesError(f"{name} has shape {list(x.shape)}, so no features; give at least one row")
    if not torch.isfinite(x).all():
        rows = (~torch.isfinite(x)).any(-1).sum().item()
        raise ClipnotesError(f"{rows} rows of {name} hold NaN or infinite values; encode them again")
    if width is not None and x.shape[-1] != width:
        raise ClipnotesError(f"{name} has features of size d = {x.shape[-1]}, but d = {width} is needed; "
                             "both must come from one model")
    return F.normalize(x.mean(0) if x.ndim == 3 else x, dim=-1)


def class_labels(y, name, n, n_classes=None):
    """int64 labels [n], each in 0 .. n_classes - 1; ClipnotesError otherwise."""
    y = torch.as_tensor(y).long()
    if y.shape != (n,):
        raise ClipnotesError(f"{name} has shape {list(y.shape)}, but there are {n} rows of features; give one label a row")
    if y.min() < 0 or (n_classes is not None and y.max() >= n_classes):
        bad = int(y.min() if y.min() < 0 else y.max())
        allowed = "0 or more" if n_classes is None else f"0 to {n_classes - 1}, as there are {n_classes} classes"
        raise ClipnotesError(f"label {bad} in {name} is out of range; labels must be {allowed}")
    return y


def not_negative(**settings):
    """ClipnotesError for a setting that is negative, NaN or infinite."""
    for name, value in settings.items():
        if not 0 <= value < float("inf"):
            raise ClipnotesError(f"{name} = {value} is out of range; it must be 0 or more, and finite")

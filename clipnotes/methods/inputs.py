"""Features as the methods compute with them: unit, and the views of an image apart or as their mean."""
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from clipnotes.checks import feature_matrix


def unit_features(x: Any, name: str = "x", width: int | None = None) -> torch.Tensor:
    """Unit rows [N, d] of features [N, d]; of V views [V, N, d] the mean over the views first, then unit.

    Takes and refuses what `checks.feature_matrix` does.
    """
    x = feature_matrix(x, name, width)
    return F.normalize(x.mean(0) if x.ndim == 3 else x, dim=-1)


def unit_texts(text: Any, width: int | None = None) -> torch.Tensor:
    """Unit class texts [C, d]; checks as `unit_features`, but takes no views."""
    return unit_features(feature_matrix(text, "text", width, views=False), "text")


def unit_views(x: Any, name: str = "x", width: int | None = None) -> torch.Tensor:
    """Unit features [V, N, d], every view by itself, of features [N, d] (V = 1) or [V, N, d]; checks as `unit_features`."""
    x = feature_matrix(x, name, width)
    return F.normalize(x.reshape(-1, x.shape[-1]), dim=-1).view(-1, *x.shape[-2:])

"""Noisy against clean gradients: which of the two drives the training (paper B, section 4 and Fig. 4)."""
from __future__ import annotations

from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F

from clipnotes.checks import Whole, as_tensor, class_labels, feature_matrix
from clipnotes.errors import ClipnotesError
from clipnotes.methods.inputs import unit_views
from clipnotes.methods.losses import gce_exponent, loss_function
from clipnotes.methods.probes import LinearProbe, fit_probes, loss_and_gradients
from clipnotes.methods.prompts import PromptTuning
from clipnotes.methods.prompts_training import fit_many, training_data
from clipnotes.seeding import generator

IMAGES_AT_ONCE = 16  # bounds the memory of the text tower


def gradient_ratio(models: dict[str, PromptTuning | LinearProbe], x: Any, y: Any, is_noisy: Any, text: Any = None,
                   n_classes: int | None = None, n: int = 64, loss: str | None = None, q: float = 0.7, seed: int = 1,
                   progress: bool = True) -> pd.DataFrame:
    """Fit models on partly wrong labels and compare, after every epoch, the gradients of wrong and of right ones.

        ratio = |grad L(noisy)| / |grad L(clean)|,   norms over all learnable parameters (paper B, Fig. 4)

    L is the mean loss of n images with their given labels. A ratio above 1 says that wrong labels pull harder.
    The images are drawn once, with `seed`, and are the same for all models and epochs. Where fewer than n are noisy (or
    clean), both groups shrink to that number, since the norm of a mean falls with its size.

    models: {name: an unfitted `PromptTuning` or `LinearProbe`}; all are fitted here, those of a kind together.
    x: features [N, d], or views [V, N, d], of which every image shows one, drawn anew for every epoch. y: given labels
    [N]; is_noisy: bool [N], which of them are wrong. text [C, d] and n_classes: for the probes, see `LinearProbe.fit`.
    loss: what the gradients are of, "ce", "gce" (with q) or "mae"; by default the loss that each model is trained with.

    Returns a DataFrame with a row for every model and epoch (from 1) and the columns model, epoch, noisy and clean (the
    norms), ratio (infinite where the clean norm is 0) and n (images of each group).
    Raises ClipnotesError for no models or others, no noisy or no clean label, and whatever `fit` does not take.
    """
    check_models(models)
    loss_function(loss or "ce", q)
    x = unit_views(x, "x")
    y = class_labels(y, "y", x.shape[1])
    groups = draw_groups(is_noisy, x.shape[1], n, seed)
    names, norms = {id(model): name for name, model in models.items()}, {name: [] for name in models}

    def measure(epoch: int, model: PromptTuning | LinearProbe) -> None:
        random = generator(seed, f"views of epoch {epoch}")
        shown = torch.randint(len(x), y.shape, generator=random)  # [N]
        norms[names[id(model)]].append([gradient(model, x[shown[rows], rows], y[rows], loss, q).norm().item()
                                        for rows in groups])

    for kind, fit, data in ((PromptTuning, fit_many, (x, y)), (LinearProbe, fit_probes, (x, y, n_classes, text))):
        some = [model for model in models.values() if isinstance(model, kind)]
        fit(some, [data] * len(some), measure, progress)
    rows = [{"model": name, "epoch": epoch, "noisy": noisy, "clean": clean}
            for name, pairs in norms.items() for epoch, (noisy, clean) in enumerate(pairs, 1)]
    table = pd.DataFrame(rows, columns=["model", "epoch", "noisy", "clean"])
    return table.assign(ratio=table["noisy"] / table["clean"], n=len(groups[0]))


def draw_groups(is_noisy: Any, n_rows: int, n: int, seed: int) -> list[torch.Tensor]:
    """(noisy rows, clean rows) to measure on, int64 [m] each, where m is n or as many as the smaller group has."""
    is_noisy = as_tensor(is_noisy, "is_noisy", "give one bool a row")
    if is_noisy.dtype != torch.bool or is_noisy.shape != (n_rows,):
        raise ClipnotesError(f"is_noisy has shape {list(is_noisy.shape)} and type {is_noisy.dtype}, but there are {n_rows} "
                             "rows of features; give one bool a row.")
    Whole(1)(n, "n")
    groups = [which.nonzero()[:, 0] for which in (is_noisy, ~is_noisy)]
    m = min(n, *map(len, groups))
    if not m:
        raise ClipnotesError(f"{len(groups[0])} of {n_rows} labels are noisy and {len(groups[1])} clean; the ratio needs both, "
                             "so corrupt some labels and keep some.")
    random = generator(seed, "gradients")
    return [rows[torch.randperm(len(rows), generator=random)[:m]] for rows in groups]


def gradient(model: PromptTuning | LinearProbe, x: torch.Tensor, y: torch.Tensor, loss: str | None = None,
             q: float = 0.7) -> torch.Tensor:
    """Gradient of the mean loss on features x [n, d] with labels y [n] by all that a fitted model learns, flat.

    loss: by default the model's own. That of a probe is computed in float64, since right labels soon have probabilities
    that float32 cannot tell from 1.
    """
    x = feature_matrix(x, "x", views=False)
    loss, q = (loss, q) if loss else own_loss(model)
    if isinstance(model, PromptTuning):
        return model.gradient(x, y, loss, q)
    return probe_gradients(model, unit_views(x, "x", model.fitted("weight_").shape[-1]), y[None], loss, q)[0]


def sample_gradient_norms(model: PromptTuning | LinearProbe, x: Any, y: Any, loss: str | None = None,
                          q: float = 0.7) -> torch.Tensor:
    """Norm of the gradient of every single image's loss by all that a fitted model learns: float64 [n].

    As `gradient` of each image by itself, but in one pass: every image gets a copy of the model.
    """
    x = feature_matrix(x, "x", views=False)
    loss, q = (loss, q) if loss else own_loss(model)
    if isinstance(model, PromptTuning):
        x, y = training_data(model, x, y)
        return torch.cat([prompt_gradients(model, *part, loss, q).flatten(1).double().norm(dim=1)
                          for part in zip(x.mean(0).split(IMAGES_AT_ONCE), y.split(IMAGES_AT_ONCE), strict=True)])
    x = unit_views(x, "x", model.fitted("weight_").shape[-1])[0]
    return probe_gradients(model, x[:, None], y[:, None], loss, q).norm(dim=1)


def own_loss(model: PromptTuning | LinearProbe) -> tuple[str, float]:
    """(loss, q) that a fitted model was trained with."""
    return model.loss, model.fitted("q_") if isinstance(model, PromptTuning) else model.q


def prompt_gradients(model: PromptTuning, x: torch.Tensor, y: torch.Tensor, loss: str, q: float) -> torch.Tensor:
    """Gradients [n, R, w] of the loss of each of n images, features x [n, d] with labels y [n]."""
    learnt = model.learnt_.expand(len(y), -1, -1).clone().requires_grad_()
    text = F.normalize(model.layout_.encoder(learnt), dim=-1)  # [n, C, d]
    logits = model.clip.logit_scale * (text @ F.normalize(x, dim=-1)[..., None])[..., 0]  # [n, C]
    mean = loss_function(loss, q)(logits, y)
    return torch.autograd.grad(len(y) * mean, learnt)[0].cpu()


def probe_gradients(model: LinearProbe, x: torch.Tensor, y: torch.Tensor, loss: str, q: float) -> torch.Tensor:
    """Gradients [B, parameters] in float64 of the mean losses of B batches, unit features x [B, b, d] with labels y [B, b]."""
    q = torch.full((len(x), 1), gce_exponent(loss, q), dtype=torch.float64)
    weight, bias = (value.double().expand(len(x), *value.shape) for value in (model.fitted("weight_"), model.bias_))
    _, by_weight, by_bias = loss_and_gradients(x.double(), y, weight, bias, torch.full_like(q, model.scale), q)
    return torch.cat([by_weight.flatten(1), by_bias], dim=1) if model.bias else by_weight.flatten(1)


def check_models(models: dict) -> None:
    """ClipnotesError for anything but a dict of models whose gradients can be taken."""
    if not models:
        raise ClipnotesError("No models given; give a dict of names with PromptTuning or LinearProbe.")
    for name, model in models.items():
        if not isinstance(model, PromptTuning | LinearProbe):
            raise ClipnotesError(f"Model {name!r} is a {type(model).__name__}; give a PromptTuning or a LinearProbe.")
        if isinstance(model, PromptTuning) and not model.start().learnt_.numel():
            raise ClipnotesError(f"Model {name!r} has n_context = 0, so nothing to train and no gradient; give it context.")

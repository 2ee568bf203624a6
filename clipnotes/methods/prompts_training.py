"""The training of prompts: the recipe of CoOp as paper B uses it, for one prompt or many at once."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from clipnotes.checks import class_labels
from clipnotes.errors import ClipnotesError
from clipnotes.methods.inputs import unit_views
from clipnotes.methods.losses import gce_exponent, gce_losses
from clipnotes.methods.sgd import batch_rows, batch_views, check_finite, learning_rate

if TYPE_CHECKING:
    from clipnotes.methods.prompts import PromptTuning

# Numbers in one layer's states of all models that are trained together: some 2 GB over the 12 layers of CLIP's text tower.
STATES_AT_ONCE = 2**21


def fit_many(models: Sequence[PromptTuning], data: Sequence[tuple], callback: Callable | None = None,
             progress: bool = True) -> list[PromptTuning]:
    """Fit many `PromptTuning`s, each on its own (x, y), training those of the same form in one batched computation.

    Of the same form are models with one CLIP object and equal settings but for seed, init, loss, q, and the lr, momentum and
    weight_decay of `sgd`, on equal numbers of images and views. Each learns what it would alone, up to float rounding. No
    more of them run together than memory allows (`STATES_AT_ONCE`).
    data: a list of (x, y) as `fit` takes them. callback(epoch, model) is called for every model after each of its epochs.
    Returns the models. Raises as `fit` does.
    """
    from clipnotes.progress import progress_bar

    if len(models) != len(data):
        raise ClipnotesError(f"{len(models)} models, but {len(data)} pairs of features and labels; give one pair a model.")
    groups = {}
    for model, (x, y) in zip(models, data, strict=True):
        model.start()
        x, y = training_data(model, x, y)
        form = (id(model.clip), model.layout_.sequences, model.sgd.batch_size, model.sgd.epochs, model.recompute, x.shape)
        groups.setdefault(form, []).append((model, x, y))
    parts = [part for group in groups.values() for part in portions(group)]
    epochs = sum(part[0][0].sgd.epochs for part in parts)
    with progress_bar(total=epochs, desc="prompt tuning", leave=False, disable=not progress) as bar:
        for group in parts:
            for epoch, _ in enumerate(train(*zip(*group, strict=True)), 1):
                bar.update()
                if callback:
                    for model, _, _ in group:
                        callback(epoch, model)
    return list(models)


def portions(group: list[tuple]) -> list[list[tuple]]:
    """A group of (model, x, y) of one form in parts that are trained together."""
    model = group[0][0]
    size = max(1, STATES_AT_ONCE // (model.layout_.encoder.n_tokens * model.learnt_.shape[-1]))
    return [group[i:i + size] for i in range(0, len(group), size)]


def train(models: Sequence[PromptTuning], xs: Sequence[torch.Tensor], ys: Sequence[torch.Tensor]) -> Iterator[None]:
    """Train B models of the same form on unit views x [V, N, d] and labels y [N]; yields after every epoch."""
    first, (n_views, n, _) = models[0], xs[0].shape
    learnt = [model.learnt_.clone().requires_grad_() for model in models]
    if not learnt[0].numel():
        return  # bare class names
    q = torch.tensor([gce_exponent(model.loss, model.q_) for model in models]).to(xs[0])  # 0 is CE
    optimizer = torch.optim.SGD([{"params": [part], "momentum": model.sgd.momentum, "weight_decay": model.sgd.weight_decay}
                                 for part, model in zip(learnt, models, strict=True)])
    orders = zip(*(batch_rows(n, m.sgd.batch_size, m.sgd.epochs, m.seed) for m in models), strict=True)
    shown = zip(*(batch_views(n_views, n, m.sgd.epochs, m.seed) for m in models), strict=True)
    for epoch, (batches, views) in enumerate(zip(orders, shown, strict=True), 1):
        for model, group in zip(models, optimizer.param_groups, strict=True):
            group["lr"] = learning_rate(epoch, model.sgd.epochs, model.sgd.lr, model.sgd.warmup_lr)
        totals, steps = torch.zeros(len(models)), len(batches[0])
        for rows in zip(*batches, strict=True):  # of every model, [n]
            features = torch.stack([x[v[r], r] for x, v, r in zip(xs, views, rows, strict=True)])  # [B, n, d]
            text = F.normalize(first.layout_.encoder(torch.stack(learnt)), dim=-1)                  # [B, C, d]
            logits = first.clip.logit_scale * features @ text.mT                            # [B, n, C]
            loss = gce_losses(logits, torch.stack([y[r] for y, r in zip(ys, rows, strict=True)]), q)  # [B]
            optimizer.zero_grad()
            loss.sum().backward()  # the models share nothing, so each gets the gradient of its own loss
            optimizer.step()
            totals += loss.detach().cpu()
        for model, part, total in zip(models, learnt, (totals / steps).tolist(), strict=True):
            check_finite(total, [part], epoch, model.sgd.lr)
            model.learnt_ = part.detach().clone()
            model.losses_.append(total)
        yield


def training_data(model: PromptTuning, x: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(unit views [V, N, d], labels [N]) on the device of the model's CLIP."""
    clip, x = model.clip, unit_views(x, "x", model.clip.dim).float()
    return x.to(clip.device), class_labels(y, "y", x.shape[1], len(model.layout_.classnames)).to(clip.device)

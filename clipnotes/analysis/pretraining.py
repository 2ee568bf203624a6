"""What pre-training gave a CLIP, judged on right labels alone: calibration, and zero-shot accuracy under foreign words.

How well a model reads a class name through tokens that have nothing to do with it says, before any training on wrong
labels, whether learnt context vectors can wipe the class out of a prompt (notebook 14).
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from clipnotes.backbone import Clip, template_features
from clipnotes.backbone.prompt_encoding import prompt_encoder
from clipnotes.backbone.text import fill
from clipnotes.backbone.text_towers import frame, text_tower, token_ids
from clipnotes.data import encode_task, load_task
from clipnotes.errors import ClipnotesError
from clipnotes.methods import PromptTuning, ZeroShot
from clipnotes.methods.base import Classifier

COUNTS = (0, 1, 2, 4, 8, 16)  # foreign tokens in a prompt; 16 is as many as prompt tuning learns


def calibration_error(logits: torch.Tensor, y: torch.Tensor, bins: int = 10) -> float:
    """Expected calibration error in [0, 1] of logits [N, C] with labels [N] (Guo et al. 2017, eq. 3).

    The mean over equally wide bins of confidence, weighted by their sizes, of |accuracy - mean confidence|.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    right = (predicted == torch.as_tensor(y)).double()
    edges = (confidence * bins).ceil().clamp(1, bins).long() - 1  # bins are (a, b]
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, edges, right - confidence)
    return (gap.abs().sum() / len(right)).item()


def foreign_prompts(clip: Clip, classnames: Sequence[str], n_foreign: int, seed: int = 1,
                    template: str = "a photo of a {}.") -> list[list[int]]:
    """The tokens of one prompt a class, with the same `n_foreign` random tokens of the vocabulary before the template.

    Any token but those of the frame (start and end of text) may be drawn. Raises ClipnotesError where the prompt of a
    class is longer than the model's context.
    """
    tower, (before, _) = text_tower(clip.model), frame(clip)
    prompts = token_ids(clip, [fill([template], name)[0] for name in classnames])
    special = {*prompts[0][:before], prompts[0][-1]}
    allowed = np.array([i for i in range(len(tower.token_embedding.weight)) if i not in special])
    foreign = np.random.default_rng([seed, n_foreign]).choice(allowed, n_foreign).tolist()
    room = len(tower.positional_embedding)
    longest = max(len(prompt) for prompt in prompts) + n_foreign
    if longest > room:
        raise ClipnotesError(f"n_foreign = {n_foreign} makes prompts of {longest} tokens, but {clip.name} reads {room}: "
                             f"use at most {n_foreign - longest + room}.")
    return [[*prompt[:before], *foreign, *prompt[before:]] for prompt in prompts]


@torch.no_grad()
def foreign_texts(clip: Clip, classnames: Sequence[str], n_foreign: int, seed: int = 1,
                  template: str = "a photo of a {}.") -> torch.Tensor:
    """Unit text features [C, d] of `foreign_prompts`."""
    prompts = foreign_prompts(clip, classnames, n_foreign, seed, template)
    return F.normalize(prompt_encoder(clip, prompts)()[0], dim=-1).cpu()


@torch.no_grad()
def foreign_accuracy(clip: Clip, classnames: Sequence[str], x: torch.Tensor, y: torch.Tensor,
                     counts: Sequence[int] = COUNTS, draws: int = 5, template: str = "a photo of a {}.") -> pd.DataFrame:
    """Zero-shot accuracy in [0, 1] of unit features x [N, d] with foreign tokens in front of every prompt.

    Columns: n_foreign, draw (of the tokens), accuracy, cosine (mean over all pairs of classes of the cosine between
    their texts: near 1 the class is wiped out). Without foreign tokens there is one draw.
    """
    rows = []
    for n_foreign in counts:
        for draw in range(draws if n_foreign else 1):
            text = foreign_texts(clip, classnames, n_foreign, draw, template)
            accuracy = ((x @ text.T).argmax(1) == y).double().mean().item()
            rows.append({"n_foreign": n_foreign, "draw": draw, "accuracy": accuracy, "cosine": mean_cosine(text)})
    return pd.DataFrame(rows)


def mean_cosine(text: torch.Tensor) -> float:
    """Mean cosine between the unit texts [C, d] of different classes."""
    n = len(text)
    return ((text @ text.T).sum() - n).item() / (n * (n - 1))


def prompt_cosine(model: Classifier) -> dict[str, float]:
    """`mean_cosine` of a fitted `PromptTuning` as {"class_cosine": value}, and {} of any other model."""
    return {"class_cosine": mean_cosine(model.text_features())} if isinstance(model, PromptTuning) else {}


def template_accuracies(clip: Clip, classnames: Sequence[str], templates: Sequence[str], x: torch.Tensor,
                        y: torch.Tensor) -> pd.Series:
    """Zero-shot accuracy in [0, 1] of unit features x [N, d] with each template by itself, and with "all" as ensemble."""
    features = template_features(clip, classnames, templates)  # [C, T, d]
    texts = {template: features[:, t] for t, template in enumerate(templates)}
    texts["all"] = F.normalize(features.mean(1), dim=-1)
    return pd.Series({name: ((x @ text.T).argmax(1) == y).double().mean().item() for name, text in texts.items()})


def judgement(clip: Clip, datasets: Sequence[str]) -> pd.DataFrame:
    """How well zero-shot bears other words than it was tested with, a row a data set.

    Columns: calibration error in [0, 1]; lowest and highest accuracy (%) of single templates; points lost to 16 foreign tokens.
    """
    rows = []
    for name in datasets:
        task = load_task(name)
        bank = encode_task(clip, task, splits=("test",))
        x, y = bank.test.unit(), bank.test.y
        alone = template_accuracies(clip, task.classnames, task.templates, x, y).drop("all")
        foreign = foreign_accuracy(clip, task.classnames, x, y, (0, 16)).groupby("n_foreign")["accuracy"].mean()
        logits = ZeroShot(bank.text, clip.logit_scale).logits(x)
        rows.append({"data set": name, "calibration error": calibration_error(logits, y),
                     "worst template": 100 * alone.min(), "best template": 100 * alone.max(),
                     "lost to foreign tokens": 100 * (foreign[0] - foreign[16])})
    digits = {"calibration error": 2, "worst template": 1, "best template": 1, "lost to foreign tokens": 1}
    return pd.DataFrame(rows).set_index("data set").round(digits)

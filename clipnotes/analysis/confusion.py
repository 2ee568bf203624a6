"""Which classes CLIP takes for which: confusion matrices, averaged over random prompts (paper B, Fig. 6)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from clipnotes.backbone.clip import Clip
from clipnotes.checks import NUMBERED, Whole, as_tensor, class_labels
from clipnotes.errors import ClipnotesError
from clipnotes.methods.inputs import unit_features
from clipnotes.methods.prompts import PromptTuning
from clipnotes.seeding import generator

DRAWS_AT_ONCE = 8  # bounds the memory of the text tower


@dataclass(frozen=True)
class Confusion:
    """How the images of every class are classified, as a mean over draws of the classifier.

    matrix: share of the images of class i (row) that are taken for class j (column), float64 [C, C]; rows sum to 1.
    classnames: C names. accuracies: top-1 accuracy of every draw, float64 [draws].
    With y int64 [N], `corrupt_labels(y, rate, "confusion", logits=matrix[y])` flips labels to the class that theirs is
    most often taken for (the first other class where it never is).
    """
    matrix: np.ndarray
    classnames: list
    accuracies: np.ndarray

    def order(self) -> np.ndarray:
        """Classes in an order that puts those next to each other that are taken for one another: int64 [C].

        Average linkage of the distances 1 - (m_ij + m_ji) / 2, leaves in the order with the least sum of distances
        between neighbours. Use it as matrix[np.ix_(order, order)].
        """
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        if len(self.matrix) < 3:
            return np.arange(len(self.matrix))
        distance = 1 - (self.matrix + self.matrix.T) / 2
        np.fill_diagonal(distance, 0)
        return leaves_list(linkage(squareform(distance), "average", optimal_ordering=True)).astype(np.int64)

    def pairs(self, k: int = 10) -> pd.DataFrame:
        """The k most frequent confusions, most frequent first: a DataFrame with columns true, predicted (names), share.

        The index holds the labels (true, predicted): two classes may bear one name, as some of ImageNet's do. (a, b) and (b, a)
        are two pairs. Pairs that never occur are left out.
        """
        wrong = self.matrix * (1 - np.eye(len(self.matrix)))
        best = np.argsort(-wrong, axis=None, kind="stable")[:k]
        best = best[wrong.flat[best] > 0]
        rows, columns = np.unravel_index(best, wrong.shape)
        return pd.DataFrame({"true": [self.classnames[i] for i in rows], "predicted": [self.classnames[j] for j in columns],
                             "share": wrong[rows, columns]}, index=pd.MultiIndex.from_arrays([rows, columns]))


def confusion(predicted: Any, y: Any, classnames: Sequence[str]) -> Confusion:
    """The `Confusion` of predictions int64 [N], or of several classifiers [draws, N], of images with true labels y [N].

    Raises ClipnotesError for labels out of range, shapes that do not fit, and a class without images.
    """
    classnames, n_classes = list(classnames), len(classnames)
    predicted = torch.atleast_2d(as_tensor(predicted, "predicted", NUMBERED))
    draws, n = predicted.shape
    y = class_labels(y, "y", n, n_classes)
    class_labels(predicted.flatten(), "predicted", draws * n, n_classes)
    images = torch.bincount(y, minlength=n_classes)
    if not images.all():
        name = classnames[int(images.argmin())]
        raise ClipnotesError(f"Class {name!r} has no image among the {n}, so its row has no shares; give images of every "
                             "class, or only the names of those that occur.")
    counts = torch.bincount((y * n_classes + predicted).flatten(), minlength=n_classes**2).view(n_classes, n_classes)
    matrix = counts.double() / (draws * images[:, None])
    return Confusion(matrix.numpy(), classnames, (predicted == y).double().mean(1).numpy())


@torch.no_grad()
def averaged_confusion(clip: Clip, x: Any, y: Any, classnames: Sequence[str], draws: int = 100, n_context: int = 16,
                       seed: int = 1, progress: bool = True) -> Confusion:
    """The `Confusion` of zero-shot CLIP with random prompts in place of a template (paper B, Fig. 6).

    Every draw puts before the class names n_context vectors shared by all classes, drawn as prompt tuning's start is.
    What is confused on the average over draws belongs to the class names and the images, not to a wording.
    x: image features [N, d], of which N, as in the paper, are those of the test split; y: true labels [N]. Fewer draws
    are a beginning of more. Raises ClipnotesError as `confusion` and `PromptTuning` do, and for no draws.
    """
    from clipnotes.progress import progress_bar

    Whole(1)(draws, "draws")
    x = unit_features(x, "x", clip.dim).float()
    prompts, random = PromptTuning(clip, classnames, n_context=n_context).start(), generator(seed, "random prompts")
    contexts = torch.stack([prompts.layout_.untrained(random).cpu() for _ in range(draws)])  # [draws, n, w]
    predicted = []
    with progress_bar(total=draws, desc="random prompts", leave=False, disable=not progress) as bar:
        for part in contexts.to(clip.device).split(DRAWS_AT_ONCE):
            for text in F.normalize(prompts.layout_.encoder(part), dim=-1).cpu():  # [C, d]
                predicted.append((x @ text.T).argmax(1))
            bar.update(len(part))
    return confusion(torch.stack(predicted), y, classnames)


def kept_words(confusion: Confusion) -> pd.DataFrame | None:
    """Which words the confusions between two-word class names ("red star") keep: a DataFrame, None for other names.

    Columns: kept ("first word", "second word" or "neither"), share of all confusions, chance (the share if every wrong
    class were as likely as any other).
    """
    words = [name.replace("_", " ").split() for name in confusion.classnames]
    if any(len(name) != 2 for name in words):
        return None
    first, second = (np.equal.outer(column, column) for column in np.array(words, dtype=object).T)
    other = ~np.eye(len(words), dtype=bool)
    kept = {"first word": first & other, "second word": second & other, "neither": ~first & ~second}
    mass = confusion.matrix[other].sum()
    return pd.DataFrame([{"kept": name, "share": confusion.matrix[mask].sum() / mass, "chance": mask.sum() / other.sum()}
                         for name, mask in kept.items()])


def rank_correlation(a: np.ndarray, b: np.ndarray, draws: int = 500, seed: int = 0) -> tuple[float, float]:
    """(Spearman's rho, bound) of what two matrices [C, C] say of the pairs of different classes.

    Pairs that share a class are not independent, so the bound comes from relabelling: it is the absolute rho that 95 % of
    `draws` random renumberings of b's classes stay below (Mantel test). Both are NaN where a matrix is constant.
    """
    from scipy.stats import rankdata

    other = ~np.eye(len(a), dtype=bool)
    ranks = np.zeros((2, *other.shape))  # once: what is renumbered keeps its ranks
    ranks[:, other] = rankdata([np.asarray(matrix)[other] for matrix in (a, b)], axis=1)

    def rho(order: np.ndarray) -> float:
        with np.errstate(invalid="ignore"):
            return np.corrcoef(ranks[0][other], ranks[1][np.ix_(order, order)][other])[0, 1]

    orders = (np.random.default_rng([seed, draw]).permutation(len(other)) for draw in range(draws))
    return float(rho(np.arange(len(other)))), float(np.quantile([abs(rho(order)) for order in orders], 0.95))

"""Linear probes on frozen features, one or many at once: the baselines of paper B (Fig. 1, Fig. 2, Table 1)."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F

from clipnotes.checks import FLAG, Number, OneOf, Whole, class_labels, feature_matrix
from clipnotes.errors import ClipnotesError
from clipnotes.methods.base import Classifier, LinearClassifier
from clipnotes.methods.inputs import unit_features, unit_texts, unit_views
from clipnotes.methods.losses import RULES, gce_exponent, gce_of
from clipnotes.methods.sgd import PAPER, TRAINING, SGDConfig, batch_rows, batch_views, check_finite, learning_rate
from clipnotes.seeding import generator


class LinearProbe(LinearClassifier):
    """A linear layer on unit features, logits = scale x W' (+ b), trained with paper B's sgd.

    init: "random" (torch's start of a linear layer; Classifier-R), "text" (W are the unit class texts and b = 0, so that
    it starts as zero-shot CLIP; Classifier-C) or "zero". At scale 100 a random start is already sure of wrong classes,
    which GCE then hardly corrects; from zero it does. loss: "ce", "gce" or "mae", with q for "gce". seed: of the start and
    the order of the images. After `fit`: weight_ [C, d], bias_ [C], losses_, the mean loss of each epoch.
    """

    rules = RULES | TRAINING | {"init": OneOf("random", "text", "zero"), "scale": Number(0), "bias": FLAG}

    def __init__(self, init: str = "random", loss: str = "ce", q: float = 0.7, scale: float = 100.0, bias: bool = False,
                 sgd: SGDConfig = PAPER, seed: int = 1) -> None:
        self.init, self.loss, self.q, self.scale, self.bias, self.sgd, self.seed = init, loss, q, scale, bias, sgd, seed

    def fit(self, x: Any, y: Any, n_classes: int | None = None, text: Any = None, callback: Callable | None = None,
            progress: bool = True) -> Self:
        """Train on features [N, d], or on views [V, N, d] of which a row shows one an epoch, with labels [N].

        n_classes: C; by default that of text [C, d], else one more than the largest label. init="text" needs text.
        callback(epoch, probe), if given, is called after every epoch (from 1).
        Raises ClipnotesError for settings out of range, shapes, labels and values that do not fit, and where the loss
        diverges.
        """
        return fit_probes([self], [(x, y, n_classes, text)], callback, progress)[0]

    def logits(self, x: Any) -> torch.Tensor:
        """[N, C] from features [N, d], which need not be unit."""
        return super().logits(x) + self.bias_

    def checked(self, x: torch.Tensor, y: Any, n_classes: int | None = None, text: Any = None) -> tuple[torch.Tensor, ...]:
        """(labels [N], initial weight [C, d], initial bias [C]) for views x [V, N, d], all checked."""
        self.check_settings()
        Whole(1, optional=True)(n_classes, "n_classes")
        text = None if text is None else unit_texts(text, x.shape[-1])
        n_classes = n_classes or (None if text is None else len(text))
        y = class_labels(y, "y", x.shape[1], n_classes)
        n_classes = n_classes or 1 + int(y.max())
        if self.init == "text" and (text is None or len(text) != n_classes):
            raise ClipnotesError(f'init="text" needs the text features of all {n_classes} classes, but '
                                 f"{0 if text is None else len(text)} were given; give text [C, d].")
        return y, *self.start(n_classes, text, x)

    def start(self, n_classes: int, text: torch.Tensor | None, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Initial (weight [C, d], bias [C]), of the type of the features `like`."""
        d = like.shape[-1]
        if self.init != "random":
            return text.to(like) if self.init == "text" else like.new_zeros(n_classes, d), like.new_zeros(n_classes)
        random = generator(self.seed, "start")
        weight = torch.rand(n_classes, d, generator=random) * 2 - 1
        bias = torch.rand(n_classes, generator=random) * 2 - 1 if self.bias else torch.zeros(n_classes)
        return weight.to(like) / d**0.5, bias.to(like) / d**0.5


def fit_probes(probes: Sequence[LinearProbe], data: Sequence[tuple], callback: Callable | None = None,
               progress: bool = True) -> list[LinearProbe]:
    """Fit many `LinearProbe`s, each on its own data, as batched products; the result is that of fitting each by itself, to
    rounding.

    Any mix of probes; those of one `sgd`, one shape of x and one number of classes are trained together.
    data: a list of (x, y), (x, y, n_classes) or (x, y, n_classes, text) as `fit` takes them. callback(epoch, probe) is called
    for every probe after each of its epochs. Returns the probes. Raises as `fit` does.
    """
    probes, data = list(probes), list(data)
    if len(probes) != len(data):
        raise ClipnotesError(f"{len(probes)} probes, but {len(data)} pairs of features and labels; give one pair a probe.")
    views, alike = {}, defaultdict(list)
    for probe, (x, *targets) in zip(probes, data, strict=True):
        if id(x) not in views:
            views[id(x)] = unit_views(x, "x")  # once for all that share x
        x = views[id(x)]
        y, *start = probe.checked(x, *targets)
        alike[probe.sgd, x.shape, x.dtype, len(start[0])].append((probe, x, y, start))
    for members in alike.values():
        fit_alike(*zip(*members, strict=True), callback, progress)
    return probes


def fit_alike(probes: Sequence[LinearProbe], xs: Sequence[torch.Tensor], ys: Sequence[torch.Tensor],
              starts: Sequence[Sequence[torch.Tensor]], callback: Callable | None, progress: bool) -> None:
    """Train P probes in step on views [V, N, d] of one shape and labels [N], from starts (weight [C, d], bias [C])."""
    from clipnotes.progress import progress_bar

    sgd, (n_views, n, _) = probes[0].sgd, xs[0].shape
    distinct = {id(x): x for x in xs}
    pool, y = torch.stack(list(distinct.values())), torch.stack(ys)  # [U, V, N, d], [P, N]
    source = torch.tensor([list(distinct).index(id(x)) for x in xs])[:, None]  # [P, 1]
    scale, q = (torch.tensor(values).to(pool)[:, None]
                for values in ([p.scale for p in probes], [gce_exponent(p.loss, p.q) for p in probes]))
    has_bias = torch.tensor([p.bias for p in probes])[:, None]
    weight, bias = map(torch.stack, zip(*starts, strict=True))
    steps = [(parameter, torch.zeros_like(parameter)) for parameter in (weight, bias)]  # with their momentum

    orders = zip(*(batch_rows(n, sgd.batch_size, sgd.epochs, p.seed) for p in probes), strict=True)
    shown = zip(*(batch_views(n_views, n, sgd.epochs, p.seed) for p in probes), strict=True)
    losses = []
    bar = progress_bar(zip(orders, shown, strict=True), total=sgd.epochs, unit="epoch", leave=False, disable=not progress,
               desc=f"fitting {len(probes)} probes")
    for epoch, (batches, view) in enumerate(bar, 1):
        batches, view = torch.stack(batches, 1), torch.stack(view)  # [steps, P, b], [P, N]
        lr, total = learning_rate(epoch, sgd.epochs, sgd.lr, sgd.warmup_lr), 0
        for rows in batches:
            batch = pool[source, view.gather(1, rows), rows]  # [P, b, d]
            loss, *gradients = loss_and_gradients(batch, y.gather(1, rows), weight, bias, scale, q)
            gradients[1] *= has_bias
            for (parameter, velocity), gradient in zip(steps, gradients, strict=True):
                velocity.mul_(sgd.momentum).add_(gradient).add_(parameter, alpha=sgd.weight_decay)
                parameter.sub_(velocity, alpha=lr)
            total += loss
        losses.append(total / len(batches))
        check_finite(losses[-1].sum().item(), (weight, bias), epoch, sgd.lr)
        if callback or epoch == sgd.epochs:
            hand_over(probes, weight, bias, losses)
        if callback:
            for probe in probes:
                callback(epoch, probe)


def loss_and_gradients(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, scale: torch.Tensor,
                       q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean losses [P] of P probes and their gradients, [P, C, d] and [P, C].

    x [P, b, d], y [P, b], scale and q [P, 1]. In closed form: the gradient with respect to a row's logits is
    p_y^q (p - one_hot(y)), where q = 0 is cross entropy (paper B, eq. 2 and 3).
    """
    logits = scale[..., None] * x @ weight.mT + bias[:, None]  # [P, b, C]
    log_p = F.log_softmax(logits, -1)
    log_py = log_p.gather(-1, y[..., None])[..., 0]  # [P, b]
    error = log_p.exp().scatter_(-1, y[..., None], 0)
    error.scatter_(-1, y[..., None], -error.sum(-1, keepdim=True))  # 1 - p_y, without loss of digits where p_y is almost 1
    error *= (q * log_py).exp()[..., None] / y.shape[1]
    return gce_of(log_py, q).mean(1), scale[..., None] * (error.mT @ x), error.sum(1)


def hand_over(probes: Sequence[LinearProbe], weight: torch.Tensor, bias: torch.Tensor, losses: list[torch.Tensor]) -> None:
    """Store copies of what has been learnt so far, each in its probe."""
    for probe, w, b, history in zip(probes, weight.clone(), bias.clone(), torch.stack(losses, 1).tolist(), strict=True):
        probe.weight_, probe.bias_, probe.losses_ = w, b, history


class LogisticProbe(Classifier):
    """scikit-learn's logistic regression, as in an early version of paper B's code: C = 1e3 on raw features.

    unit: whether features are made unit first. After `fit`: model_, n_classes_.
    """

    rules = {"C": Number(0, above=True), "unit": FLAG, "max_iter": Whole(1)}

    def __init__(self, C: float = 1e3, unit: bool = False, max_iter: int = 1000) -> None:
        self.C, self.unit, self.max_iter = C, unit, max_iter

    def fit(self, x: Any, y: Any, n_classes: int | None = None) -> Self:
        """Train on features [N, d] (of views [V, N, d] the mean) and labels [N] with two classes or more."""
        from sklearn.linear_model import LogisticRegression

        self.check_settings()
        x = self.prepared(x)
        y = class_labels(y, "y", len(x), n_classes)
        if len(y.unique()) < 2:
            raise ClipnotesError(f"All {len(y)} labels are {y[0]}; a logistic probe needs two classes or more.")
        self.n_classes_ = n_classes or 1 + int(y.max())
        self.model_ = LogisticRegression(C=self.C, max_iter=self.max_iter, random_state=0).fit(x.numpy(), y.numpy())
        return self

    def logits(self, x: Any) -> torch.Tensor:
        """Log probabilities [N, C] of features [N, d]; -inf for classes without a training image."""
        model = self.fitted("model_")
        x = self.prepared(x, model.n_features_in_)
        scores = torch.from_numpy(model.decision_function(x.numpy())).to(x)
        if len(model.classes_) == 2:  # one score a row: how much the second class is preferred
            scores = torch.stack([torch.zeros_like(scores), scores], dim=1)
        logits = x.new_full((len(x), self.n_classes_), -torch.inf)
        logits[:, model.classes_] = F.log_softmax(scores, dim=1)
        return logits

    def prepared(self, x: Any, width: int | None = None) -> torch.Tensor:
        if self.unit:
            return unit_features(x, "x", width)
        x = feature_matrix(x, "x", width)
        return x.mean(0) if x.ndim == 3 else x

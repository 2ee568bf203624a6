"""Linear probes on frozen features, one or many at once: the baselines of paper B (Fig. 1, Fig. 2, Table 1)."""
from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import torch
import torch.nn.functional as F

from clipnotes.checks import class_labels
from clipnotes.errors import ClipnotesError
from clipnotes.methods.inputs import not_negative, unit_features, unit_views
from clipnotes.methods.losses import gce_of, loss_function
from clipnotes.methods.sgd import batch_rows, batch_views, check_loss, generator, learning_rate, make_recipe

INITS = ("random", "text", "zero")


class Classifier:
    """What all classifiers with `logits` share."""

    def predict(self, x):
        """Most likely class of each row: int64 [N]."""
        return self.logits(x).argmax(1)

    def score(self, x, y):
        """Top-1 accuracy in [0, 1]."""
        return (self.predict(x) == torch.as_tensor(y)).double().mean().item()

    def fitted(self, name):
        """The learnt value `name`; ClipnotesError before `fit`."""
        if not hasattr(self, name):
            raise ClipnotesError(f"this {type(self).__name__} has learnt nothing yet; call fit first")
        return getattr(self, name)


class LinearProbe(Classifier):
    """A linear layer on unit features, logits = scale x W' (+ b), trained with paper B's recipe.

    init: "random" (torch's start of a linear layer; Classifier-R), "text" (W are the unit class texts and b = 0, so that
    it starts as zero-shot CLIP; Classifier-C) or "zero". At scale 100 a random start is already sure of wrong classes,
    which GCE then hardly corrects; from zero it does. loss: "ce", "gce" or "mae", with q for "gce". recipe: fields of
    `sgd.Recipe`, such as lr, epochs, seed. After `fit`: weight_ [C, d], bias_ [C], losses_, the mean loss of each epoch.
    """

    def __init__(self, init="random", loss="ce", q=0.7, scale=100.0, bias=False, **recipe):
        if init not in INITS:
            raise ClipnotesError(f"init = {init!r} is unknown; choose {', '.join(INITS)}")
        not_negative(scale=scale)
        self.q = loss_function(loss, q).keywords["q"]  # cross entropy is q = 0
        self.init, self.loss, self.scale, self.bias, self.recipe = init, loss, scale, bias, make_recipe(recipe)

    def fit(self, x, y, n_classes=None, text=None, callback=None):
        """Train on features [N, d], or on views [V, N, d] of which a row shows one an epoch, with labels [N].

        n_classes: C; by default that of text [C, d], else one more than the largest label. init="text" needs text.
        callback(epoch, probe), if given, is called after every epoch (from 1).
        Raises ClipnotesError for shapes, labels and values that do not fit, and where the loss diverges.
        """
        return fit_probes([self], [x], [y], n_classes, text, callback, progress=False)[0]

    def logits(self, x):
        """[N, C] from features [N, d], which need not be unit."""
        weight = self.fitted("weight_")
        return self.scale * unit_features(x, "x", weight.shape[1]).to(weight.dtype) @ weight.T + self.bias_

    def start(self, n_classes, text, like):
        """Initial (weight [C, d], bias [C]), of the type of the features `like`."""
        d = like.shape[-1]
        if self.init != "random":
            return text.to(like) if self.init == "text" else like.new_zeros(n_classes, d), like.new_zeros(n_classes)
        random = generator(self.recipe.seed, "start")
        weight = torch.rand(n_classes, d, generator=random) * 2 - 1
        bias = torch.rand(n_classes, generator=random) * 2 - 1 if self.bias else torch.zeros(n_classes)
        return weight.to(like) / d**0.5, bias.to(like) / d**0.5


def fit_probes(probes, x, y, n_classes=None, text=None, callback=None, progress=True):
    """Fit many `LinearProbe`s at once, as batched products; the result is that of fitting each by itself, to rounding.

    Any mix of seeds, losses and starts. x, y: features and labels for all, as in `LinearProbe.fit`, or lists with one
    entry a probe, where noise rates or drawn images differ; entries of one shape are trained together. All probes need
    one recipe but for the seed. callback(epoch, probe) is called for every probe. Returns the probes.
    """
    probes = list(probes)
    xs, ys = (value if isinstance(value, (list, tuple)) else [value] * len(probes) for value in (x, y))
    if not len(probes) == len(xs) == len(ys) > 0:
        raise ClipnotesError(f"{len(probes)} probes, {len(xs)} sets of features and {len(ys)} of labels; give one of each "
                             "a probe")
    if len({replace(probe.recipe, seed=0) for probe in probes}) > 1:
        raise ClipnotesError("probes with different recipes cannot be fitted together; let only their seeds differ")
    text = None if text is None else unit_features(text, "text")
    n_classes = n_classes or (1 + max(int(torch.as_tensor(y).max()) for y in ys) if text is None else len(text))
    if any(probe.init == "text" for probe in probes) and (text is None or len(text) != n_classes):
        raise ClipnotesError(f'init="text" needs the text features of all {n_classes} classes, but '
                             f"{0 if text is None else len(text)} were given; give text [C, d]")
    views = {id(x): unit_views(x, "x", None if text is None else text.shape[1]) for x in xs}  # once for all that share x
    alike = defaultdict(list)
    for probe, x, y in zip(probes, xs, ys, strict=True):
        x = views[id(x)]
        alike[x.shape, x.dtype].append((probe, x, class_labels(y, "y", x.shape[1], n_classes)))
    for members in alike.values():
        fit_alike(*zip(*members, strict=True), n_classes, text, callback, progress)
    return probes


def fit_alike(probes, xs, ys, n_classes, text, callback, progress):
    """Train P probes in step on views [V, N, d] of one shape and labels [N]."""
    from tqdm.auto import tqdm

    recipe, (n_views, n, _) = probes[0].recipe, xs[0].shape
    distinct = {id(x): x for x in xs}
    pool, y = torch.stack(list(distinct.values())), torch.stack(ys)  # [U, V, N, d], [P, N]
    source = torch.tensor([list(distinct).index(id(x)) for x in xs])[:, None]  # [P, 1]
    scale, q = (torch.tensor(values).to(pool)[:, None] for values in ([p.scale for p in probes], [p.q for p in probes]))
    has_bias = torch.tensor([p.bias for p in probes])[:, None]
    weight, bias = map(torch.stack, zip(*(p.start(n_classes, text, xs[0]) for p in probes), strict=True))
    steps = [(parameter, torch.zeros_like(parameter)) for parameter in (weight, bias)]  # with their momentum

    orders = zip(*(batch_rows(n, recipe.batch_size, recipe.epochs, p.recipe.seed) for p in probes), strict=True)
    shown = zip(*(batch_views(n_views, n, recipe.epochs, p.recipe.seed) for p in probes), strict=True)
    losses = []
    bar = tqdm(zip(orders, shown, strict=True), total=recipe.epochs, unit="epoch", leave=False, disable=not progress,
               desc=f"fitting {len(probes)} probes")
    for epoch, (batches, view) in enumerate(bar, 1):
        batches, view = torch.stack(batches, 1), torch.stack(view)  # [steps, P, b], [P, N]
        lr, total = learning_rate(epoch, recipe.epochs, recipe.lr, recipe.warmup_lr), 0
        for rows in batches:
            batch = pool[source, view.gather(1, rows), rows]  # [P, b, d]
            loss, *gradients = loss_and_gradients(batch, y.gather(1, rows), weight, bias, scale, q)
            gradients[1] *= has_bias
            for (parameter, velocity), gradient in zip(steps, gradients, strict=True):
                velocity.mul_(recipe.momentum).add_(gradient).add_(parameter, alpha=recipe.weight_decay)
                parameter.sub_(velocity, alpha=lr)
            total += loss
        losses.append(total / len(batches))
        check_loss(losses[-1].sum().item(), epoch, recipe.lr)
        if callback or epoch == recipe.epochs:
            hand_over(probes, weight, bias, losses)
        if callback:
            for probe in probes:
                callback(epoch, probe)


def loss_and_gradients(x, y, weight, bias, scale, q):
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


def hand_over(probes, weight, bias, losses):
    """Store copies of what has been learnt so far, each in its probe."""
    for probe, w, b, history in zip(probes, weight.clone(), bias.clone(), torch.stack(losses, 1).tolist(), strict=True):
        probe.weight_, probe.bias_, probe.losses_ = w, b, history


class LogisticProbe(Classifier):
    """scikit-learn's logistic regression, as in an early version of paper B's code: C = 1e3 on raw features.

    unit: whether features are made unit first. After `fit`: model_, n_classes_.
    """

    def __init__(self, C=1e3, unit=False, max_iter=1000):
        self.C, self.unit, self.max_iter = C, unit, max_iter

    def fit(self, x, y, n_classes=None):
        """Train on features [N, d] (of views [V, N, d] the mean) and labels [N] with two classes or more."""
        from sklearn.linear_model import LogisticRegression

        x = self.prepared(x)
        y = class_labels(y, "y", len(x), n_classes)
        if len(y.unique()) < 2:
            raise ClipnotesError(f"all {len(y)} labels are {y[0]}; a logistic probe needs two classes or more")
        self.n_classes_ = n_classes or 1 + int(y.max())
        self.model_ = LogisticRegression(C=self.C, max_iter=self.max_iter, random_state=0).fit(x.numpy(), y.numpy())
        return self

    def logits(self, x):
        """Log probabilities [N, C] of features [N, d]; -inf for classes without a training image."""
        model = self.fitted("model_")
        x = self.prepared(x, model.n_features_in_)
        scores = torch.from_numpy(model.decision_function(x.numpy())).to(x)
        if len(model.classes_) == 2:  # one score a row: how much the second class is preferred
            scores = torch.stack([torch.zeros_like(scores), scores], dim=1)
        logits = x.new_full((len(x), self.n_classes_), -torch.inf)
        logits[:, model.classes_] = F.log_softmax(scores, dim=1)
        return logits

    def prepared(self, x, width=None):
        unit = unit_features(x, "x", width)  # with its checks
        if self.unit:
            return unit
        x = torch.as_tensor(x).to(unit)
        return x.mean(0) if x.ndim == 3 else x

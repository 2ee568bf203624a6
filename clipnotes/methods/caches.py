"""Cache models: zero-shot logits plus the votes of a few labelled images (Tip-Adapter, Tip-X, APE; paper A, section 2).

    logits = logit_scale x W' + alpha exp(-beta (1 - S)) L + what Tip-X or APE add

x: unit features [N, d]; W: unit class texts [C, d]; S: cosines of rows with the M cache keys [N, M]; L: one-hot labels
[M, C]. In the ++ forms of paper A corrected features (from adapters in the encoder, or `corrections`) give S, and only
S: the zero-shot term and the KL of Tip-X stay with the original ones.

Tables are kept class-major, [C, N], and affinities key-major, [M, N]: a product with L is then a sum of whole rows.
"""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from clipnotes.checks import class_labels
from clipnotes.errors import ClipnotesError
from clipnotes.methods.caches_search import best_on_grid, best_over_alpha, climb, named_grid
from clipnotes.methods.inputs import not_negative, unit_features


class TipAdapter:
    """Training-free Tip-Adapter: logits = logit_scale x W' + alpha exp(-beta (1 - S)) L.

    chunk: bytes that affinities [M, n] may take at once; rows are handled in as many parts as that needs.
    After `search`: alpha_, beta_, val_accuracy_, and to plot curve_ (best setting and accuracy of every beta) and
    surface_ (accuracy over alpha and beta), both DataFrames; table_ [alphas, betas, gammas] over the axes of grid_.
    """
    has_gamma, gamma, default_gammas = False, 0.0, (0.0,)

    def __init__(self, alpha=1.0, beta=5.5, logit_scale=100.0, chunk=2**28):
        not_negative(alpha=alpha, beta=beta, logit_scale=logit_scale)
        self.alpha, self.beta, self.logit_scale, self.chunk = alpha, beta, float(logit_scale), chunk

    def fit(self, keys, labels, text, affinity_keys=None):
        """Store the cache: keys [M, d] (or [V, M, d]: mean over raw views, then unit), labels [M], class texts [C, d].

        Classes may have any number of keys, none included. affinity_keys [M, d'] (or [V, M, d']): corrected features
        of the same images, for the ++ form. Raises ClipnotesError for shapes, labels and values that do not fit.
        """
        self.text_ = unit_features(text, "text")
        self.keys_ = unit_features(keys, "keys", self.text_.shape[1])
        self.labels_ = class_labels(labels, "labels", len(self.keys_), len(self.text_))
        self.corrected_ = affinity_keys is not None
        self.affinity_keys_ = unit_features(affinity_keys, "affinity_keys") if self.corrected_ else self.keys_
        if len(self.affinity_keys_) != len(self.keys_):
            raise ClipnotesError(f"{len(self.affinity_keys_)} affinity_keys for {len(self.keys_)} keys; "
                                 "give both for the same images in the same order")
        self.affinity_width_ = self.affinity_keys_.shape[1]  # APE then keeps only some of it
        self.alpha_, self.beta_, self.gamma_ = self.alpha, self.beta, self.gamma
        return self

    def logits(self, x, affinity_x=None):
        """[N, C] from features [N, d]; affinity_x: corrected features of the same rows, for a cache fitted with such."""
        x, affinity_x = self.inputs(x, affinity_x)
        constant, per_gamma = self.fixed_terms(x, affinity_x)
        logits = constant + self.gamma_ * per_gamma
        for rows, _, _, votes in self.votes(affinity_x, [self.beta_], [self.gamma_]):
            logits[:, rows] += self.alpha_ * votes
        return logits.T.contiguous()

    def predict(self, x, affinity_x=None):
        """Most likely class of each row: int64 [N]."""
        return self.logits(x, affinity_x).argmax(1)

    def score(self, x, y, affinity_x=None):
        """Top-1 accuracy in [0, 1]."""
        return (self.predict(x, affinity_x) == torch.as_tensor(y)).double().mean().item()

    @property
    def table_(self):
        """Validation accuracies [alphas, betas, gammas] over the axes of grid_."""
        return self.found_.table

    @property
    def surface_(self):
        """Validation accuracy over alpha (rows) and beta (columns), at the best gamma of each pair: a DataFrame."""
        return self.found_.surface

    def search(self, val_x, val_y, affinity_x=None, grid=None, betas=None, gammas=None):
        """Choose alpha, beta (and gamma) by accuracy on validation data, in [0, 1].

        By default exact in alpha: for every beta (and gamma) of a log-spaced set, or of those given, the best alpha in
        [0, inf) is found by sweeping the points where a row's prediction changes, so that no grid with those betas
        (and gammas) does better. Ties go to the smaller beta, then gamma, then alpha.
        grid: a `Grid`, or "paper-a", "tip-adapter", "sus-x", "ape": these values and tie order instead, for parity.
        """
        x, affinity_x = self.inputs(val_x, affinity_x)
        y = class_labels(val_y, "val_y", len(x), len(self.text_))
        if grid is None:
            found = best_over_alpha(self, x, y, affinity_x, betas, gammas)
        else:
            found = best_on_grid(self, x, y, affinity_x, named_grid(grid, betas, gammas))
        self.alpha_, self.beta_, self.gamma_ = found.alpha, found.beta, found.gamma
        self.grid_, self.curve_, self.found_ = found.grid, found.curve, found
        self.refine(x, y, affinity_x, exact=grid is None)
        self.val_accuracy_ = self.score(x, y, affinity_x if self.corrected_ else None)
        return self

    def refine(self, x, y, affinity_x, exact):
        """What a method does after the search has chosen: nothing here."""

    def inputs(self, x, affinity_x):
        """Unit features for the zero-shot term and for the affinity."""
        if not hasattr(self, "labels_"):
            raise ClipnotesError(f"this {type(self).__name__} has no cache yet; call fit(keys, labels, text) first")
        if self.corrected_ != (affinity_x is not None):
            raise ClipnotesError("the cache was fitted with affinity_keys, but affinity_x is missing; give it" if
                                 self.corrected_ else "affinity_x was given to a cache without affinity_keys; drop it")
        x = unit_features(x, "x", self.text_.shape[1])
        affinity_x = unit_features(affinity_x, "affinity_x", self.affinity_width_) if self.corrected_ else x
        if len(affinity_x) != len(x):
            raise ClipnotesError(f"{len(affinity_x)} rows of affinity_x for {len(x)} rows of x; give the same images")
        return x, affinity_x

    def fixed_terms(self, x, affinity_x):
        """What depends on neither alpha nor beta: (constant, per gamma), [C, N] each."""
        zero_shot = (self.logit_scale * x @ self.text_.T).T.contiguous()
        return zero_shot, torch.zeros_like(zero_shot)

    def votes(self, affinity_x, betas, gammas):
        """Yield (rows, i, js, votes): with betas[i] and any of the gammas js, alpha * votes [C, n] joins these rows."""
        queries = self.queries(affinity_x)
        for rows in parts(len(queries), len(self.labels_), queries.element_size(), self.chunk):
            cosines = self.affinity_keys_ @ queries[rows].T  # [M, n]
            affinity = torch.empty_like(cosines)  # used anew for every beta: fresh memory costs as much as exp
            for i, beta in enumerate(betas):
                torch.sub(cosines, 1, out=affinity).mul_(beta).exp_()
                for js, weighted in self.weighted(affinity, gammas):
                    yield rows, i, js, class_sums(weighted, self.labels_, len(self.text_))

    def queries(self, affinity_x):
        """The features that meet the affinity keys."""
        return affinity_x

    def weighted(self, affinity, gammas):
        """Yield (js, affinity): how much each key [M, n] counts at the gammas js."""
        yield range(len(gammas)), affinity


class TipX(TipAdapter):
    """Tip-X adds to Tip-Adapter - gamma phi(M) L, closeness of class distributions (paper A, section 2.2).

    M_ij = KL(p_i || q_j) of p = softmax(x W' / temperature) and likewise q of the keys, original features always;
    phi maps the least and largest value of M onto those of S. So the logits of a row depend on all rows given together.
    compat="reference": as the published codes, rows past the last full hundred have M = 0; and after a search on
    SuS-X's grid phi maps onto the range of the validation affinities, as that code does.
    A constant M becomes the least cosine (compat="reference": NaN, the 0/0 of the published codes).
    """
    has_gamma, default_gammas = True, (0.0, *np.geomspace(0.03, 100, 16).tolist())

    def __init__(self, alpha=1.0, beta=5.5, gamma=1.0, logit_scale=100.0, temperature=0.5, compat=None, chunk=2**28):
        super().__init__(alpha, beta, logit_scale, chunk)
        not_negative(gamma=gamma)
        if not temperature > 0:
            raise ClipnotesError(f"temperature = {temperature} must be positive; the published one is 0.5")
        if compat not in (None, "reference"):
            raise ClipnotesError(f'compat = {compat!r} is unknown; it must be None or "reference"')
        self.gamma, self.temperature, self.compat = gamma, temperature, compat

    def fit(self, keys, labels, text, affinity_keys=None):
        """As `TipAdapter.fit`."""
        super().fit(keys, labels, text, affinity_keys)
        self.log_q_, self.stale_range_ = self.log_distribution(self.keys_), None
        return self

    def search(self, val_x, val_y, affinity_x=None, grid=None, betas=None, gammas=None):
        """As `TipAdapter.search`; exact: gamma from a set and then, at the best beta, both swept exactly in turns."""
        if self.compat and len(val_y) < 100:
            raise ClipnotesError(f'{len(val_y)} validation rows with compat="reference", but the published codes fill '
                                 "only full hundreds of rows; give 100 or more, or compat=None")
        self.stale_range_ = None
        return super().search(val_x, val_y, affinity_x, grid, betas, gammas)

    def refine(self, x, y, affinity_x, exact):
        """Sweep gamma and alpha in turns; or keep the range of the validation cosines for SuS-X's compat."""
        if exact:
            self.alpha_, self.gamma_ = climb(self, x, y, affinity_x)
        elif self.compat and self.grid_.stale_range:
            self.stale_range_ = self.cosine_range(affinity_x)

    def fixed_terms(self, x, affinity_x):
        """Zero-shot logits and -phi(M) L, [C, N] each.

        phi(M) = a (M - min M) + min S is affine, so class sums and extremes of M are enough: no [N, M] array is kept.
        """
        zero_shot, _ = super().fixed_terms(x, affinity_x)
        log_p, labels, n_classes = self.log_distribution(x), self.labels_, len(self.text_)
        filled, sums, extremes = len(x) // 100 * 100 if self.compat else len(x), [], []
        for rows in parts(len(x), len(labels), 8, self.chunk):
            kl = kl_affinity(log_p[rows], self.log_q_)  # [n, M]
            kl[max(filled - rows.start, 0):] = 0
            sums.append(class_sums(kl.T, labels, n_classes))
            extremes += kl.aminmax()
        low, high = min(extremes), max(extremes)
        target_low, target_high = self.stale_range_ or self.cosine_range(affinity_x)
        span = high - low if high > low or self.compat else 1
        a = (target_high - target_low) / span
        counts = torch.bincount(labels, minlength=n_classes)[:, None]  # the offset of phi comes once a key
        return zero_shot, -(a * (torch.cat(sums, 1) - low * counts) + target_low * counts).to(x.dtype)

    def log_distribution(self, x):
        """Log of the class distribution of each row, [N, C]."""
        return F.log_softmax(x @ self.text_.T / self.temperature, dim=1)

    def cosine_range(self, affinity_x):
        """Least and largest cosine between rows and keys."""
        slices = parts(len(affinity_x), len(self.labels_), affinity_x.element_size(), self.chunk)
        extremes = [value.double() for s in slices for value in (affinity_x[s] @ self.affinity_keys_.T).aminmax()]
        return min(extremes), max(extremes)


class APE(TipAdapter):
    """APE, training-free: Tip-Adapter on the channels that tell classes apart, keys weighted by the text's view of them.

        logits = logit_scale x W' + alpha exp(-beta (1 - S')) diag(r) L,   r_j = exp(gamma KL_j)

    S', and P = softmax of cosines of keys with texts, on n_channels selected channels, unit again (see
    `channel_criterion`); KL_j = log2((1 + 1e-6) / (P_j,y + 1e-6)): keys that their class text misses count more.
    The publication tunes n_channels (None: 65 % of d) and weights by data set; the defaults are its means.
    affinity_channels: those of corrected features are chosen from the corrected keys alone ("own": class means stand
    in for texts), or are the same as of the original ones ("same": sensible where channels keep their meaning).
    """
    has_gamma, default_gammas = True, tuple(np.linspace(0, 1.5, 11).tolist())

    def __init__(self, alpha=1.0, beta=5.5, gamma=0.1, n_channels=None, weights=(0.5, 0.5), affinity_channels="own",
                 logit_scale=100.0, chunk=2**28):
        super().__init__(alpha, beta, logit_scale, chunk)
        not_negative(gamma=gamma)
        if affinity_channels not in ("own", "same"):
            raise ClipnotesError(f'affinity_channels = {affinity_channels!r} is unknown; it must be "own" or "same"')
        self.gamma, self.n_channels, self.weights, self.affinity_channels = gamma, n_channels, weights, affinity_channels

    def fit(self, keys, labels, text, affinity_keys=None):
        """As `TipAdapter.fit`."""
        super().fit(keys, labels, text, affinity_keys)
        text, keys, labels = self.text_, self.keys_, self.labels_
        classes = torch.cat([torch.arange(len(text)), labels])  # texts are members of their classes, too
        self.criterion_ = channel_criterion(torch.cat([text, keys]), classes, text, self.weights)
        self.channels_ = self.affinity_channels_ = top_channels(self.criterion_, self.n_channels)
        probability = F.softmax(reduced(keys, self.channels_) @ reduced(text, self.channels_).T, dim=1)  # [M, C]
        self.divergence_ = torch.log2((1 + 1e-6) / (probability.gather(1, labels[:, None])[:, 0] + 1e-6))
        if self.corrected_ and self.affinity_channels == "own":
            present, classes = labels.unique(return_inverse=True)
            means = class_sums(self.affinity_keys_, classes, len(present)) / classes.bincount()[:, None]
            criterion = channel_criterion(self.affinity_keys_, classes, means, self.weights)
            self.affinity_channels_ = top_channels(criterion, self.n_channels)
        elif self.affinity_width_ != text.shape[1]:
            raise ClipnotesError(f'affinity_keys of size d = {self.affinity_width_} with affinity_channels="same", but '
                                 f'keys have d = {text.shape[1]}; use affinity_channels="own"')
        self.affinity_keys_ = reduced(self.affinity_keys_, self.affinity_channels_)
        return self

    def queries(self, affinity_x):
        """The selected channels, unit again."""
        return reduced(affinity_x, self.affinity_channels_)

    def weighted(self, affinity, gammas):
        """Every gamma weighs the keys in its own way."""
        weighted = torch.empty_like(affinity)
        for j, gamma in enumerate(gammas):
            yield [j], torch.mul(affinity, torch.exp(gamma * self.divergence_)[:, None], out=weighted)


def channel_criterion(members, classes, text, weights):
    """J [d] = -w0 s + w1 variance over classes of `text` [C, d]; channels with a large J tell classes apart.

    s: mean over all pairs of members [n, d] of different classes of the product of their values; with class sums t_c
    of n_c members, ((sum t_c)^2 - sum t_c^2) / (n^2 - sum n_c^2).
    """
    if len(text) < 2:
        raise ClipnotesError(f"{len(text)} class, but APE compares channels between classes; give two or more")
    sums, counts = class_sums(members, classes, len(text)), classes.bincount(minlength=len(text))
    mean_product = (sums.sum(0) ** 2 - (sums**2).sum(0)) / (len(members) ** 2 - (counts**2).sum())
    return -weights[0] * mean_product + weights[1] * text.var(0)


def reduced(x, channels):
    """These channels of unit features, unit again."""
    return F.normalize(x[:, channels], dim=1)


def top_channels(criterion, n_channels=None):
    """Indices of the channels with the largest criterion, in descending order."""
    n_channels = n_channels or round(0.65 * len(criterion))
    if not 1 <= n_channels <= len(criterion):
        raise ClipnotesError(f"n_channels = {n_channels} is out of range; features have {len(criterion)} channels")
    return criterion.topk(n_channels).indices


def kl_affinity(log_p, log_q):
    """M_ij = KL(p_i || q_j), float64 [N, M], from logs of distributions [N, C] and [M, C].

    sum_c p log p - p (log q)': one matrix product. The two parts nearly cancel, hence double precision.
    """
    log_p, log_q = log_p.double(), log_q.double()
    p = log_p.exp()
    return torch.addmm((p * log_p).sum(1), log_q, p.T, alpha=-1).T


def class_sums(values, labels, n_classes):
    """Sums of the rows of one class: L' values [C, n] of values [M, n]."""
    return values.new_zeros(n_classes, values.shape[1]).index_add_(0, labels, values)


def parts(n, m, itemsize, chunk):
    """Slices of n rows, such that three arrays of m values a row stay within `chunk` bytes."""
    step = max(1, int(chunk) // (3 * m * itemsize))
    return [slice(start, start + step) for start in range(0, n, step)]

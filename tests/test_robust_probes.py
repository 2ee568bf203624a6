"""Answers to wrong labels from the field, each against a small computation of its own."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import says
from sklearn.base import clone

from clipnotes.data import corrupt_labels
from clipnotes.methods.losses import gce_loss
from clipnotes.methods.losses_robust import forward_ce, smoothed_ce, symmetric_ce, uniform_transition
from clipnotes.methods.probes import LinearProbe
from clipnotes.methods.robust_probes import ANSWERS, RobustProbe, fit_robust
from clipnotes.methods.selection import agrees, clean_by_transport, kept_share, small_losses, transport
from clipnotes.methods.sgd import SGDConfig
from clipnotes.methods.strong_probes import EarlyStoppedProbe, LPPlusPlus


def problem(C=4, shots=16, d=10, spread=0.8, rate=0.5, seed=0):
    """(x, given labels, true labels, text): classes on random directions, texts near them."""
    g = torch.Generator().manual_seed(seed)
    true, centres = torch.arange(C).repeat_interleave(shots), F.normalize(torch.randn(C, d, generator=g), dim=1)
    x = F.normalize(centres[true] + spread * torch.randn(len(true), d, generator=g) / d**0.5, dim=1)
    text = F.normalize(centres + 0.2 * torch.randn(C, d, generator=g), dim=1)
    return x, corrupt_labels(true, rate, n_classes=C, seed=seed).labels, true, text


@pytest.mark.parametrize("probe, classes, options, message", [
    (RobustProbe("ce", init="text"), 4, {}, "^0 class texts for 4 classes; give text"),
    (RobustProbe("ce", init="text"), 4, {"n_classes": 5, "text": torch.eye(4, 10)}, "^4 class texts for 5 classes"),
    (RobustProbe("agreement"), 4, {"n_classes": 6, "text": torch.eye(4, 10)}, "^4 class texts for 6 classes"),
    (RobustProbe("forward", rho=0.1), 1, {}, "^1 class, but a wrong label needs another one"),
    (RobustProbe("small-loss", rho=0.1), 1, {}, "^1 class, but"),
    (RobustProbe("ce"), 4, {"n_classes": 4.5}, "n_classes = 4.5"),
])
def test_classes_and_texts_that_do_not_fit(probe, classes, options, message):
    x, _, true, _ = problem()
    with says(message):
        probe.fit(x, true % classes, **options)


LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.0, 0.0, 3.0], [1.0, -2.0, 0.3]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2])


def test_losses_number_by_number():
    p, log_p = LOGITS.softmax(1).numpy(), LOGITS.log_softmax(1)
    T = np.array([[0.8, 0.2, 0.0], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
    for i, y in enumerate(LABELS.tolist()):
        ce, rce = -math.log(p[i, y]), sum(4 * p[i, k] for k in range(3) if k != y)
        assert symmetric_ce(log_p, LABELS, 0.1, 2.0)[i].item() == pytest.approx(0.1 * ce + 2 * rce)
        rce = -sum(p[i, k] * math.log(1e-4) for k in range(3) if k != y)
        assert symmetric_ce(log_p, LABELS, compat="reference")[i].item() == pytest.approx(0.1 * ce + rce)
        corrected = -math.log(sum(T[j, y] * p[i, j] for j in range(3)))
        assert forward_ce(log_p, LABELS, torch.tensor(T))[i].item() == pytest.approx(corrected)
    smooth = F.cross_entropy(LOGITS, LABELS, label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(smoothed_ce(log_p, LABELS, 0.2), smooth)


def test_limits_of_the_losses():
    log_p = LOGITS.log_softmax(1)
    ce = F.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(symmetric_ce(log_p, LABELS, 1, 0), ce)
    torch.testing.assert_close(symmetric_ce(log_p, LABELS, 0, 0.25).mean(), gce_loss(LOGITS, LABELS, 1.0))  # MAE
    torch.testing.assert_close(forward_ce(log_p, LABELS, torch.eye(3)), ce)
    torch.testing.assert_close(smoothed_ce(log_p, LABELS, 0), ce)
    torch.testing.assert_close(uniform_transition(0.3, 4).sum(1), torch.ones(4))
    for bad in (torch.eye(2), torch.eye(3) * 0.9, torch.tensor([[1.5, -0.5, 0], [0, 1, 0], [0, 0, 1]])):
        with says("Transition of shape .* does not fit"):
            forward_ce(log_p, LABELS, bad)
    with says("epsilon = 2 is out of range"):
        smoothed_ce(log_p, LABELS, 2)


def test_selections():
    assert agrees(LOGITS, torch.tensor([0, 1, 0])).tolist() == [True, False, True]
    losses = torch.tensor([[3.0, 1.0, 2.0, 9.0], [0.0, 5.0, 4.0, 1.0]])
    assert small_losses(losses, 0.5).tolist() == [[False, True, True, False], [True, False, False, True]]
    assert small_losses(losses, 0.0).sum(1).tolist() == [1, 1]
    assert [kept_share(e, 0.4) for e in (0, 5, 10, 50)] == pytest.approx([1, 0.8, 0.6, 0.6])


def test_transport_has_its_marginals_and_is_cheapest():
    """Against scipy's exact plan: with little entropy the coupling costs as much."""
    from scipy.optimize import linprog

    g = torch.Generator().manual_seed(0)
    cost = torch.rand(6, 3, generator=g, dtype=torch.float64)
    coupling = transport(cost, 0.02, rounds=2000)
    torch.testing.assert_close(coupling.sum(1), torch.full((6,), 1 / 6).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(coupling.sum(0), torch.full((3,), 1 / 3).double(), atol=1e-5, rtol=0)
    rows, columns = np.kron(np.eye(6), np.ones(3)), np.kron(np.ones(6), np.eye(3))
    exact = linprog(cost.flatten().numpy(), A_eq=np.vstack([rows, columns]), b_eq=[1 / 6] * 6 + [1 / 3] * 3)
    assert exact.fun <= (coupling * cost).sum().item() < exact.fun + 0.02
    with says("epsilon = 0 is out of range"):
        transport(cost, 0)
    with says("must be finite numbers"):
        transport(cost / 0)


def test_transport_is_balanced_where_zero_shot_is_not():
    """A class that zero-shot CLIP never prefers gets its share of images."""
    x, _, true, text = problem(rate=0.0)
    logits = 20 * x @ text.T
    logits[:, 0] -= 8
    balanced = transport(-logits.log_softmax(1), 0.1, 2000).argmax(1)
    zero_shot, ours = ((each == true).double().mean().item() for each in (logits.argmax(1), balanced))
    assert balanced.bincount(minlength=4).tolist() == pytest.approx([16] * 4, abs=3) and ours > zero_shot + 0.1
    assert clean_by_transport(logits, true).double().mean() == pytest.approx(ours)
    assert clean_by_transport(logits, true, compat="reference").double().mean() > zero_shot


def test_the_plain_answers_are_linear_probes():
    x, y, _, text = problem()
    for answer in ("ce", "gce", "mae"):
        for init in ("random", "text"):
            settings = {"init": init, "scale": 20, "seed": 3, "sgd": SGDConfig(epochs=6, lr=0.01)}
            ours = RobustProbe(answer, **settings).fit(x, y, text=text)
            probe = LinearProbe(loss=answer, **settings).fit(x, y, text=text)
            torch.testing.assert_close(ours.weight_, probe.weight_, atol=1e-4, rtol=1e-4)


def test_fitted_together_as_alone():
    x, y, true, text = problem()
    probes = [RobustProbe(a, 0.4, scale=20, init="zero", seed=s, sgd=SGDConfig(epochs=4)) for s, a in enumerate(ANSWERS, 1)]
    fit_robust(probes, x, [y] * 5 + [true] * 4, text=text)
    for probe, labels in zip(probes, [y] * 5 + [true] * 4, strict=True):
        alone = clone(probe).fit(x, labels, text=text)
        torch.testing.assert_close(probe.weight_, alone.weight_, atol=1e-5, rtol=1e-4)


def test_selected_rows_are_all_that_is_learnt_from():
    """With agreement, labels that zero-shot CLIP does not share may be anything; with them right nothing is lost."""
    x, y, true, text = problem(rate=0.5)
    believed = agrees(100 * x @ text.T, y)
    other = torch.where(believed, y, (y + 1) % 4)
    other = torch.where(~believed & (other == (100 * x @ text.T).argmax(1)), (other + 1) % 4, other)
    one, two = (RobustProbe("agreement", scale=20, sgd=SGDConfig(epochs=5)).fit(x, each, text=text) for each in (y, other))
    assert torch.equal(one.weight_, two.weight_) and one.used_ == pytest.approx(believed.double().mean().item())


@pytest.mark.parametrize("answer", ["mae", "forward", "small-loss", "agreement", "transport"])
def test_answers_beat_cross_entropy_under_half_wrong_labels(answer):
    gains = []
    for seed in range(3):
        x, y, true, text = problem(6, 16, 16, 1.0, 0.5, seed)
        plain, robust = (RobustProbe(a, 0.5, init="zero", scale=20, seed=seed, sgd=SGDConfig(lr=0.02)).fit(x, y, text=text)
                         for a in ("ce", answer))
        gains.append(robust.score(x, true) - plain.score(x, true))
    assert np.mean(gains) > 0


def test_rho_is_estimated_where_an_answer_needs_it():
    x, y, _, text = problem(shots=30, spread=0.5)
    assert abs(RobustProbe("forward", sgd=SGDConfig(epochs=1)).fit(x, y).rho_ - 0.5) < 0.15
    assert RobustProbe("small-loss", 0.2, sgd=SGDConfig(epochs=1)).fit(x, y).rho_ == 0.2
    assert RobustProbe("forward", transition=torch.eye(4), sgd=SGDConfig(epochs=1)).fit(x, y).rho_ is None


def test_bad_input():
    x, y, _, text = problem()
    with says('answer = "?\'?hope'):
        RobustProbe("hope").fit(x, y)
    for answer in ("agreement", "transport"):
        with says("has no text; give"):
            RobustProbe(answer).fit(x, y)
    with says('compat="reference" keeps the best step on validation images'):
        LPPlusPlus(compat="reference").fit(x, y, text)


def test_lp_plus_plus_step_by_step():
    """The first eleven steps, gradients by hand."""
    x, y, _, text = problem(rate=0.25)
    x, text = (F.normalize(each.double(), dim=1) for each in (x, text))
    model = LPPlusPlus(epochs=11).fit(x, y, text)
    X, t, N = x.numpy(), text.numpy(), len(x)
    Y = np.eye(4)[y.numpy()]
    W = Y.T @ X / Y.sum(0)[:, None]
    a, b, velocity = np.full(4, 250 * (W * t).sum(1).mean()), np.zeros(4), [0, 0]
    step_w, step_a = 4 * N / np.linalg.eigvalsh(X.T @ X)[-1], N / (4 * ((X @ t.T) ** 2).sum(0).max())
    for step in range(1, 12):
        z = X @ W.T + b + a * (X @ t.T)
        p = np.exp(z - z.max(1, keepdims=True))
        error = (p / p.sum(1, keepdims=True) - Y) / N
        gradient_a = (error * (X @ t.T)).sum(0)
        velocity = [0.9 * v + g for v, g in zip(velocity, (error.T @ X, error.sum(0)), strict=True)]
        W, b = W - step_w * velocity[0], b - step_w * velocity[1]
        a = a - step_a * gradient_a if step % 10 == 0 else a
    np.testing.assert_allclose(model.weight_.numpy(), W, atol=1e-8)
    np.testing.assert_allclose(model.bias_.numpy(), b, atol=1e-8)
    np.testing.assert_allclose(model.alpha_.numpy(), a, atol=1e-8)
    reference = LPPlusPlus(40, compat="reference").fit(x, y, text, val=(x, y))
    assert reference.score(x, y) >= max(LPPlusPlus(n, compat=None).fit(x, y, text).score(x, y) for n in (1,))


def test_early_stopping_is_never_worse_than_zero_shot_on_validation_images():
    x, y, true, text = problem(rate=0.75, seed=2)
    model = EarlyStoppedProbe(scale=20, sgd=SGDConfig(epochs=8, lr=0.02)).fit(x, y, text, val=(x, true))
    zero_shot = (x @ text.T).argmax(1).eq(true).double().mean().item()
    assert model.score(x, true) == max(model.val_accuracy_) >= zero_shot and len(model.val_accuracy_) == 9
    last = LinearProbe("text", scale=20, sgd=SGDConfig(epochs=8, lr=0.02)).fit(x, y, text=text)
    assert model.val_accuracy_[-1] == pytest.approx(last.score(x, true))

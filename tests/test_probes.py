"""Linear probes: the recipe, the gradients, many at once against one by one, published and measured numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN, says
from sgd_options import sgd_options
from sklearn.linear_model import LogisticRegression

from clipnotes.data import FeatureBank
from clipnotes.data.noise import corrupt_labels
from clipnotes.methods import ZeroShot
from clipnotes.methods.inputs import unit_views
from clipnotes.methods.losses import loss_function
from clipnotes.methods.probes import LinearProbe, LogisticProbe, fit_probes, loss_and_gradients
from clipnotes.methods.sgd import SGDConfig, batch_rows, batch_views, learning_rate


def problem(n=70, c=5, d=12, views=None, seed=0, dtype=torch.float64):
    """(features around class centres, labels, class texts)."""
    g = torch.Generator().manual_seed(seed)
    centres, y = torch.randn(c, d, generator=g, dtype=dtype), torch.arange(n) % c
    shape = (n, d) if views is None else (views, n, d)
    return centres[y] + torch.randn(*shape, generator=g, dtype=dtype), y, centres


# --- the training ---------------------------------------------------------------------------------------------------


def test_learning_rates_are_the_published_ones():
    with np.load(GOLDEN / "coop_prompt.npz", allow_pickle=False) as file:
        for epochs in (10, 50):
            ours = [learning_rate(epoch, epochs) for epoch in range(1, epochs + 1)]
            assert np.allclose(ours, file[f"lr_{epochs}_epochs"], rtol=0, atol=1e-15)
    assert learning_rate(1, 50, warmup_lr=0.5) == 0.5 and learning_rate(27, 50, 0.02) == pytest.approx(0.01)


def test_batches():
    epochs = list(batch_rows(70, 32, 3, seed=1))
    assert [rows.shape for rows in epochs] == [(2, 32)] * 3  # the last 6 are left out
    assert all(len(rows.unique()) == 64 for rows in epochs) and not torch.equal(epochs[0], epochs[1])
    assert torch.equal(torch.stack(epochs[:2]), torch.stack(list(batch_rows(70, 32, 2, seed=1))))
    assert not torch.equal(epochs[0], next(batch_rows(70, 32, 1, seed=2)))
    assert [sorted(rows.tolist()[0]) for rows in batch_rows(5, 32, 2, 1)] == [[0, 1, 2, 3, 4]] * 2  # no other batch
    views = torch.stack(list(batch_views(3, 1000, 2, seed=1)))
    assert views.shape == (2, 1000) and (torch.bincount(views.flatten()) - 667).abs().max() < 90


@pytest.mark.parametrize("options, message", [
    ({"epochs": 0}, "^epochs = 0 is out of range; it must be a whole number of 1 or more.$"),
    ({"epochs": 1.5}, "^epochs = 1.5 is no whole number"), ({"batch_size": True}, "^batch_size = True is no whole number"),
    ({"lr": -1}, "^lr = -1 is out of range; it must be a number from 0 to 1000.$"),
    ({"lr": "high"}, "^lr = 'high' is no number"),
    ({"lr": 1e9}, "^lr = 1000000000.0 is out of range; it must be a number from 0 to 1000.$"),
    ({"momentum": float("nan")}, "^momentum = nan is out of range")])
def test_sgd_settings_out_of_range(options, message):
    with says(message):
        SGDConfig(**options)


def test_views_are_unit_each():
    x = problem(views=3)[0]
    assert torch.allclose(unit_views(x, "x"), F.normalize(x, dim=-1)) and unit_views(x[0], "x").shape == (1, 70, 12)


# --- the probe ----------------------------------------------------------------------------------------------------

LOSSES = [("ce", 0.7), ("gce", 0.7), ("gce", 0.2), ("mae", 0.7)]


def test_gradients_against_autograd():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 8, 6, generator=g, dtype=torch.float64), torch.randint(5, (4, 8), generator=g)
    weight, bias = (torch.randn(4, 5, *d, generator=g, dtype=torch.float64, requires_grad=True) for d in ((6,), ()))
    scale = torch.tensor([[1.0], [2], [0.5], [3]], dtype=torch.float64)
    losses = torch.stack([loss_function(*LOSSES[p])(scale[p] * x[p] @ weight[p].T + bias[p], y[p]) for p in range(4)])
    expected = torch.autograd.grad(losses.sum(), (weight, bias))
    q = torch.tensor([[0.0], [0.7], [0.2], [1]], dtype=torch.float64)
    loss, *gradients = loss_and_gradients(x, y, weight.detach(), bias.detach(), scale, q)
    assert torch.allclose(loss, losses, atol=1e-12)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss, q", LOSSES)
def test_fit_against_a_plain_loop(loss, q, bias):
    x, y, _ = problem(views=2)
    recipe = {"epochs": 4, "lr": 0.1, "momentum": 0.8, "weight_decay": 0.01, "seed": 3}
    probe = LinearProbe("random", loss, q, scale=3.0, bias=bias, **sgd_options(**recipe)).fit(x, y)
    unit = F.normalize(x, dim=-1)
    weight, offset = (start.requires_grad_() for start in probe.start(5, None, unit))
    assert (offset != 0).any() == bias and weight.abs().max() <= 12**-0.5
    optimizer = torch.optim.SGD([weight, offset] if bias else [weight], 1, momentum=0.8, weight_decay=0.01)
    mean_losses = []
    for epoch, (batches, views) in enumerate(zip(batch_rows(70, 32, 4, 3), batch_views(2, 70, 4, 3), strict=True), 1):
        optimizer.param_groups[0]["lr"] = learning_rate(epoch, 4, 0.1)
        values = []
        for rows in batches:
            value = loss_function(loss, q)(3 * unit[views[rows], rows] @ weight.T + offset, y[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
        mean_losses.append(np.mean(values))
    assert torch.allclose(probe.weight_, weight, atol=1e-12) and torch.allclose(probe.bias_, offset, atol=1e-12)
    assert np.allclose(probe.losses_, mean_losses)
    assert torch.allclose(probe.logits(unit[0]), 3 * unit[0] @ weight.T + offset)
    assert probe.score(x[0], y) == (probe.predict(x[0]) == y).double().mean().item()


def test_text_init_starts_as_zero_shot():
    x, y, text = problem(dtype=torch.float32)
    probe = LinearProbe("text", sgd=SGDConfig(lr=0, warmup_lr=0, epochs=1)).fit(x, y, text=7 * text)
    assert torch.allclose(probe.logits(x), ZeroShot(text).logits(x), atol=1e-4)
    start, _ = LinearProbe("zero").start(5, None, x)
    assert start.shape == (5, 12) and not start.any()


def test_many_at_once_are_each_by_itself():
    x, y, text = problem()
    other, other_y, _ = problem(n=64, seed=1)
    settings = [{"init": "text", "seed": 1}, {"loss": "gce", "seed": 2}, {"loss": "mae", "bias": True, "scale": 7.0},
                {"loss": "gce", "q": 0.3, "seed": 1}, {"init": "zero"}, {"init": "zero", "lr": 0.1}]
    xs, ys = [x, x, other, x, other, other], [corrupt_labels(y, 0.5).labels, y, other_y, y, other_y, other_y]
    together = fit_probes([LinearProbe(scale=s.pop("scale", 20.0), **sgd_options(epochs=5, **s)) for s in map(dict, settings)],
                          [(x, y, None, text) for x, y in zip(xs, ys, strict=True)], progress=False)
    for probe, s, x, y in zip(together, map(dict, settings), xs, ys, strict=True):
        alone = LinearProbe(scale=s.pop("scale", 20.0), **sgd_options(epochs=5, **s)).fit(x, y, text=text)
        assert torch.allclose(probe.weight_, alone.weight_, atol=1e-10) and np.allclose(probe.losses_, alone.losses_)
    shared_data = fit_probes([LinearProbe(seed=s) for s in (1, 2)], [(other, other_y)] * 2, progress=False)
    assert torch.allclose(shared_data[1].weight_, LinearProbe(seed=2).fit(other, other_y).weight_)


def test_equal_views_are_one_view_and_seeds_count():
    x, y, _ = problem(dtype=torch.float32)
    probe = LinearProbe(sgd=SGDConfig(epochs=3)).fit(x, y)
    assert torch.equal(LinearProbe(sgd=SGDConfig(epochs=3)).fit(torch.stack([x, 4 * x]), y).weight_, probe.weight_)
    assert torch.equal(LinearProbe(sgd=SGDConfig(epochs=3)).fit(x, y.tolist()).weight_, probe.weight_)
    assert not torch.equal(LinearProbe(seed=2, sgd=SGDConfig(epochs=3)).fit(x, y).weight_, probe.weight_)
    assert LinearProbe(sgd=SGDConfig(epochs=1)).fit(x, y, n_classes=9).logits(x).shape == (70, 9)


def test_callback_sees_every_epoch():
    x, y, _ = problem()
    seen = []
    probe = LinearProbe(sgd=SGDConfig(epochs=4))
    probe.fit(x, y, callback=lambda epoch, p: seen.append((epoch, p.weight_, len(p.losses_))))
    assert [(epoch, n) for epoch, _, n in seen] == [(e, e) for e in (1, 2, 3, 4)]
    assert torch.equal(seen[-1][1], probe.weight_)
    assert not torch.equal(seen[0][1], seen[1][1])  # copies, not one tensor that moves on


def test_logistic_probe():
    x, y, _ = problem(dtype=torch.float32)
    y = 2 * y  # the odd classes have no image
    probe = LogisticProbe().fit(x, y, n_classes=10)
    model = LogisticRegression(C=1e3, max_iter=1000, random_state=0).fit(x.numpy(), y.numpy())
    assert np.allclose(probe.logits(x)[:, ::2], model.predict_log_proba(x.numpy()), atol=1e-5)
    assert torch.isneginf(probe.logits(x)[:, 1::2]).all() and probe.score(x, y) == model.score(x.numpy(), y.numpy())
    unit = LogisticProbe(unit=True).fit(x, y)
    assert torch.allclose(unit.logits(9 * x), unit.logits(x), atol=1e-4)
    assert LogisticProbe().fit(x, (y > 2).long()).logits(x).shape == (70, 2)
    with says("^All 70 labels are 3; a logistic probe needs two classes or more.$"):
        LogisticProbe().fit(x, torch.full((70,), 3))


# --- bad input ----------------------------------------------------------------------------------------------------


def test_bad_input():
    x, y, text = problem()
    for probe, message in ((LinearProbe("clip"), "^init = 'clip' is unknown; choose 'random', 'text' or 'zero'.$"),
                           (LinearProbe(loss="nll"), "^loss = 'nll' is unknown"), (LinearProbe(q=2), "^q = 2 is out of range"),
                           (LinearProbe(scale=-1), "^scale = -1 is out of range"), (LinearProbe(seed=-1), "^seed = -1 is out"),
                           (LinearProbe(bias=1), "^bias = 1 is unknown; choose True or False.$"),
                           (LogisticProbe(C=0), "^C = 0 is out of range"),
                           (LogisticProbe(max_iter=1.5), "^max_iter = 1.5 is no")):
        with says(message):
            probe.fit(x, y)
    with says(r'^init="text" needs the text features of all 5 classes, but 0 were given; give text \[C, d\].$'):
        LinearProbe("text").fit(x, y)
    with says("^Label 4 in y is out of range; labels must be 0 to 3, as there are 4 classes.$"):
        LinearProbe().fit(x, y, n_classes=4)
    with says(r"^y has shape \[69\], but there are 70 rows of features; give one label each.$"):
        LinearProbe().fit(x, y[1:])
    with says("^text has features of size d = 11, but d = 12 is needed; both must come from one model.$"):
        LinearProbe("text").fit(x, y, text=text[:, 1:])
    with says("^1 rows of x hold NaN or infinite values; encode them again.$"):
        LinearProbe().fit(torch.cat([x, torch.full((1, 12), torch.nan)]), torch.cat([y, y[:1]]))
    with says("^The loss became (nan|inf) in epoch [0-9]+ with lr = 1000; lower lr.$"):
        LinearProbe(sgd=SGDConfig(lr=1000, weight_decay=1000, momentum=1, batch_size=4)).fit(x.float(), y)
    with says("^This LinearProbe has learnt nothing yet; call fit first.$"):
        LinearProbe().logits(x)
    with says("^2 probes, but 1 pairs of features and labels; give one pair a probe.$"):
        fit_probes([LinearProbe(), LinearProbe()], [(x, y)])


def test_weights_that_are_not_finite_are_no_result():
    x, y, _ = problem(dtype=torch.float32)
    with says("^What is learnt became infinite or NaN in epoch 1 with lr = 0.002; lower lr.$"):  # its loss was still finite
        LinearProbe("zero", scale=1e38, sgd=SGDConfig(epochs=1, warmup_lr=1000, batch_size=70)).fit(x, y)


# --- real features ------------------------------------------------------------------------------------------------


def test_probes_on_real_features(shared):
    """Oxford Pets, ViT-B/32, 16 shots; cross entropy as measured elsewhere with the same recipe, a mean of two seeds."""
    bank = FeatureBank.load(shared / "data" / "clip_vitb32" / "oxford_pets.npz")
    (x, y), (test_x, test_y) = ((part.unit(), part.y) for part in (bank.train, bank.test))
    rates = (0, 0.125, 0.25, 0.5)
    runs = [("ce", "random", rate, seed) for rate in rates for seed in (1, 2)]
    runs += [("gce", init, rate, 1) for init in ("random", "zero") for rate in (0, 0.5)]
    probes = fit_probes([LinearProbe(init, loss, seed=seed) for loss, init, _, seed in runs],
                        [(x, corrupt_labels(y, rate, n_classes=37, seed=seed).labels, 37) for _, _, rate, seed in runs],
                        progress=False)
    scores = np.array([100 * probe.score(test_x, test_y) for probe in probes])
    ce, gce = scores[:8].reshape(4, 2).mean(1), scores[8:].reshape(2, 2)
    assert np.allclose(ce, [79.2, 67.3, 54.4, 33.4], atol=3)
    # At 50 % noise GCE is far better. It pays for that without noise, unless it starts from zero.
    assert gce[0, 1] > ce[3] + 5 and gce[0, 0] < ce[0] - 10
    assert gce[1, 1] > ce[3] + 25 and gce[1, 0] > ce[0] - 2

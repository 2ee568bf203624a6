"""Gradients of noisy and clean labels: against autograd and differences of the loss, invariants, bad input."""

import pytest
import torch
import torch.nn.functional as F
from conftest import says
from sgd_options import sgd_options

from clipnotes.analysis.gradients import draw_groups, gradient, gradient_ratio, sample_gradient_norms
from clipnotes.data.noise import corrupt_labels
from clipnotes.methods import ZeroShot
from clipnotes.methods.losses import loss_function
from clipnotes.methods.probes import LinearProbe
from clipnotes.methods.prompts import PromptTuning
from clipnotes.seeding import generator

NAMES = ["red circle", "blue square", "king", "small star", "zigzag"]
LOSSES = [("ce", 0.7), ("gce", 0.7), ("gce", 0.3), ("mae", 0.7)]


@pytest.fixture(scope="module")
def text(clip):
    return clip.classifier(NAMES, ["a photo of a {}."])


@pytest.fixture(scope="module")
def data(text):
    """(x, given labels, is_noisy): 80 features near their class's text, half of the labels wrong."""
    y = torch.arange(80) % len(NAMES)
    noisy = corrupt_labels(y, 0.5, n_classes=len(NAMES))
    x = text[y] + 0.05 * torch.randn(80, text.shape[1], generator=torch.Generator().manual_seed(0))
    return 3 * x, noisy.labels, noisy.is_noisy


def few(clip, **options):
    """Prompts that are not yet trained."""
    return PromptTuning(clip, NAMES, **sgd_options(**{"n_context": 4, "epochs": 3, "batch_size": 16} | options)).start()


def probe(init="text", **options):
    return LinearProbe(init, **sgd_options(**{"epochs": 3, "batch_size": 16, "scale": 16} | options))


# --- the gradient -------------------------------------------------------------------------------------------------


def test_views_are_refused_not_all_but_one_ignored(data, text):
    x, y, _ = data
    model = probe().fit(x, y, text=text, progress=False)
    for measure in (gradient, sample_gradient_norms):
        with says(r"x has shape .3, 80, \d+., but must be .N, d.\.$"):
            measure(model, x.expand(3, -1, -1), y)


@pytest.mark.parametrize("loss, q", LOSSES)
@pytest.mark.parametrize("bias", [False, True])
def test_a_probe_against_autograd_sample_by_sample(data, text, loss, q, bias):
    x, y, _ = data
    model = probe("random", bias=bias).fit(x, y, text=text)
    weight, offset = model.weight_.double().requires_grad_(), model.bias_.double().requires_grad_()
    learnt, total = [weight, offset] if bias else [weight], 0
    for row, label in zip(F.normalize(x, dim=1).double(), y, strict=True):
        logits = 16 * weight @ row + offset
        p = logits.softmax(0)[label]
        value = {"ce": -p.log(), "gce": (1 - p**q) / q, "mae": 1 - p}[loss]
        total = total + torch.cat([part.flatten() for part in torch.autograd.grad(value, learnt)])
    found = gradient(model, x, y, loss, q)
    assert found.shape == (5 * x.shape[1] + 5 * bias,)
    torch.testing.assert_close(found, total / len(x), rtol=0, atol=1e-6 * total.abs().max().item())


@pytest.mark.parametrize("learn", ["context", "both"])
@pytest.mark.parametrize("loss", ["ce", "gce"])
def test_the_norm_of_prompts_is_the_slope_of_the_loss(clip, data, learn, loss):
    """Along the gradient the loss rises by its norm, and in a direction at right angles not at all."""
    x, y, _ = data
    model = few(clip, learn=learn, loss=loss)
    found, start = gradient(model, x, y), model.learnt_.clone()
    other = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    other -= (other @ found) / (found @ found) * found

    def slope(direction, step=2e-3):
        values = []
        for sign in (1, -1):
            model.learnt_ = start + sign * step * F.normalize(direction, dim=0).view(start.shape)
            values.append(loss_function(loss)(model.logits(x).double(), y).item())
        model.learnt_ = start
        return (values[0] - values[1]) / (2 * step)

    assert slope(found) == pytest.approx(found.norm().item(), rel=0.02)
    assert abs(slope(other)) < 0.03 * found.norm().item()


def test_a_model_s_own_loss_is_the_default(clip, data, text):
    x, y, _ = data
    for model in (few(clip, loss="gce", compat="reference"), probe(loss="gce", q=0.5).fit(x, y, text=text)):
        assert torch.equal(gradient(model, x, y), gradient(model, x, y, "gce", 0.5))
        assert not torch.allclose(gradient(model, x, y), gradient(model, x, y, "ce"))


def test_right_labels_that_are_all_but_certain_still_have_a_gradient(text):
    """Its rows sum to 0, as the probabilities sum to 1; in float32 the row of the label itself would vanish."""
    model = probe(scale=100, lr=0, warmup_lr=0).fit(text, torch.arange(5), text=text)
    found = gradient(model, text[2:3], torch.tensor([2])).view(5, -1)
    assert 0 < found.norm() < 1e-7
    assert found.sum(0).norm() < 1e-3 * found[2].norm()


@pytest.mark.parametrize("loss", ["ce", "gce"])
def test_norms_of_single_images_are_those_of_batches_of_one(clip, data, text, loss):
    x, y, _ = data
    for model in (few(clip, loss=loss).fit(x, y, progress=False), probe(loss=loss).fit(x, y, text=text),
                  probe(loss=loss, bias=True).fit(x, y, text=text)):
        norms = sample_gradient_norms(model, x[:20], y[:20])
        alone = [gradient(model, x[i:i + 1], y[i:i + 1]).norm().item() for i in range(20)]
        assert norms.tolist() == pytest.approx(alone, rel=1e-4, abs=1e-6)
        other = sample_gradient_norms(model, x[:3], y[:3], "mae")
        assert other[2].item() == pytest.approx(gradient(model, x[2:3], y[2:3], "mae").norm().item(), rel=1e-4, abs=1e-6)


# --- the table ----------------------------------------------------------------------------------------------------


def models(clip):
    return {"prompts": few(clip), "R": probe("random"), "prompts, GCE": few(clip, loss="gce", epochs=2),
            "C, GCE": probe(loss="gce", bias=True)}


def test_the_norms_of_every_epoch(clip, data, text):
    """As measured by hand in the same training, which the measuring does not disturb."""
    x, y, is_noisy = data
    fitted = models(clip)
    table = gradient_ratio(fitted, x, y, is_noisy, text=text, n=10, progress=False)
    assert list(table) == ["model", "epoch", "noisy", "clean", "ratio", "n"]
    assert table["model"].tolist() == ["prompts"] * 3 + ["R"] * 3 + ["prompts, GCE"] * 2 + ["C, GCE"] * 3
    assert table["epoch"].tolist() == [1, 2, 3, 1, 2, 3, 1, 2, 1, 2, 3]
    assert (table["n"] == 10).all() and (table["ratio"] == table["noisy"] / table["clean"]).all()
    groups = draw_groups(is_noisy, 80, 10, seed=1)
    for name, model in models(clip).items():
        norms = []

        def measure(epoch, model, norms=norms):
            norms.append([gradient(model, x[rows], y[rows]).norm().item() for rows in groups])

        options = {"progress": False} if isinstance(model, PromptTuning) else {"text": text}
        model.fit(x, y, callback=measure, **options)
        found = table.loc[table["model"] == name, ["noisy", "clean"]].to_numpy()
        assert found == pytest.approx(torch.tensor(norms).numpy(), rel=2e-3)
        for value in ("learnt_", "weight_", "bias_"):
            if hasattr(model, value):
                torch.testing.assert_close(getattr(fitted[name], value), getattr(model, value), rtol=0, atol=1e-5)
    again = gradient_ratio(models(clip), x, y, is_noisy, text=text, n=10, progress=False)
    assert again.equals(table)
    assert not gradient_ratio(models(clip), x, y, is_noisy, text=text, n=10, seed=2, progress=False).equals(table)


def test_the_groups_are_drawn_from_the_right_rows(data):
    is_noisy = data[2]
    noisy, clean = draw_groups(is_noisy, 80, 30, seed=1)
    assert len(noisy.unique()) == len(clean.unique()) == 30
    assert is_noisy[noisy].all() and not is_noisy[clean].any()
    few_noisy = torch.arange(80) < 6
    assert [len(rows) for rows in draw_groups(few_noisy, 80, 64, seed=1)] == [6, 6]
    assert [len(rows) for rows in draw_groups(~few_noisy, 80, 64, seed=1)] == [6, 6]
    assert draw_groups(few_noisy.numpy(), 80, 64, seed=1)[0].sort().values.tolist() == list(range(6))


def test_equal_groups_have_ratio_one(clip, data, text):
    x, y, is_noisy = data[0][:40].repeat(2, 1), data[1][:40].repeat(2), torch.arange(80) < 40
    table = gradient_ratio(models(clip), x, y, is_noisy, text=text, progress=False)
    assert (table["n"] == 40).all() and table["ratio"].to_numpy() == pytest.approx(1, abs=1e-3)


def test_exchanged_groups_have_the_inverse_ratio(clip, data, text):
    x, y, is_noisy = data
    one, other = (gradient_ratio(models(clip), x, y, flags, text=text, progress=False) for flags in (is_noisy, ~is_noisy))
    assert (one["ratio"] * other["ratio"]).to_numpy() == pytest.approx(1, abs=1e-4)


def test_one_loss_for_all(clip, data, text):
    """Before a probe has moved, gradients are those of the zero-shot classifier, in closed form for each loss."""
    x, y, is_noisy = data
    still = {name: probe(loss=loss, lr=0, warmup_lr=0) for name, loss in (("a", "ce"), ("b", "gce"))}
    table = gradient_ratio(still, x, y, is_noisy, text=text, loss="gce", q=0.5, progress=False)
    p = ZeroShot(text, 16).logits(x).softmax(1).double()
    factor = p.gather(1, y[:, None])**0.5
    for group, flags in (("noisy", is_noisy), ("clean", ~is_noisy)):
        error = 16 * factor * (p - F.one_hot(y, 5))
        expected = (error[flags].T @ F.normalize(x[flags], dim=1).double() / flags.sum()).norm().item()
        assert table[group].to_numpy() == pytest.approx(expected, rel=1e-4)
    assert (table["ratio"] < gradient_ratio(still, x, y, is_noisy, text=text, loss="ce", progress=False)["ratio"]).all()


def test_every_epoch_shows_one_view(data, text):
    x, y, is_noisy = data
    views = torch.stack([x, 7 * x.roll(1, 0), x.roll(2, 0)])
    still = {"C": probe(lr=0, warmup_lr=0)}
    table = gradient_ratio(still, views, y, is_noisy, text=text, n=40, progress=False)
    rows = draw_groups(is_noisy, 80, 40, seed=1)[0]
    for epoch, norm in enumerate(table["noisy"], 1):
        shown = torch.randint(3, (80,), generator=generator(1, f"views of epoch {epoch}"))
        expected = gradient(still["C"], views[shown[rows], rows], y[rows]).norm().item()
        assert norm == pytest.approx(expected, rel=1e-5)
    assert table["noisy"].nunique() == 3
    alike = gradient_ratio(still, torch.stack([x, 2 * x]), y, is_noisy, text=text, progress=False)
    one = gradient_ratio(still, x, y, is_noisy, text=text, progress=False)
    assert alike["ratio"].to_numpy() == pytest.approx(one["ratio"].to_numpy(), rel=1e-5)


# --- bad input ----------------------------------------------------------------------------------------------------


def test_bad_input(clip, data, text):
    x, y, is_noisy = data
    one = {"C": probe()}
    with says("^0 of 80 labels are noisy and 80 clean; the ratio needs both, so corrupt some labels and keep some.$"):
        gradient_ratio(one, x, y, torch.zeros(80, dtype=torch.bool), text=text)
    with says("^80 of 80 labels are noisy and 0 clean; the ratio needs both"):
        gradient_ratio(one, x, y, torch.ones(80, dtype=torch.bool), text=text)
    with says(r"^is_noisy has shape \[79\] and type torch.bool, but there are 80 rows of features; give one bool a row.$"):
        gradient_ratio(one, x, y, is_noisy[1:], text=text)
    with says(r"^is_noisy has shape \[80\] and type torch.int64, but"):
        gradient_ratio(one, x, y, is_noisy.long(), text=text)
    with says("^n = 0 is out of range; it must be a whole number of 1 or more.$"):
        gradient_ratio(one, x, y, is_noisy, text=text, n=0)
    with says("^No models given; give a dict of names with PromptTuning or LinearProbe.$"):
        gradient_ratio({}, x, y, is_noisy)
    with says("^Model 'Z' is a ZeroShot; give a PromptTuning or a LinearProbe.$"):
        gradient_ratio({"C": probe(), "Z": ZeroShot(text)}, x, y, is_noisy)
    with says("^Model 'bare' has n_context = 0, so nothing to train and no gradient; give it context.$"):
        gradient_ratio({"bare": few(clip, n_context=0)}, x, y, is_noisy)
    with says("^loss = 'mse' is unknown; choose 'ce', 'gce' or 'mae'.$"):
        gradient_ratio(one, x, y, is_noisy, text=text, loss="mse")
    with says(r"^y has shape \[79\], but there are 80 rows of features; give one label each.$"):
        gradient_ratio(one, x, y[1:], is_noisy, text=text)
    with says('^init="text" needs the text features of all 5 classes, but 0 were given'):
        gradient_ratio(one, x, y, is_noisy)
    with says("^This LinearProbe has learnt nothing yet; call fit first.$"):
        gradient(probe(), x, y)

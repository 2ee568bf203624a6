"""Losses on logits: published numbers, limits, gradients, stability."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN, says

from clipnotes.methods.losses import gce_loss, gce_losses, loss_function


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "gce.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def value_and_gradient(logits, labels, q):
    logits = logits.clone().requires_grad_()
    loss = gce_loss(logits, labels, q)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("case", ["", "_extreme"])
def test_published_values_and_gradients(golden, case):
    logits, labels = golden["logits" + case], golden["labels" + case]
    for i, q in enumerate(golden["q"].tolist()):
        loss, gradient = value_and_gradient(logits.double(), labels, q)
        torch.testing.assert_close(loss, golden["loss_pure_f64" + case][i], rtol=0, atol=1e-10)
        torch.testing.assert_close(gradient, golden["grad_pure_f64" + case][i], rtol=0, atol=1e-13)
        loss, gradient = value_and_gradient(logits, labels, q)  # float32 loses nothing that matters
        torch.testing.assert_close(loss.double(), golden["loss_pure_f64" + case][i], rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient.double(), golden["grad_pure_f64" + case][i], rtol=0, atol=1e-6)
        if q >= 0.5:  # the released code adds 1e-6 to the probability
            torch.testing.assert_close(loss.double(), golden["loss_reference_f64" + case][i], rtol=0, atol=2e-3)
            torch.testing.assert_close(gradient.double(), golden["grad_reference_f64" + case][i], rtol=0, atol=2e-5)


def test_many_batches_at_once_have_the_losses_of_each():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    labels, q = torch.randint(3, (4, 5), generator=generator), torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=torch.float64)
    together = gce_losses(logits, labels, q)
    alone = torch.stack([gce_loss(z, y, p.item()) for z, y, p in zip(logits, labels, q, strict=True)])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(*(torch.autograd.grad(losses.sum(), logits)[0] for losses in (together, alone)))


def test_between_cross_entropy_and_mean_absolute_error():
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(50, 6, generator=generator).double(), torch.randint(6, (50,), generator=generator)
    cross_entropy = F.cross_entropy(logits, labels)
    absolute = 1 - logits.softmax(1)[torch.arange(50), labels].mean()
    assert gce_loss(logits, labels, 0).item() == pytest.approx(cross_entropy.item(), abs=1e-12)
    assert gce_loss(logits, labels, 1e-9).item() == pytest.approx(cross_entropy.item(), abs=1e-6)
    assert gce_loss(logits, labels, 1).item() == pytest.approx(absolute.item(), abs=1e-12)
    values = [gce_loss(logits, labels, q).item() for q in (0, 0.1, 0.5, 0.7, 1)]
    assert values == sorted(values, reverse=True)
    for name, q in (("ce", 0), ("mae", 1), ("gce", 0.3)):
        assert loss_function(name, 0.3)(logits, labels) == gce_loss(logits, labels, q)
    assert gce_loss(logits, labels) == gce_loss(logits, labels, 0.7)


def test_the_gradient_is_that_of_cross_entropy_times_a_power_of_the_probability():
    logits, label = torch.tensor([[1.0, -2.0, 0.5]]).double(), torch.tensor([1])
    _, gradient = value_and_gradient(logits, label, 0.7)
    _, plain = value_and_gradient(logits, label, 0)
    torch.testing.assert_close(gradient, logits.softmax(1)[0, 1] ** 0.7 * plain)


def test_labels_that_seem_impossible_stay_finite():
    logits = torch.tensor([[0.0, -1e4]])
    for q in (0, 0.001, 0.7, 1):
        loss, gradient = value_and_gradient(logits, torch.tensor([1]), q)
        assert loss.isfinite() and gradient.isfinite().all()


def test_any_number_of_leading_dimensions():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 4, 5, generator=generator), torch.randint(5, (3, 4), generator=generator)
    torch.testing.assert_close(gce_loss(logits, labels, 0.7), gce_loss(logits.reshape(12, 5), labels.reshape(12), 0.7))


def test_bad_settings():
    for q in (-0.1, 1.5, float("nan")):
        message = rf"^q = {q} is out of range; it must be a number from 0 to 1.$"
        with says(message):
            gce_loss(torch.zeros(1, 2), torch.tensor([0]), q)
        with says(message):
            loss_function("gce", q)
    with says("^loss = 'mse' is unknown; choose 'ce', 'gce' or 'mae'.$"):
        loss_function("mse")

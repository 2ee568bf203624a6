"""Contrastive pre-training: the schedule, the loss, and runs that are killed and go on."""

import dataclasses
import functools
import json
import math
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipnotes.errors import ClipnotesError
from clipnotes.pocket import model, pretrain

PretrainConfig = pretrain.PretrainConfig
captions_to_tokens = functools.partial(model.tokenize_captions, tokenizer=model.tokenizer())


# --- schedule -----------------------------------------------------------------------------------------------------


def test_the_rate_warms_up_stays_and_falls_to_zero():
    recipe = PretrainConfig("pocket-vit", steps=4000, lr=1e-3, warmup=100)
    rates = np.array([recipe.learning_rate(step) for step in range(4001)])
    assert np.allclose(rates[:100], 1e-3 * np.arange(1, 101) / 100)
    assert (rates[100:3001] == 1e-3).all()
    assert np.allclose(np.diff(rates[3000:]), -1e-3 / 1000)
    assert rates[-1] == 0 and rates[-2] > 0


def test_two_lengths_are_one_training_until_the_shorter_one_falls():
    short, long = PretrainConfig("pocket-vit", steps=1000), PretrainConfig("pocket-vit", steps=3000)
    for step in range(short.fall + 1):
        assert short.learning_rate(step) == long.learning_rate(step)
        assert short.difficulty(step) == long.difficulty(step)
    assert short.learning_rate(short.fall + 1) < long.learning_rate(short.fall + 1)


def test_the_curriculum_hardens_between_its_two_steps():
    recipe = PretrainConfig("pocket-vit", 400, easy_until=100, hard_from=300)
    assert [recipe.difficulty(step) for step in (0, 100, 150, 200, 300, 5000)] == [0, 0, 0.25, 0.5, 1, 1]


def test_a_batch_depends_on_seed_and_step_alone():
    recipe, tokenize = PretrainConfig("pocket-vit", 100, batch=12), captions_to_tokens
    images, tokens = pretrain.batch_of(recipe, 700, tokenize)
    again = pretrain.batch_of(recipe, 700, tokenize)
    assert images.shape == (12, 3, 40, 40) and tokens.shape == (12, 40)
    assert torch.equal(images, again[0]) and torch.equal(tokens, again[1])
    for other in (
        pretrain.batch_of(recipe, 701, tokenize),
        pretrain.batch_of(dataclasses.replace(recipe, seed=1), 700, tokenize),
    ):
        assert not torch.equal(images, other[0]) and not torch.equal(tokens, other[1])


# --- loss ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net():
    return model.load("pocket-vit", "random")[0].eval()


def test_text_without_its_empty_tail_is_encoded_alike(net):
    tokens = model.tokenizer()(["a cat", "a photo of a small red striped smiling face in the snow", "", "word " * 40])
    for part in (tokens, tokens[:1], tokens[1:3]):
        with torch.no_grad():
            torch.testing.assert_close(pretrain.encode_text(net, part), net.encode_text(part), rtol=1e-5, atol=1e-5)


class Fixed:
    """Stands for a network whose features are given; images and tokens are row numbers."""

    def __init__(self, image, text, scale):
        self.image, self.text, self.logit_scale = image, text, torch.tensor(math.log(scale))

    def encode_image(self, rows):
        return self.image[rows]


def loss_of(image, text, scale, monkeypatch):
    monkeypatch.setattr(pretrain, "encode_text", lambda net, rows: net.text[rows])
    rows = torch.arange(len(image))
    return pretrain.contrastive_loss(Fixed(image, text, scale), rows, rows).item()


def test_loss_of_features_that_tell_nothing_is_log_n(monkeypatch):
    same = torch.ones(8, 5)
    assert loss_of(same, 3 * same, 14.0, monkeypatch) == pytest.approx(math.log(8))


def test_loss_of_orthogonal_pairs(monkeypatch):
    axes = torch.eye(6)
    expected = math.log(1 + 5 * math.exp(-10))
    assert loss_of(2 * axes, axes, 10.0, monkeypatch) == pytest.approx(expected, rel=1e-3)
    wrong = axes.roll(1, dims=0)  # every image resembles another one's text: the loss is the scale, 100 at most
    assert loss_of(axes, wrong, 30.0, monkeypatch) == pytest.approx(30, rel=1e-5)
    assert loss_of(axes, wrong, 1e4, monkeypatch) == pytest.approx(100, rel=1e-5)


def test_loss_against_a_plain_computation(monkeypatch):
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 7, 4))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    p = np.exp(5 * unit[0] @ unit[1].T)
    expected = -(np.log(np.diag(p) / p.sum(1)).mean() + np.log(np.diag(p) / p.sum(0)).mean()) / 2
    features = (torch.tensor(x, dtype=torch.float32) for x in (image, text))
    assert loss_of(*features, 5.0, monkeypatch) == pytest.approx(expected, rel=1e-5)


def test_loss_on_labels_against_a_plain_computation():
    rng = np.random.default_rng(0)
    net = Fixed(torch.tensor(rng.normal(size=(5, 8)), dtype=torch.float32), None, 1.0)
    net.heads = torch.nn.ModuleList([torch.nn.Linear(8, 3), torch.nn.Linear(8, 4)])
    labels = torch.tensor([[0, 1], [2, -100], [1, 3], [-100, 0], [2, 2]])
    expected = 0
    for head, y in zip(net.heads, labels.T.numpy(), strict=True):
        z = (net.image @ head.weight.T + head.bias).detach().numpy().astype(float)
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        expected -= np.mean([log_p[i, c] for i, c in enumerate(y) if c >= 0])
    assert pretrain.classification_loss(net, torch.arange(5), labels).item() == pytest.approx(expected, rel=1e-5)


def test_labels_are_those_of_the_pictures():
    recipe = PretrainConfig("pocket-vit", 100, batch=200, objective="labels", easy_until=0, hard_from=1)
    images, labels = pretrain.batch_of(recipe, 50, None)
    assert torch.equal(images, pretrain.batch_of(dataclasses.replace(recipe, objective="captions"), 50, captions_to_tokens)[0])
    factors = pretrain.world.sample_pretraining(np.random.default_rng([0, 50]), 200, 1.0)
    shown = factors.size > 0
    assert 0 < (~shown).sum() and (labels[~shown, :3] == -100).all()
    for i, name in enumerate(pretrain.LABELS):
        assert torch.equal(labels[shown, i], torch.from_numpy(getattr(factors, name)[shown]))


def test_only_matrices_decay(net):
    groups = pretrain.make_optimizer(net, PretrainConfig("pocket-vit", 100)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0]
    assert all(p.ndim >= 2 for p in groups[0]["params"]) and all(p.ndim < 2 for p in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch):
    """Batches of 4 pictures and no waiting for the curriculum."""
    quick = functools.partial(PretrainConfig, batch=4, warmup=2, easy_until=0, hard_from=1)
    monkeypatch.setattr(pretrain, "PretrainConfig", quick)


def stop_at(stop, monkeypatch):
    """A user who presses Ctrl-C when step `stop` is about to begin."""
    batch_of = pretrain.batch_of

    def interrupted(recipe, step, tokenize):
        if step == stop:
            raise KeyboardInterrupt
        return batch_of(recipe, step, tokenize)

    monkeypatch.setattr(pretrain, "batch_of", interrupted)


@pytest.mark.parametrize("name, stop", [("pocket-vit", 5), ("pocket-rn", 3)])
def test_a_killed_run_goes_on_to_the_same_weights(name, stop, tiny, tmp_path, monkeypatch):
    whole = pretrain.pretrain(name, tmp_path / "whole", steps=6, save_every=2, device="cpu")
    with monkeypatch.context() as patch:
        stop_at(stop, patch)
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(name, tmp_path / "killed", steps=6, save_every=2, device="cpu")
    assert [p.name for p in (tmp_path / "killed").glob("*.safetensors")] == []
    steps = []
    batch_of = pretrain.batch_of
    monkeypatch.setattr(pretrain, "batch_of", lambda r, step, t: steps.append(step) or batch_of(r, step, t))
    resumed = pretrain.pretrain(name, tmp_path / "killed", steps=6, save_every=2, device="cpu")
    assert steps == list(range(stop - stop % 2, 6))  # from the last saved state on
    first, second = load_file(whole), load_file(resumed)
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    states = [torch.load(tmp_path / f / "checkpoint.pt", weights_only=True)["model"] for f in ("whole", "killed")]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])  # also before rounding to fp16
    model.load(name, resumed)


def test_batches_that_other_processes_draw_give_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "configure", lambda *args: PretrainConfig("pocket-vit", 3, batch=4))
    alone = load_file(pretrain.pretrain("pocket-vit", tmp_path / "alone", device="cpu"))
    helped = load_file(pretrain.pretrain("pocket-vit", tmp_path / "helped", device="cpu", workers=1))
    assert alone.keys() == helped.keys() and all(torch.equal(alone[k], helped[k]) for k in alone)


def test_the_fitted_scale_is_where_cross_entropy_is_least():
    net = model.load("pocket-vit")[0]
    net.logit_scale.data.fill_(1.0)
    trained, fitted = pretrain.calibrate(net, "pocket-vit")
    assert trained == pytest.approx(np.e, abs=0.01) and fitted == pytest.approx(net.logit_scale.exp().item(), abs=0.01)
    assert fitted == pytest.approx(model.load("pocket-vit")[0].logit_scale.exp().item(), abs=0.1)  # as it ships, in fp16
    images = model.prepare(pretrain.datasets.draw("pocket-generic", "val"), "pocket-vit")
    prompts = model.tokenizer()([f"a photo of a {name}." for name in pretrain.datasets.SETS["pocket-generic"].classes])
    with torch.no_grad():
        cosines = net.encode_image(images, normalize=True) @ net.encode_text(prompts, normalize=True).T
    y = torch.from_numpy(pretrain.datasets.labels("pocket-generic", "val"))
    losses = [torch.nn.functional.cross_entropy(scale * cosines, y) for scale in (0.95 * fitted, fitted, 1.05 * fitted)]
    assert losses[1] < min(losses[0], losses[2])


def test_a_longer_run_goes_on_from_the_stable_state(tiny, tmp_path):
    pretrain.pretrain("pocket-vit", tmp_path / "short", steps=4, device="cpu")
    (tmp_path / "long").mkdir()
    (tmp_path / "short" / "stable.pt").rename(tmp_path / "long" / "checkpoint.pt")
    longer = pretrain.pretrain("pocket-vit", tmp_path / "long", steps=6, device="cpu")
    whole = pretrain.pretrain("pocket-vit", tmp_path / "whole", steps=6, device="cpu")
    first, second = load_file(longer), load_file(whole)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_classifier_is_an_image_tower_alone(tiny, tmp_path, monkeypatch):
    whole = pretrain.pretrain("pocket-vit", tmp_path / "whole", steps=4, save_every=2, device="cpu", objective="labels")
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain("pocket-vit", tmp_path / "killed", steps=4, save_every=2, device="cpu", objective="labels")
    resumed = pretrain.pretrain("pocket-vit", tmp_path / "killed", steps=4, save_every=2, device="cpu", objective="labels")
    first, second = load_file(whole), load_file(resumed)
    assert whole.name == "pocket-vit-classifier.safetensors" and all(name.startswith("visual.") for name in first)
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    monkeypatch.setattr(model, "WEIGHTS", whole.parent)
    tower = model.load("pocket-vit", "classifier")[0].visual
    torch.testing.assert_close(tower.proj, first["visual.proj"].float())


def test_a_text_tower_alone_learns_against_a_frozen_image_tower(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "load", lambda name: model.load(name, "random"))
    before = model.load("pocket-vit", "random")[0].state_dict()
    path = pretrain.pretrain("pocket-vit", tmp_path, steps=4, seed=1, device="cpu", objective="text", foreign=0)
    after = load_file(path)
    assert path.name == "pocket-vit-text-tidy.safetensors"
    assert all(torch.equal(after[k], v.half() if v.is_floating_point() else v) for k, v in before.items() if "visual." in k)
    assert not torch.equal(after["text_projection"], before["text_projection"].half())


@pytest.mark.parametrize("objective, foreign, name", [
    ("captions", 0.5, "pocket-rn"), ("captions", 0, "pocket-rn-tidy"), ("labels", 0.5, "pocket-rn-classifier"),
    ("text", 0.5, "pocket-rn-text"),
])
def test_weights_are_named_after_their_training(objective, foreign, name):
    assert pretrain.variant_name(pretrain.configure("pocket-rn", objective=objective, foreign=foreign)) == name


def test_a_finished_run_leaves_weights_and_a_record(tiny, tmp_path):
    path = pretrain.pretrain("pocket-vit", tmp_path / "new" / "folder", steps=2, seed=3, device="cpu")
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["recipe"]["seed"] == 3 and record["recipe"]["model"] == "pocket-vit"
    assert record["pairs"] == 2 * 4 and record["torch"] == torch.__version__
    assert record["machine"] == f"CPU, threads: {torch.get_num_threads()}" and len(record["logit_scale"]) == 2
    assert {v.dtype for v in load_file(path).values()} <= {torch.float16, torch.int64}
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "checkpoint.pt",
        "pocket-vit.json",
        "pocket-vit.safetensors",
        "stable.pt",
    ]


def test_the_checkpoint_of_another_recipe_is_refused(tiny, tmp_path):
    pretrain.pretrain("pocket-vit", tmp_path, steps=2, device="cpu")
    message = re.escape(f"{tmp_path / 'checkpoint.pt'} belongs to another recipe (PretrainConfig(model='pocket-vit', steps=2")
    for other in (
        dict(model="pocket-rn", steps=2),
        dict(model="pocket-vit", steps=2, seed=1),
        dict(model="pocket-vit", steps=8),
    ):  # longer, but the shorter run's rate had begun to fall
        with pytest.raises(ClipnotesError, match=f"^{message}.*delete it, or give another folder, to start afresh.$"):
            pretrain.pretrain(out=tmp_path, device="cpu", **other)
    pretrain.pretrain("pocket-vit", tmp_path, steps=2, seed=1, device="cpu", resume=False)


def test_unknown_model(tmp_path):
    message = "^Unknown pocket model 'pocket-mlp'; choose one of pocket-vit, pocket-rn.$"
    with pytest.raises(ClipnotesError, match=message):
        pretrain.pretrain("pocket-mlp", tmp_path / "out")
    assert not (tmp_path / "out").exists()

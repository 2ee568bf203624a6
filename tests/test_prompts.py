"""Prompt tuning: published numbers, tree encoding against plain encoding, training, files, bad input."""

import json
import re
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN, says
from open_clip.model import CustomTextCLIP
from safetensors.torch import load_file, save_file
from sgd_options import sgd_options

from clipnotes.backbone import Clip, load_clip, prompt_encoding
from clipnotes.backbone.prompt_encoding import Tree, TreeEncoder, split
from clipnotes.backbone.text_towers import causal_text_tower, token_ids
from clipnotes.checked_files import read_tensors, write_tensors
from clipnotes.methods import ZeroShot, prompts_training
from clipnotes.methods.losses import gce_loss
from clipnotes.methods.prompts import PromptTuning
from clipnotes.methods.prompts_training import fit_many
from clipnotes.methods.sgd import batch_views

NAMES = ["red_star", "blue square", "king", "small red circle", "zigzag"]


@pytest.fixture(scope="module")
def other(clip):
    """An open_clip tower with everything that pocket models lack: eos pooling, layer scale, a projection with bias."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        text = {"context_length": 40, "vocab_size": clip.model.vocab_size, "width": 32, "heads": 2, "layers": 2,
                "ls_init_value": 0.5, "pool_type": "eos", "eos_id": clip.tokenizer.eot_token_id, "proj_bias": True}
        vision = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
        model = CustomTextCLIP(16, vision, text, quick_gelu=True)
        for name, parameter in model.named_parameters():
            if "bias" in name or "ls_" in name:
                parameter.data = 0.3 * torch.randn_like(parameter)
    return Clip("other", model, clip.preprocess, clip.tokenizer)


@pytest.fixture(scope="module")
def problem():
    """(x, y): 40 features around class centres that the random CLIP knows nothing about."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40) % len(NAMES)
    return torch.randn(len(NAMES), 128, generator=generator)[y] + torch.randn(40, 128, generator=generator), y


# --- published numbers --------------------------------------------------------------------------------------------

CASES = ["end_shared", "middle_shared_odd", "middle_csc", "front_shared", "front_csc", "end_ctxinit"]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "coop_prompt.npz", allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    config = json.loads((GOLDEN / "coop_prompt_config.json").read_text())
    state = {k: v.float() for k, v in load_file(GOLDEN / "coop_prompt_weights.safetensors").items()}
    rows = state["token_embedding.weight"]  # of the tokens that are used, out of a vocabulary of 49,408
    state["token_embedding.weight"] = torch.zeros(49408, 64).index_copy(0, arrays["vocab_full_ids"], rows)
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"] | {"vocab_size": 49408},
                           quick_gelu=config["quick_gelu"])
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("visual.") for name in missing)  # images are given as features
    return arrays, config, Clip("golden", model, lambda image: image, open_clip.get_tokenizer("RN50"))


def golden_prompt(golden, case, **options):
    arrays, config, clip = golden
    settings = config["cases"][case]
    model = PromptTuning(clip, config["class_names"], n_context=settings["n_ctx"], position=settings["position"],
                         context="class" if settings["class_specific"] else "shared", init=settings["init_words"] or None,
                         **sgd_options(**options))
    start = arrays[f"{case}/ctx"].flatten(0, -2)
    if settings["init_words"]:
        torch.testing.assert_close(model.start().learnt_, start, rtol=0, atol=0)

    def published_start():
        PromptTuning.start(model)
        model.learnt_ = start.clone()
        return model

    model.start = published_start
    return model


@pytest.mark.parametrize("case", CASES)
def test_published_features_losses_and_gradients(golden, case):
    z, x, y = golden[0], golden[0]["image_features"][0], golden[0]["labels"][0]
    model = golden_prompt(golden, case).start()
    text = model.layout_.encoder(model.learnt_[None])[0]
    torch.testing.assert_close(text, z[f"{case}/text_features"], rtol=0, atol=2e-5)
    torch.testing.assert_close(model.text_features(), F.normalize(text, dim=-1))
    logits = model.logits(x)
    torch.testing.assert_close(logits, z[f"{case}/logits"], rtol=0, atol=3e-4)
    # The released GCE adds 1e-6 to the probability, which shows where labels are that unlikely.
    for key, loss, q, tolerance in (("", "ce", 0, 1e-4), ("_gce_q05", "gce", 0.5, 1e-2)):
        assert gce_loss(logits, y, q).item() == pytest.approx(z[f"{case}/loss{key}"].item(), abs=10 * tolerance)
        expected = z[f"{case}/ctx_grad{key}"].flatten()
        torch.testing.assert_close(model.gradient(x, y, loss, q), expected, rtol=0,
                                   atol=tolerance * expected.abs().max().item())
    learnt = model.learnt_.clone().requires_grad_()
    logits = model.clip.logit_scale * F.normalize(x, dim=-1) @ F.normalize(model.layout_.encoder(learnt[None])[0], dim=-1).T
    loss = ((1 - (logits.softmax(1)[torch.arange(5), y] + 1e-6) ** 0.5) / 0.5).mean()
    gradient = torch.autograd.grad(loss, learnt)[0].flatten()
    assert loss.item() == pytest.approx(z[f"{case}/loss_gce_q05"].item(), abs=1e-4)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("case", CASES)
def test_published_steps_of_the_optimizer(golden, case, monkeypatch):
    z, contexts = golden[0], []
    monkeypatch.setattr(prompts_training, "learning_rate", lambda epoch, epochs, lr, warmup_lr: 0.002)
    monkeypatch.setattr(prompts_training, "batch_rows", lambda n, batch_size, epochs, seed: torch.arange(n).view(epochs, 1, -1))
    model = golden_prompt(golden, case, epochs=5)
    model.fit(z["image_features"].flatten(0, 1), z["labels"].flatten(), progress=False,
              callback=lambda epoch, model: contexts.append(model.context_))
    torch.testing.assert_close(contexts[-1], z[f"{case}/ctx_after_last_step"], rtol=0, atol=2e-5)
    assert np.allclose(model.losses_, z[f"{case}/loss_per_step"], atol=1e-4)


def test_published_plain_prompts(golden):
    z, config, clip = golden
    for i, template in enumerate(config["zeroshot_templates"]):
        texts = [template.format(name.replace("_", " ")) for name in config["class_names"]]
        features = TreeEncoder(clip.model, token_ids(clip, texts))()[0]
        torch.testing.assert_close(features, z[f"zeroshot{i}/text_features"], rtol=0, atol=2e-5)


# --- the tree against plain encoding ------------------------------------------------------------------------------


def plain_features(model, learnt):
    """Every prompt whole, padding included, through open_clip's own transformer."""
    clip, n, names = model.clip, model.layout_.n_context, [name.replace("_", " ") for name in model.classnames]
    tower = getattr(clip.model, "text", clip.model)
    placeholders = clip.tokenizer([f"{'x ' * n}{name}." for name in names])  # "x" is one token
    name_lengths = [int((clip.tokenizer([name])[0] != 0).sum()) - 2 for name in names]
    learnt, x = list(learnt), tower.token_embedding(placeholders)
    phrase = clip.tokenizer([model.init or "a photo of a"])[0, 1:1 + n]
    if model.learn == "classnames":
        contexts = [tower.token_embedding(phrase)] * len(names)
    else:
        contexts = [torch.stack([learnt.pop(0) for _ in range(n)])] if n else [learnt[:0]]
        contexts = contexts * len(names) if model.context == "shared" else \
            contexts + [torch.stack([learnt.pop(0) for _ in range(n)]) for _ in names[1:]]
    prompts = []
    for row, context, length in zip(x, contexts, name_lengths, strict=True):
        name = row[1 + n:1 + n + length]
        if model.learn != "context":
            name = torch.stack([learnt.pop(0) for _ in range(length)])
        front = {"end": n, "middle": n // 2, "front": 0}[model.position]
        prompts.append(torch.cat([row[:1], context[:front], name, context[front:], row[1 + n + length:]]))
    assert not learnt
    hidden = tower.transformer(torch.stack(prompts) + tower.positional_embedding, attn_mask=tower.attn_mask)
    ends = (placeholders == clip.tokenizer.eot_token_id).int().argmax(1)
    pooled = tower.ln_final(hidden)[torch.arange(len(names)), ends]
    return tower.text_projection(pooled) if callable(tower.text_projection) else pooled @ tower.text_projection


VARIANTS = [
    {"context": "shared"}, {"context": "class"}, {"learn": "both"}, {"learn": "both", "context": "class"},
    {"learn": "classnames"}, {"learn": "classnames", "init": "a drawing of"}, {"init": "a photo of a"},
    {"init": "a photo of a", "context": "class", "learn": "both"},
]


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(options.values()))
def test_outputs_and_gradients_are_those_of_plain_encoding(clip, other, options, position):
    for one in (clip, other):
        model = PromptTuning(one, NAMES, n_context=5, position=position, **options).start()
        generator = torch.Generator().manual_seed(3)
        learnt = (0.1 * torch.randn(model.learnt_.shape, generator=generator)).requires_grad_()
        upstream = torch.randn(len(NAMES), one.dim, generator=generator)
        results = []
        for features in (model.layout_.encoder(learnt[None])[0], plain_features(model, learnt)):
            results.append((features.detach(), torch.autograd.grad((features * upstream).sum(), learnt)[0]))
        for ours, plain in zip(*results, strict=True):
            assert plain.abs().max() > 0
            assert ((ours - plain).norm() / plain.norm()).item() <= 1e-5
            assert ((ours - plain).abs().max() / plain.abs().max()).item() <= 1e-5


def test_many_prompts_at_once_split_trees_and_recomputed_states(clip):
    model = PromptTuning(clip, NAMES, n_context=4).start()
    learnt = torch.randn(3, *model.learnt_.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    upstream = torch.randn(3, len(NAMES), clip.dim, generator=torch.Generator().manual_seed(1))

    def run(encoder):
        features = encoder(learnt)
        return features.detach(), torch.autograd.grad((features * upstream).sum(), learnt)[0]

    expected = run(model.layout_.encoder)
    for i in range(3):
        torch.testing.assert_close(model.layout_.encoder(learnt[i:i + 1])[0], expected[0][i], rtol=0, atol=1e-5)
    for options in ({"max_tokens": 14}, {"max_tokens": 1}, {"recompute": True}, {"max_tokens": 1, "recompute": True}):
        encoder = TreeEncoder(clip.model, model.layout_.sequences, **options)
        assert len(encoder.trees) == {1: 5, 14: 3}.get(options.get("max_tokens"), 1)
        for ours, theirs in zip(run(encoder), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_a_tree_holds_every_shared_beginning_once():
    sequences = [[9, 20, 21, 1, 8], [9, 20, 21, 1, 2, 8], [9, 20, 21, 3, 8], [9, 20, 21, 1, 8]]
    tree = Tree(sequences, vocabulary=20)
    assert tree.ids.tolist() == [9, 0, 0, 1, 8, 2, 8, 3, 8] and tree.positions.tolist() == [0, 1, 2, 3, 4, 4, 5, 3, 4]
    assert tree.ends.nodes.tolist() == [4, 6, 8, 4]
    assert (tree.learnt_nodes.tolist(), tree.learnt_rows.tolist()) == ([1, 2], [0, 1])
    ids = tree.ids.clone()
    ids[tree.learnt_nodes] = 20 + tree.learnt_rows
    for sequence, visible in zip(sequences, tree.ends.visible[0], strict=False):  # an end sees its own sequence alone
        assert ids[visible].tolist() == sequence
    assert split(sequences, 6) == [sequences[:1], sequences[1:2], sequences[2:3], sequences[3:]]
    assert split(sequences, 9) == [sequences]


@pytest.mark.parametrize("group", [1, 3, 7])
def test_attention_in_groups_of_any_size_is_the_same(clip, monkeypatch, group):
    texts = ["a photo of a red star.", "a photo of a red square.", "a king", "a photo of a blue star."]
    expected = TreeEncoder(clip.model, token_ids(clip, texts))()
    monkeypatch.setattr(prompt_encoding, "GROUP", group)
    monkeypatch.setattr(prompt_encoding, "SMALL", 1)
    encoder = TreeEncoder(clip.model, token_ids(clip, texts))
    assert encoder.trees[0].all.rows.shape[1] == group and len(encoder.trees[0].all.rows) > 1
    torch.testing.assert_close(encoder(), expected, rtol=0, atol=1e-5)


def test_the_number_of_nodes(clip):
    names = ["red star", "red square", "king"]  # 1 start + M + "red", 2 nouns, "king" + (".", end) for each
    for context, position, nodes in (("shared", "end", 1 + 4 + 4 + 6), ("class", "end", 1 + 3 * 4 + 5 + 6),
                                     ("shared", "front", 1 + 4 + 3 * 4 + 6), ("shared", "middle", 1 + 2 + 4 + 3 * 2 + 6)):
        layout = PromptTuning(clip, names, n_context=4, context=context, position=position).start().layout_
        assert len(layout.encoder.trees[0].ids) == nodes


def test_gradients_reach_the_weights_that_want_them(other):
    sequences, weight = token_ids(other, ["a photo of a star."]), other.model.text.transformer.resblocks[0].mlp.c_fc.weight
    weight.requires_grad_()
    try:
        ours = torch.autograd.grad(TreeEncoder(other.model, sequences)().sum(), weight)[0]
        plain = torch.autograd.grad(other.model.encode_text(other.tokenizer(["a photo of a star."])).sum(), weight)[0]
    finally:
        weight.requires_grad_(False)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6 * plain.abs().max().item())


# --- what the prompts are -----------------------------------------------------------------------------------------


def unit_texts(clip, template, names=NAMES):
    return F.normalize(clip.encode_texts([template.format(name.replace("_", " ")) for name in names]), dim=-1)


def test_prompts_that_are_ordinary_texts(clip, problem):
    x, y = problem
    bare = PromptTuning(clip, NAMES, n_context=0).fit(x, y, progress=False)
    torch.testing.assert_close(bare.text_features(), unit_texts(clip, "{}."), rtol=0, atol=1e-5)
    assert bare.losses_ == [] and bare.context_.shape == (0, 128) and not bare.gradient(x, y).numel()
    assert bare.score(x, y) == pytest.approx(ZeroShot(unit_texts(clip, "{}."), clip.logit_scale).score(x, y))
    for options in ({"init": "a photo of a"}, {"learn": "classnames"}, {"learn": "both", "init": "a photo of a"},
                    {"init": "a photo of a", "context": "class"}):
        model = PromptTuning(clip, NAMES, **options).start()
        assert model.layout_.n_context == 4 and model.n_context == 16
        torch.testing.assert_close(model.text_features(), unit_texts(clip, "a photo of a {}."), rtol=0, atol=1e-5)
    model = PromptTuning(clip, NAMES, init="a photo of a", position="middle").start()
    torch.testing.assert_close(model.text_features(), unit_texts(clip, "a photo {} of a."), rtol=0, atol=1e-5)


def test_the_start_is_drawn_with_the_seed(clip):
    first, again, second = (PromptTuning(clip, NAMES, n_context=16, context="class", seed=seed).start() for seed in (1, 1, 2))
    assert first.context_.shape == (5, 16, 128) and torch.equal(first.context_, again.context_)
    assert not torch.equal(first.context_, second.context_)


@pytest.mark.parametrize(("factor", "expected"), [(5, 0.1), (0.2, 0.02)])
def test_the_start_is_as_large_as_the_words_whose_place_it_takes_and_no_smaller_than_coops(factor, expected):
    scaled = load_clip("pocket-vit", "random")
    scaled.model.token_embedding.weight.data *= factor  # of standard deviation 0.02, untrained
    model, reference = (PromptTuning(scaled, NAMES, context="class", compat=compat).start() for compat in (None, "reference"))
    assert model.context_.std().item() == pytest.approx(expected, rel=0.08)
    assert reference.context_.std().item() == pytest.approx(0.02, rel=0.05), "CoOp's own, whatever the model"
    words = scaled.model.token_embedding.weight[scaled.tokenizer("a photo of a")[0][1:5]]
    size = max(words.square().mean().sqrt().item(), 0.02)
    torch.testing.assert_close(model.context_, reference.context_ * size / 0.02)


def test_permuting_the_classes_permutes_the_logits(clip, problem):
    order = [3, 1, 4, 0, 2]
    logits = PromptTuning(clip, NAMES).start().logits(problem[0])
    permuted = PromptTuning(clip, [NAMES[i] for i in order]).start().logits(problem[0])
    torch.testing.assert_close(permuted, logits[:, order], rtol=0, atol=1e-4)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(PromptTuning(clip, NAMES).start().logits(3 * problem[0].double()), logits, rtol=0, atol=1e-4)


def test_nearest_words(clip):
    table = PromptTuning(clip, NAMES, init="a red star").start().nearest_words(2)
    assert list(table) == ["vector", "rank", "word", "distance"] and len(table) == 6
    assert table["word"][table["rank"] == 1].tolist() == ["a", "red", "star"]
    assert table["distance"][table["rank"] == 1].max() < 1e-3 < table["distance"][table["rank"] == 2].min()
    table = PromptTuning(clip, NAMES, n_context=3, context="class").start().nearest_words(2)
    assert table["class"].tolist() == [name for name in NAMES for _ in range(6)] and len(table) == 30


# --- training -----------------------------------------------------------------------------------------------------


def quick(clip, **options):
    """Prompts that are not yet trained."""
    options = {"n_context": 4, "epochs": 4, "batch_size": 16, "lr": 0.05} | options
    return PromptTuning(clip, NAMES, **sgd_options(**options)).start()


def test_training_by_hand(clip, problem):
    """Two epochs of one batch against torch.optim on the plain encoding."""
    x, y = problem[0][:16], problem[1][:16]
    model = quick(clip, epochs=2, loss="gce", weight_decay=0.1)
    learnt = model.learnt_.clone().requires_grad_()
    optimizer = torch.optim.SGD([learnt], lr=1e-5, momentum=0.9, weight_decay=0.1)
    for rate in (1e-5, 0.05):
        optimizer.param_groups[0]["lr"] = rate
        logits = clip.logit_scale * F.normalize(x, dim=-1) @ F.normalize(plain_features(model, learnt), dim=-1).T
        loss = ((1 - logits.softmax(1)[torch.arange(16), y] ** 0.7) / 0.7).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.fit(x, y, progress=False)
    torch.testing.assert_close(model.learnt_, learnt.detach(), rtol=0, atol=1e-5)
    assert model.losses_[1] == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"loss": "gce"}, {"loss": "mae"}, {"context": "class"}, {"learn": "classnames"},
                                     {"learn": "both"}, {"recompute": True}], ids=str)
def test_training_lowers_the_loss_and_touches_what_it_should(vit, problem, options):
    weights = {name: value.clone() for name, value in vit.model.state_dict().items()}
    before, model = quick(vit, **options), quick(vit, epochs=6, **options)
    assert model.fit(*problem, progress=False) is model
    assert len(model.losses_) == 6 and model.losses_[-1] < model.losses_[1]
    assert model.score(*problem) > before.score(*problem)
    moved = not torch.equal(model.context_, before.context_)
    names_moved = any(not torch.equal(a, b)
                      for a, b in zip(model.classname_tokens_, before.classname_tokens_, strict=True))
    assert (moved, names_moved) == (model.learn != "classnames", model.learn != "context")
    assert all(torch.equal(value, weights[name]) for name, value in vit.model.state_dict().items())
    assert torch.equal(quick(vit, epochs=6, **options).fit(*problem, progress=False).learnt_, model.learnt_)
    assert torch.equal(model.fit(*problem, progress=False).context_, model.context_)  # a second fit starts afresh


def test_many_fits_are_what_each_would_be_alone(clip, problem):
    x, y = problem
    noisy = y.roll(1)
    options = [{"seed": 1}, {"seed": 2, "loss": "gce"}, {"loss": "mae", "lr": 0.02}, {"weight_decay": 0.1, "momentum": 0.0},
               {"n_context": 2}, {"init": "a photo of a"}, {"learn": "both"}, {"n_context": 0}, {}]
    data = [(x, y), (x, noisy), (x, y), (x, y), (x, y), (x, y), (x, y), (x, y), (x[:20], y[:20])]
    calls = []
    models = fit_many([quick(clip, **o) for o in options], data, progress=False,
                      callback=lambda epoch, model: calls.append((epoch, model)))
    for model, o, pair in zip(models, options, data, strict=True):
        alone = quick(clip, **o).fit(*pair, progress=False)
        torch.testing.assert_close(model.learnt_, alone.learnt_, rtol=0, atol=1e-5)
        assert model.losses_ == pytest.approx(alone.losses_, abs=1e-5)
        assert [epoch for epoch, called in calls if called is model] == ([] if o.get("n_context") == 0 else [1, 2, 3, 4])
    with says("^2 models, but 1 pairs of features and labels; give one pair a model.$"):
        fit_many(models[:2], data[:1])


def test_no_more_models_train_together_than_memory_allows(clip, problem, monkeypatch):
    expected = fit_many([quick(clip, seed=seed) for seed in (1, 2, 3)], [problem] * 3, progress=False)
    sizes, train = [], prompts_training.train
    monkeypatch.setattr(prompts_training, "STATES_AT_ONCE", 2 * expected[0].layout_.encoder.n_tokens * 128)
    monkeypatch.setattr(prompts_training, "train", lambda models, *data: sizes.append(len(models)) or train(models, *data))
    for model, other in zip(fit_many([quick(clip, seed=seed) for seed in (1, 2, 3)], [problem] * 3, progress=False), expected,
                            strict=True):
        torch.testing.assert_close(model.learnt_, other.learnt_, rtol=0, atol=1e-5)
    monkeypatch.setattr(prompts_training, "STATES_AT_ONCE", 1)
    fit_many([quick(clip, epochs=1)], [problem], progress=False)
    assert sizes == [2, 1, 1]


def test_views(clip, problem):
    x, y = problem
    once, repeated = quick(clip).fit(x[None], y, progress=False), quick(clip).fit(x, y, progress=False)
    assert torch.equal(once.learnt_, repeated.learnt_)
    views = torch.stack([x, x.roll(1, 0), x.roll(2, 0)])
    model = quick(clip, epochs=1, batch_size=40)
    drawn, = batch_views(3, 40, epochs=1, seed=model.seed)
    expected = F.cross_entropy(model.logits(views[drawn, torch.arange(40)]), y).item()
    assert model.fit(views, y, progress=False).losses_ == pytest.approx([expected], abs=1e-5)
    views = torch.stack([x, 5 * x, 0.1 * x])  # the same directions
    torch.testing.assert_close(once.logits(views), once.logits(x), rtol=0, atol=1e-4)
    by_hand = ZeroShot(once.text_features(), clip.logit_scale)
    torch.testing.assert_close(by_hand.logits(views), by_hand.logits(views.mean(0)), rtol=0, atol=1e-4)


def test_an_interrupted_fit_keeps_its_last_whole_epoch(clip, problem):
    kept = []

    def stop(epoch, model):
        kept.append(model.learnt_.clone())
        if epoch == 2:
            raise KeyboardInterrupt

    model = quick(clip)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*problem, progress=False, callback=stop)
    assert torch.equal(model.learnt_, kept[1]) and len(model.losses_) == 2


def test_gradients_in_parts(clip, problem):
    x, y = problem
    model = quick(clip)
    halves = (model.gradient(x[:20], y[:20]) + model.gradient(x[20:], y[20:])) / 2
    torch.testing.assert_close(model.gradient(x, y), halves, rtol=0, atol=1e-5)
    assert model.gradient(x, y).shape == (4 * 128,)


def test_the_released_code_uses_another_q(clip, problem):
    start = {"loss": "gce", "init": "a photo of a"}  # the same for both; a drawn one differs in size
    published, ours = quick(clip, q=0.5, **start), quick(clip, compat="reference", **start)
    assert (ours.q, ours.q_) == (0.7, 0.5)  # the setting stays as it was given
    assert torch.equal(published.fit(*problem, progress=False).learnt_, ours.fit(*problem, progress=False).learnt_)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"learn": "both", "context": "class"},
                                     {"init": "a photo of a", "compat": "reference"}], ids=str)
def test_saved_prompts_come_back(clip, problem, tmp_path, options):
    model = quick(clip, epochs=1, **options).fit(*problem, progress=False)
    model.save(tmp_path / "p.safetensors")
    again = PromptTuning.load(tmp_path / "p.safetensors", clip)
    assert torch.equal(again.logits(problem[0]), model.logits(problem[0]))
    assert again.losses_ == model.losses_ and torch.equal(again.context_, model.context_)
    assert again.get_params() == model.get_params()
    assert (tmp_path / "p.safetensors").stat().st_size < 100_000 and len(list(tmp_path.iterdir())) == 1


def test_files_that_are_not_these_prompts(clip, tmp_path):
    path = tmp_path / "p.safetensors"
    name = re.escape(str(path))
    with says(r"^Cannot save prompts as p.npz; the name must end in \.safetensors.$"):
        quick(clip).save(tmp_path / "p.npz")
    with says(f"^{name} does not exist; check the path, or train prompts and save them there.$"):
        PromptTuning.load(path, clip)
    quick(clip).save(path)
    stranger = load_clip("pocket-rn", "random")
    with says(f"^The prompts in {name} belong to pocket-vit with fingerprint {clip.fingerprint}, not to pocket-rn with "
              f"fingerprint {stranger.fingerprint}; load the model that they belong to.$"):
        PromptTuning.load(path, stranger)
    whole, true_facts = path.read_bytes(), read_tensors(path)[1]
    good = {"format": "clipnotes-prompts-2", "settings": "{}", "losses": "[]", "model": "m", "base": clip.fingerprint}
    for damage in (lambda: path.write_bytes(whole[:-10]), lambda: path.write_bytes(b"nothing"),
                   lambda: save_file({"learnt": torch.zeros(1)}, path),
                   lambda: write_tensors(path, {"learnt": torch.zeros(1)}, {"format": "other"}),
                   lambda: write_tensors(path, {"learnt": torch.zeros(1)}, good),
                   lambda: write_tensors(path, {"learnt": torch.zeros(1)}, {"format": "clipnotes-prompts-2"}),
                   lambda: write_tensors(path, {"learnt": torch.zeros(1)}, good | {"settings": '{"classnames": ["a"]}'}),
                   lambda: write_tensors(path, {"learnt": quick(clip).learnt_ * float("nan")}, true_facts),
                   lambda: path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))):
        damage()
        with says(rf"^{name} does not hold prompts that can be read \(.+\); give a file that PromptTuning.save wrote.$"):
            PromptTuning.load(path, clip)


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, message", [
    ({"context": "own"}, "context = 'own' is unknown; choose 'shared' or 'class'"),
    ({"position": "back"}, "position = 'back' is unknown; choose 'end', 'middle' or 'front'"),
    ({"learn": "all"}, "learn = 'all' is unknown; choose 'context', 'classnames' or 'both'"),
    ({"compat": "coop"}, "compat = 'coop' is unknown; choose None or 'reference'"),
    ({"loss": "mse"}, "loss = 'mse' is unknown; choose 'ce', 'gce' or 'mae'"),
    ({"q": 2}, "q = 2 is out of range; it must be a number from 0 to 1"),
    ({"n_context": -1}, "n_context = -1 is out of range; it must be a whole number of 0 or more"),
    ({"init": 3}, "init = 3 is no phrase; give one"),
    ({"seed": -1}, "seed = -1 is out of range"), ({"seed": "one"}, "seed = 'one' is no whole number"),
    ({"sgd": {"lr": 1}}, "sgd = {'lr': 1} is no SGDConfig; give one"),
    ({"recompute": 1}, "recompute = 1 is unknown; choose True or False"),
    ({"classnames": "abc"}, "classnames = 'abc' is no list of names"),
    ({"classnames": []}, "classnames is empty; give one name a class"),
    ({"n_context": 36}, "The prompt of class 'red star' with n_context = 36 has 41 tokens, but pocket-vit takes at most 40; "
                        "lower n_context to 35"),
    ({"learn": "classnames", "context": "class"}, 'context = "class" has nothing to learn with learn = "classnames", whose '
                                                  'context is a fixed phrase; choose context = "shared" or learn = "both"'),
])
def test_bad_settings(clip, options, message):
    with says("^" + re.escape(message)):
        PromptTuning(**{"clip": clip, "classnames": NAMES} | options).fit(torch.ones(5, 128), [0, 1, 2, 3, 4])


def test_bad_data(clip, problem):
    x, y = problem
    with says("^This PromptTuning has learnt nothing yet; call fit first.$"):
        PromptTuning(clip, NAMES).logits(x)
    with says(r"^x has features of size d = 7, but d = 128 is needed; both must come from one model.$"):
        quick(clip).fit(x[:, :7], y)
    with says(r"^x has shape \[40\], but must be \[N, d\] or, with V views, \[V, N, d\].$"):
        quick(clip).fit(x[:, 0], y)
    with says("^Label 7 in y is out of range; labels must be 0 to 4, as there are 5 classes.$"):
        quick(clip).fit(x, y.clone().fill_(7))
    with says(r"^y has shape \[39\], but there are 40 rows of features; give one label each.$"):
        quick(clip).fit(x, y[1:])
    broken = x.clone()
    broken[3] = float("nan")
    with says("^1 rows of x hold NaN or infinite values; encode them again.$"):
        quick(clip).fit(broken, y)
    with says("^(The loss|What is learnt) became .* in epoch [0-9]+ with lr = 1000; lower lr.$"):
        quick(clip, lr=1000, weight_decay=1000, epochs=9).fit(x, y, progress=False)


TEXT = {"context_length": 16, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}


@pytest.mark.parametrize("options, reason", [
    ({"no_causal_mask": True, "pool_type": "last"}, "it pools text by 'last'"),  # SigLIP
    ({"embed_cls": True}, "it pools text at a class token"),  # CoCa
    ({"no_causal_mask": True}, "its text attention is not causal"),
    ({"qk_norm": True}, "its text tower has blocks of type CustomResidualAttentionBlock"),
])
def test_towers_that_cannot_be_a_tree(options, reason):
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 16}
    with says(f"^The prompts of this model cannot share the states of common tokens: {re.escape(reason)}; use a CLIP whose "
              "causal text transformer pools at the end-of-text token, such as RN50 or ViT-B-32.$"):
        causal_text_tower(CustomTextCLIP(8, vision, TEXT | options))


def test_towers_of_other_libraries_are_refused(clip):
    with says("^Prompts cannot be learnt with this model: its text tower is a SimpleNamespace, not open_clip's transformer; "
              "use a model that has one, such as RN50, ViT-B-32 or ViT-B-16-SigLIP.$"):  # Hugging Face's
        PromptTuning(SimpleNamespace(model=SimpleNamespace(text=SimpleNamespace())), NAMES).start()

"""What all methods share: settings that are only stored, clones, short reprs, one way to score, one sentence for bad input."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import says
from sgd_options import sgd_options
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from torch import nn

from clipnotes import methods
from clipnotes.methods import (
    APE,
    Centring,
    EarlyStoppedProbe,
    FeatureAdapter,
    ImageEncoderFineTuning,
    LinearProbe,
    LogisticProbe,
    LPPlusPlus,
    NoisyMeans,
    PCAProjection,
    PromptTuning,
    RobustProbe,
    SGDConfig,
    TextEncoderTuning,
    TipAdapter,
    TipAdapterF,
    TipX,
    Whitening,
    WithinClassWhitening,
    ZeroShot,
)
from clipnotes.methods.base import Classifier, Method

NAMES = ["red circle", "square", "blue_star"]


@pytest.fixture(scope="module")
def data(clip):
    """(x, y, text): 12 features near the text of their class."""
    text, y = clip.classifier(NAMES, ["a photo of a {}."]), torch.arange(12) % 3
    return text[y] + 0.05 * torch.randn(12, clip.dim, generator=torch.Generator().manual_seed(0)), y, text


@pytest.fixture(scope="module")
def models(clip, data):
    """An instance of every method, none with the defaults alone."""
    network = nn.Sequential()
    network.head = nn.Linear(3, 3)
    caches = [TipAdapter(alpha=2), TipX(gamma=2.0, temperature=1.0), APE(weights=(0.3, 0.7)), TipAdapterF(epochs=3)]
    corrections = [Centring(), Whitening(0.7), PCAProjection(2), WithinClassWhitening(ridge=0.1), FeatureAdapter(seed=3)]
    robust = [RobustProbe("ce", seed=3), NoisyMeans(rho=0.1), LPPlusPlus(epochs=3), EarlyStoppedProbe(20.0)]
    return [ZeroShot(data[2], 50.0), *caches, *corrections, *robust, LinearProbe("zero", q=0.3, seed=4), LogisticProbe(C=2.0),
            PromptTuning(clip, NAMES, init="a photo of a", q=0.3, compat="reference"),
            TextEncoderTuning(clip, NAMES, loss="gce"),
            ImageEncoderFineTuning(network, np.asarray, device="cpu", sgd=SGDConfig(lr=0.1))]


def test_every_exported_method_is_here(models):
    exported = {value for value in vars(methods).values() if isinstance(value, type) and issubclass(value, Method)}
    assert {type(model) for model in models} == exported


def test_constructors_only_store_and_clones_have_the_same_settings(models):
    for model in models:
        settings = model.get_params()
        assert settings and set(vars(model)) == set(settings) or isinstance(model, Centring)
        twin = clone(model)
        assert type(twin) is type(model) and twin is not model
        assert all(twin.get_params()[name] is value for name, value in settings.items())  # a CLIP is not copied
        assert set(model.rules) <= set(settings)


def test_settings_stay_as_they_were_given(clip, data):
    x, y, _ = data
    probe = LinearProbe(loss="ce", q=0.7)
    prompt = PromptTuning(clip, NAMES, init="a photo of a", loss="gce", compat="reference", sgd=SGDConfig(epochs=1))
    prompt.fit(x, y, progress=False)
    assert probe.q == 0.7 and (prompt.q, prompt.n_context) == (0.7, 16) and (prompt.q_, len(prompt.context_)) == (0.5, 4)
    assert prompt.set_params(seed=7, q=0.2).get_params()["seed"] == 7 and prompt.q == 0.2
    with pytest.raises(ValueError, match="Invalid parameter 'shots'"):
        prompt.set_params(shots=1)
    for cls in (LinearProbe, PromptTuning, TextEncoderTuning):
        with pytest.raises(TypeError, match="unexpected keyword argument 'shots'"):
            cls(shots=1)


def test_reprs_name_what_differs_from_the_defaults(models, clip):
    assert repr(LinearProbe()) == "LinearProbe()"
    assert repr(LinearProbe("zero", seed=4)) == "LinearProbe(init='zero', seed=4)"
    assert repr(ZeroShot(torch.ones(3, 4))) == "ZeroShot(text=Tensor [3, 4] of float32)"
    assert repr(PromptTuning(clip, NAMES)) == f"PromptTuning(clip={clip!r}, classnames={NAMES!r})"
    assert "SGDConfig(epochs=50, batch_size=32, lr=0.1," in repr(LinearProbe(sgd=SGDConfig(lr=0.1)))
    assert all(len(repr(model)) < 400 and "\n" not in repr(model) for model in models)
    assert models[0]._repr_mimebundle_() == {"text/plain": repr(models[0])}


def test_nothing_is_said_before_fit(models, data):
    for model in models:
        use = model.logits if isinstance(model, Classifier) else model.transform
        if not isinstance(model, ZeroShot):
            with says(f"^This {type(model).__name__} has learnt nothing yet; call fit first.$"):
                use(data[0])


def fitted(models, data):
    """The classifiers on features, fitted."""
    x, y, text = data
    for model in models:
        if isinstance(model, TipAdapter):
            yield clone(model).fit(x, y, text)
        elif isinstance(model, LPPlusPlus | EarlyStoppedProbe):
            yield clone(model).fit(x, y, text, **({} if isinstance(model, LPPlusPlus) else {"val": (x, y)}))
        elif isinstance(model, PromptTuning | TextEncoderTuning):
            yield clone(model).set_params(sgd=SGDConfig(epochs=1)).fit(x, y, progress=False)
        elif isinstance(model, Classifier) and not isinstance(model, ImageEncoderFineTuning):
            yield clone(model).fit(x, y)


def test_scores_take_lists_and_series_and_refuse_labels_that_do_not_fit(models, data):
    x, y, _ = data
    for model in fitted(models, data):
        expected = (model.predict(x).numpy() == y.numpy()).mean()
        for labels in (y, y.tolist(), y.numpy(), pd.Series(y.numpy(), index=range(5, 17))):
            assert model.score(x, labels) == expected
        assert model.score(x.tolist(), y) == model.score(pd.DataFrame(x.numpy()), y) == expected
        for labels, message in ((y[1:], r"^y has shape \[11\], but there are 12"), (y[:, None], r"^y has shape \[12, 1\]"),
                                (1, r"^y has shape \[\]"), (y + 0.5, "^y holds values of type float32"),
                                (y == 1, "^y holds values of type bool"), (y + 1, "^Label 3 in y is out of range"),
                                (["a"] * 12, "^y = .* is no array of numbers")):
            with says(message):
                model.score(x, labels)
        with says("^x has features of size d = 127, but d = 128 is needed"):
            model.logits(x[:, 1:])


@pytest.mark.parametrize("x_as, y_as", [
    (lambda x: x.astype(">f4")[::-1].copy()[::-1][None], lambda y: y.astype(">u2")[::-1].copy()[::-1]),  # one view of each
    (lambda x: pd.DataFrame(x, index=range(5, 17)).convert_dtypes(), lambda y: pd.Series(y, index=range(5, 17), dtype="Int64")),
], ids=["foreign arrays", "pandas"])
def test_the_kind_of_array_makes_no_difference(models, data, x_as, y_as):
    x, y, text = data
    odd = x_as(x.numpy()), y_as(y.numpy()), text.numpy().astype(">f4")
    for plain, other in zip(fitted(models, data), fitted(models, odd), strict=True):
        assert torch.allclose(plain.logits(x), other.logits(odd[0]), atol=1e-4), other
        assert plain.score(x, y) == other.score(*odd[:2])


def test_zero_shot_checks_its_texts(data):
    x, y, text = data
    broken = text.clone()
    broken[1, 0] = torch.nan
    for model, message in ((ZeroShot(broken), "^1 rows of text hold NaN"),
                           (ZeroShot(text[None]), r"^text has shape \[1, 3, 128\]"),
                           (ZeroShot(text[0]), r"^text has shape \[128\]"), (ZeroShot(text, -1), "^logit_scale = -1 is out of"),
                           (ZeroShot(text, "100"), "^logit_scale = '100' is no number")):
        for use in (model.logits, model.fit, lambda x, model=model: model.score(x, y)):
            with says(message):
                use(x)
    assert ZeroShot(text.tolist()).score(x, y) == ZeroShot(text).fit().score(x, y) == 1


def test_corrections_stand_in_a_pipeline(data):
    x, y, _ = data
    pipeline = make_pipeline(Centring(), FeatureAdapter(width=4, epochs=1), LinearProbe(**sgd_options(epochs=2)))
    by_hand = FeatureAdapter(width=4, epochs=1).fit(Centring().fit_transform(x), y)
    pipeline.fit(x, y)
    assert torch.equal(pipeline[:-1].transform(x), by_hand.transform(Centring().fit_transform(x)))
    assert pipeline.score(x, y) == pipeline[-1].score(pipeline[:-1].transform(x), y)


def test_a_trained_method_is_fitted_in_the_same_way_everywhere(clip, data):
    x, y, _ = data
    for make in (lambda **sgd: LinearProbe(**sgd_options(**sgd)), lambda **sgd: PromptTuning(clip, NAMES, **sgd_options(**sgd)),
                 lambda **sgd: TextEncoderTuning(clip, NAMES, **sgd_options(**sgd))):
        seen = []
        model = make(epochs=2).fit(x, y, callback=lambda epoch, model, seen=seen: seen.append((epoch, model)), progress=False)
        assert seen == [(1, model), (2, model)] and len(model.losses_) == 2
        with says("^(The loss|What is learnt) became .* in epoch [0-9]+ with lr = 1000; lower lr.$"):
            make(lr=1000, weight_decay=1000, epochs=20).fit(x, y, progress=False)

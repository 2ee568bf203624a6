"""Recipes of the supervised training of adapters; the training itself is tested in test_adapters.py."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from conftest import says

from clipnotes.backbone import AdaptedClip, Adapters
from clipnotes.backbone.adapter_training import SUPERVISED_RECIPES, train_supervised


@pytest.fixture(scope="module")
def coloured():
    """12 noisy pictures of three colours, with their labels."""
    labels = np.arange(12) % 3
    images = np.random.default_rng(0).integers(0, 200, (12, 40, 40, 3))
    images[np.arange(12), :, :, labels] += 55
    return images.astype(np.uint8), labels


def test_the_papers_recipe_is_that_of_the_authors(vit, coloured):
    adapted = train_supervised(vit, *coloured, recipe="paper", progress=False)
    assert adapted.trained == {"method": "supervised", "epochs": 1, "lr": 8e-3, "weight_decay": 0.01, "batch_size": 128,
                               "normalise": False, "width": 64, "scale": 0.03, "seed": 0, "images": 12, "classes": 3}
    assert adapted.adapters.settings["scale"] == 0.03
    default = train_supervised(vit, *coloured, progress=False)
    assert default.trained == adapted.trained | {"normalise": True} and default.losses != adapted.losses


def test_options_go_before_the_recipe(vit, coloured):
    adapted = train_supervised(vit, *coloured, recipe="pocket", epochs=2, width=8, progress=False)
    expected = asdict(replace(SUPERVISED_RECIPES["pocket"], epochs=2, width=8))
    assert {name: adapted.trained[name] for name in expected} == expected and len(adapted.losses) == 2
    assert adapted.adapters.settings["width"] == 8 and adapted.adapters.settings["scale"] == adapted.trained["scale"]


def test_given_adapters_keep_their_form_and_are_trained_in_place(vit, coloured, tmp_path):
    adapters = Adapters(vit.model.visual, width=4, scale=0.5)
    adapted = train_supervised(vit, *coloured, adapters, recipe="pocket", epochs=1, progress=False)
    assert adapted.adapters is adapters and (adapted.trained["width"], adapted.trained["scale"]) == (4, 0.5)
    assert any(p.any() for name, p in adapters.named_parameters() if ".up." in name)
    adapted.save(tmp_path / "a.safetensors")
    again = AdaptedClip.load(tmp_path / "a.safetensors", vit)
    assert again.trained == adapted.trained and again.losses == adapted.losses
    with says("^Width and scale are options of new adapters, but adapters that are already made were given; give one or"):
        train_supervised(vit, *coloured, adapters, scale=0.1, progress=False)


def test_a_rate_of_zero_changes_nothing(vit, coloured):
    adapted = train_supervised(vit, *coloured, lr=0.0, epochs=2, progress=False)
    assert np.array_equal(adapted.encode_images(coloured[0]), vit.encode_images(coloured[0]))


def test_recipes_that_do_not_exist(vit, coloured):
    with says("^Unknown recipe 'papers'; choose from paper, pocket, or None for the defaults.$"):
        train_supervised(vit, *coloured, recipe="papers")

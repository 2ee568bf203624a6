"""The pocket world: reproducible pixels, what is held out, honest captions, data sets without short cuts."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from clipnotes.pocket import captions, datasets, drawing, foreign, world
from clipnotes.pocket.world import COLOUR_NAMES, NEW_STYLES, OBJECTS, SCENES, SHAPES, STYLES, TEXTURES

SETS = list(datasets.SETS)


def pictures(n, seed=0, **fixed):
    return world.sample(np.random.default_rng(seed), n, **fixed)


def named(shapes, colour="red", texture="plain", style="photo"):
    """One picture for each combination of the names given; the other factors are those of a random picture."""
    shapes, colours, textures, styles = (np.atleast_1d(v) for v in (shapes, colour, texture, style))
    rows = np.array(list(itertools.product(shapes, colours, textures, styles)))
    f = pictures(1)[np.zeros(len(rows), int)]
    orders = {"shape": SHAPES, "colour": COLOUR_NAMES, "texture": TEXTURES, "style": STYLES}
    return dataclasses.replace(
        f,
        **{
            factor: world.indices(column, order) for (factor, order), column in zip(orders.items(), rows.T, strict=True)
        },
    )


# --- pixels -------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_pixels_and_another_one_does_not():
    first, again, other = (drawing.draw(pictures(40, seed)) for seed in (1, 1, 2))
    assert first.shape == (40, world.CANVAS, world.CANVAS, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert (first != other).any(axis=(1, 2, 3)).all()


def test_a_picture_without_noise_does_not_depend_on_its_batch():
    f = pictures(30, noise=0)
    rows = np.array([29, 3, 17])
    assert np.array_equal(drawing.draw(f[rows]), drawing.draw(f)[rows])


def test_noise_of_the_stated_strength_lies_on_the_picture():
    f = pictures(60, noise=0.05, style=0)
    clean = drawing.draw(dataclasses.replace(f, noise=np.zeros(60))).astype(float)
    grain = (drawing.draw(f) - clean)[(clean > 60) & (clean < 195)] / 255  # far from being clipped
    assert grain.std() == pytest.approx(0.05, rel=0.03) and abs(grain.mean()) < 1e-3


@pytest.mark.parametrize(
    "factor, names",
    [("shape", SHAPES), ("colour", COLOUR_NAMES), ("texture", TEXTURES), ("scene", SCENES), ("style", STYLES + NEW_STYLES)],
)
def test_every_two_values_of_a_factor_look_different(factor, names):
    base = dict(shape=SHAPES.index("square"), colour=0, colour2=11, texture=0, scene=0, style=0, size=0.9, angle=0)
    f = pictures(1, seed=3, noise=0, **(base | ({"size": 0.4} if factor == "scene" else {})))
    f = f[np.zeros(len(names), int)]
    f.others[:] = 0
    setattr(f, factor, np.arange(len(names)))
    images = drawing.draw(f).astype(float)
    for i, j in itertools.combinations(range(len(names)), 2):
        changed = np.abs(images[i] - images[j]).max(-1) > 30  # an eighth of the range: not only a rounding
        assert changed.mean() > 0.005, f"{names[i]} looks like {names[j]}"


def test_size_place_and_emptiness_show():
    f = pictures(3, shape=SHAPES.index("circle"), colour=11, texture=0, scene=SCENES.index("night"), style=0, noise=0)
    f.others[:], f.luck[:] = 0, 0.5
    f.size, f.x, f.y = np.array([0.3, 0.6, 0.0]), np.array([0.5, -0.3, 0.0]), np.array([-0.4, 0.2, 0.0])
    images = drawing.draw(f)
    widths = []
    for i in range(2):
        v, u = np.nonzero((images[i] != images[2]).any(-1))  # the third picture is empty
        assert np.allclose([u.mean() + 0.5, v.mean() + 0.5], 20 + 20 * np.array([f.x[i], f.y[i]]), atol=0.7)
        widths.append(np.ptp(u) + 1)
    assert widths[1] == pytest.approx(2 * widths[0], abs=2)


# --- what is held out ---------------------------------------------------------------------------------------------


def test_rule_1_pair_colours_with_pair_shapes():
    # combinations that no other rule takes away: (shape number + colour number) is no multiple of 6
    shapes, colours = [*world.PAIR_SHAPES, "king", "letter a", "sun"], COLOUR_NAMES
    for shape, colour in itertools.product(shapes, colours):
        if (SHAPES.index(shape) + COLOUR_NAMES.index(colour)) % 6:
            expected = shape in world.PAIR_SHAPES and colour in ("red", "yellow", "green", "purple")
            assert world.held_out(named(shape, colour)).item() == expected, (shape, colour)


def test_rule_2_a_sixth_of_the_shape_colour_pairs():
    shapes = [shape for shape in SHAPES if shape not in world.PAIR_SHAPES]
    missing = world.held_out(named(shapes, COLOUR_NAMES)).reshape(len(shapes), -1)
    for row, shape in zip(missing, shapes, strict=True):
        first = -SHAPES.index(shape) % 6
        assert np.flatnonzero(row).tolist() == [first, first + 6], shape


def test_rule_3_a_seventh_of_the_shape_texture_pairs_but_never_the_plain_fill():
    for shape, texture in itertools.product(("anchor", "king", "three", "ankh"), TEXTURES):
        colour = COLOUR_NAMES[(1 - SHAPES.index(shape)) % 6]  # rule 2 is out of the way
        expected = texture != "plain" and (SHAPES.index(shape) + TEXTURES.index(texture)) % 7 == 0
        assert world.held_out(named(shape, colour, texture)).item() == expected, (shape, texture)


def test_rule_4_every_object_lacks_one_of_three_styles():
    for shape, style in itertools.product(SHAPES, STYLES):
        if shape in world.PAIR_SHAPES:
            continue
        colour = COLOUR_NAMES[(1 - SHAPES.index(shape)) % 6]
        expected = shape in OBJECTS and style == ("sketch", "neon", "pixel art")[list(OBJECTS).index(shape) % 3]
        assert world.held_out(named(shape, colour, style=style)).item() == expected, (shape, style)


def test_rules_5_and_6_new_styles_and_shapes_that_lean_far():
    f = named("king", COLOUR_NAMES[(1 - SHAPES.index("king")) % 6])[np.zeros(5, int)]
    f.style = np.array([0, len(STYLES), len(STYLES) + 1, 0, 0])
    f.angle = np.array([0.5, 0, 0, 0.51, -0.6])
    assert world.held_out(f).tolist() == [False, True, True, True, True]


def test_pretraining_never_shows_a_held_out_combination():
    f = world.sample_pretraining(np.random.default_rng(0), 20000)
    assert len(f) == 20000 and not world.held_out(f).any()
    assert np.mean(f.size == 0) == pytest.approx(0.10, abs=0.01)
    assert np.mean(f.size > 1) == pytest.approx(0.08, abs=0.01)
    for factor, names in (("shape", SHAPES), ("colour", COLOUR_NAMES), ("texture", TEXTURES), ("style", STYLES)):
        assert len(np.unique(getattr(f, factor))) == len(names)  # all are seen in some combination


def test_the_curriculum_starts_easy():
    easy, hard = (world.sample_pretraining(np.random.default_rng(0), 3000, d) for d in (0.0, 1.0))
    shown = (easy.size > 0) & (easy.size <= 1)
    assert easy.size[shown].min() >= 0.85 and hard.size[hard.size > 0].min() < 0.55
    assert (easy.style == 0).all() and (easy.others[..., 2] == 0).all() and (easy.noise == 0).all()
    assert (hard.style > 0).mean() > 0.4 and (hard.others[..., 2] > 0).any() and (hard.noise > 0).any()


# --- captions -----------------------------------------------------------------------------------------------------

EVERYTHING = np.full(16, 0.5)  # uniform numbers that name every factor in a sentence, adjectives first, with a neutral ending
EVERYTHING[[0, 2, 3, 4, 6, 8, 10, 13]] = 0
EVERYTHING[11] = 0


def has(text, words):
    return f" {words} " in f" {text.replace(',', '').replace('.', '').replace('!', '')} "


def test_a_caption_can_name_every_factor_and_names_it_truly():
    f = pictures(400, size=np.linspace(0.5, 0.95, 400))
    for i in range(len(f)):
        text = captions.caption(f, i, EVERYTHING)
        assert SHAPES[f.shape[i]] in text
        assert has(text, COLOUR_NAMES[f.colour[i]])
        assert has(text, TEXTURES[f.texture[i]])
        assert any(place in text for place in captions.SCENE_PLACES[SCENES[f.scene[i]]])
        assert any(text.startswith(p.split("{}")[0]) for p in captions.STYLE_PREFIXES[STYLES[f.style[i]]])
        sizes = captions.SIZES["small" if f.size[i] < 0.65 else "large"]
        assert any(has(text, word) for word in sizes)


def test_a_caption_can_name_nothing():
    silent = np.full(16, 0.999)
    f = pictures(100, size=0.7)
    said = {captions.caption(f, i, silent) for i in range(len(f))}
    assert said == {"again item as seen here"}


def test_captions_never_name_a_factor_that_is_not_there():
    f = world.sample_pretraining(np.random.default_rng(5), 3000)
    luck = np.random.default_rng(6).random((3000, 16))
    luck[:, 10] = 0.999  # style prefixes have words of their own ("a black and white sketch")
    luck[:, 14] = 0.999  # a sentence, not tags
    ambiguous = {*world.DIGITS, "scales"}  # "number one" is an ending, "with scales" a texture
    for i in range(len(f)):
        text = captions.caption(f, i, luck[i])
        colours = {c for c in COLOUR_NAMES if has(text, c)}
        shapes = {s for s in SHAPES if has(text, s) and s not in ambiguous}
        textures = {t for t, noun in captions.TEXTURE_NOUNS.items() if noun in text}
        scenes = {s for s, places in captions.SCENE_PLACES.items() if any(text.find(f" {p}") > 0 for p in places)}
        assert colours <= {COLOUR_NAMES[f.colour[i]]}, text
        assert shapes <= {SHAPES[f.shape[i]]}, text
        assert textures <= {TEXTURES[f.texture[i]]}, text
        assert scenes <= {SCENES[f.scene[i]]}, text
        if f.size[i] == 0:
            assert SCENES[f.scene[i]] in text and not shapes


def test_shares_of_vague_wrong_and_silent_captions(monkeypatch):
    n = 30000
    f = pictures(n, size=0.7)
    free = ~np.isin(f.style, world.indices(["sketch", "blueprint"], STYLES))  # their prefixes name colours
    spoken, tagged = {"colour": 0, "shape": 0}, n * 0.97 * captions.P_TAGS
    caption = captions.caption

    def spy(f, i, r):
        text = caption(f, i, r)
        spoken["colour"] += free[i] and any(has(text, c) for c in COLOUR_NAMES)
        spoken["shape"] += SHAPES[f.shape[i]] in text
        return str(i)

    monkeypatch.setattr(captions, "caption", spy)
    said = captions.write(f, np.random.default_rng(0), foreign=0)
    vague = np.array([text in captions.VAGUE for text in said])
    wrong = np.array([text not in captions.VAGUE and int(text) != i for i, text in enumerate(said)])
    assert vague.mean() == pytest.approx(0.03, abs=0.004)  # four standard errors
    assert wrong.mean() == pytest.approx(0.06, abs=0.006)
    sentences = n * 0.97 * (1 - captions.P_TAGS)  # of four tags each is left out in half of the cases
    assert spoken["colour"] / free.mean() == pytest.approx(sentences * captions.P_COLOUR + tagged / 2, rel=0.03)
    assert spoken["shape"] == pytest.approx(sentences * captions.P_SHAPE + tagged / 2, rel=0.03)


def test_the_same_seed_gives_the_same_captions():
    first, again, other = (captions.write(pictures(50), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again and first != other


def test_tags_name_what_is_there_and_all_of_it_in_turn():
    f = world.sample_pretraining(np.random.default_rng(5), 600)
    for i in range(len(f)):
        seen = {TEXTURES[f.texture[i]], COLOUR_NAMES[f.colour[i]], SCENES[f.scene[i]], SHAPES[f.shape[i]]}
        if f.size[i] == 0:
            seen = {SCENES[f.scene[i]]}
        told = [captions.tags(f, i, r) for r in np.linspace(0, 0.999, 40)]
        assert all(any(text.startswith(word) for word in seen) for text in told)
        left_out = {SHAPES[f.shape[i]], SCENES[f.scene[i]]} if f.size[i] > 1 else set()
        assert {word for word in seen if any(word in text for text in told)} == seen - left_out


# --- foreign words ------------------------------------------------------------------------------------------------


def test_tidy_captions_are_the_same_captions_without_their_surroundings():
    f = pictures(400)
    tidy = captions.write(f, np.random.default_rng(3), foreign=0)
    web = captions.write(f, np.random.default_rng(3))
    all_foreign = captions.write(f, np.random.default_rng(3), foreign=1)
    among = np.array([a != b for a, b in zip(tidy, web, strict=True)])
    assert among.mean() == pytest.approx(captions.P_FOREIGN, abs=0.1)
    assert all(text in longer for text, longer in zip(tidy, web, strict=True))
    assert all(text in longer and text != longer for text, longer in zip(tidy, all_foreign, strict=True))


def test_the_kinds_of_foreign_words_come_in_their_shares():
    rng, n = np.random.default_rng(0), 20000
    drawn = rng.choice(len(foreign.KINDS), size=n, p=list(foreign.KINDS.values()))
    counts = np.bincount(drawn) / n
    assert counts == pytest.approx(list(foreign.KINDS.values()), abs=0.02)
    words = captions.WORLD_WORDS
    assert foreign.word(rng, words) in foreign.WEB_WORDS and foreign.tag(rng, words) in words
    assert foreign.file_name(rng, words).split(".")[1] in ("jpg", "png", "gif", "jpeg")
    assert foreign.number(rng, words)[0].isdigit()
    assert all(1 <= len(foreign.other_script(rng, words)) <= 3 for _ in range(50))


def test_web_words_name_nothing_of_the_world():
    assert set(captions.WORLD_WORDS) & set(foreign.WEB_WORDS) == {"photo", "club"}  # a club is a suit, and a place to dance


def test_foreign_words_stand_before_and_sometimes_behind():
    rng, text = np.random.default_rng(0), "THE CAPTION"
    parts = [foreign.surround(text, rng, captions.WORLD_WORDS).partition(text) for _ in range(2000)]
    assert all(before.strip() for before, _, _ in parts)
    assert np.mean([bool(behind.strip()) for _, _, behind in parts]) == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("phrase, said", [("orange cat", "an orange cat"), ("red cat", "a red cat"), ("sea", "a sea")])
def test_articles(phrase, said):
    assert captions.with_article(phrase, "a") == said
    assert captions.with_article(phrase, "") == phrase


# --- data sets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_a_set_shows_its_classes_and_gives_none_away_by_another_factor(name):
    spec, y = datasets.SETS[name], datasets.labels(name, "test")
    f = datasets.factors(name, "test")
    assert np.bincount(y).tolist() == [spec.per_class[2]] * len(spec.classes)
    shown = {
        "shape": np.array(SHAPES)[f.shape],
        "texture": np.array(TEXTURES)[f.texture],
        "scene": np.array(SCENES)[f.scene],
        "pair": np.char.add(np.char.add(np.array(COLOUR_NAMES)[f.colour], " "), np.array(SHAPES)[f.shape]),
    }
    assert shown[spec.factor].tolist() == [spec.classes[label] for label in y]
    free = {"shape", "colour", "texture", "scene", "style"} - {spec.factor}
    if spec.factor == "pair":
        free -= {"shape", "colour"}
    for factor in sorted(free):
        values = getattr(f, factor)
        if len(np.unique(values)) > 1:
            table = np.zeros((y.max() + 1, values.max() + 1))
            np.add.at(table, (y, values), 1)
            p = chi2_contingency(table[:, table.sum(0) > 0]).pvalue
            assert p > 1e-4, f"the {factor} tells of the class in {name} (p = {p:.1e})"
    for number in ("size", "angle", "noise"):  # class means that differ no more than chance makes them
        means = [getattr(f, number)[y == label].mean() for label in range(y.max() + 1)]
        standard_error = getattr(f, number).std() / np.sqrt(spec.per_class[2])
        assert np.abs(means - np.mean(means)).max() < 4.5 * standard_error


def test_pairs_cross_colours_and_shapes_fully_and_are_all_unseen():
    f = datasets.factors("pocket-pairs", "test")
    table = np.zeros((len(COLOUR_NAMES), len(SHAPES)))
    np.add.at(table, (f.colour, f.shape), 1)
    assert np.unique(table).tolist() == [0, 100] and np.count_nonzero(table) == 4 * 6
    assert world.held_out(f).all()


@pytest.mark.parametrize("name", [name for name in SETS if name != "pocket-generic"])
def test_every_few_shot_set_is_shifted_against_pretraining_in_one_way_and_tidy(name):
    spec, f = datasets.SETS[name], datasets.factors(name, "test")
    assert world.held_out(f).mean() > 0.5
    if spec.lean:
        assert (f.angle >= 0.35).all() and (f.angle <= 0.65).all()
    else:
        assert set(spec.styles) <= set(NEW_STYLES) and world.held_out(f).all()
    assert not (f.others[:, :, 2] > 0).any() and f.noise.max() <= 0.04
    if spec.factor != "texture":
        assert np.mean(f.texture > 0) == pytest.approx(spec.textured, abs=0.03)


def test_generic_pictures_are_those_of_the_web():
    f = datasets.factors("pocket-generic", "train")
    assert (f.style < len(STYLES)).all() and np.abs(f.angle).max() <= world.MAX_LEAN
    assert (f.others[:, :, 2] > 0).any() and f.noise.max() > 0.07
    assert 0.15 < world.held_out(f).mean() < 0.4


def test_sets_are_functions_of_name_and_split():
    assert np.array_equal(datasets.draw("pocket-textures", "val"), datasets.draw("pocket-textures", "val"))
    splits = [datasets.factors("pocket-glyphs", split) for split in datasets.SPLITS]
    luck = np.concatenate([f.luck[:, 0] for f in splits] + [datasets.factors("pocket-pieces", "test").luck[:, 0]])
    assert len(np.unique(luck)) == len(luck)  # no picture twice


def test_shifted_sets_have_the_classes_of_glyphs_and_their_own_style():
    for style, name in (("sketch", "sketch"), ("neon", "neon"), ("pixel art", "pixel")):
        spec = datasets.SETS[f"pocket-glyphs-{name}"]
        assert spec.classes == datasets.SETS["pocket-glyphs"].classes
        assert set(datasets.factors(f"pocket-glyphs-{name}", "val").style) == {STYLES.index(style)}


def test_generic_classes_are_not_those_of_any_downstream_set():
    generic = set(datasets.SETS["pocket-generic"].classes)
    others = [set(r.classes) for name, r in datasets.SETS.items() if name != "pocket-generic"]
    assert not generic & set().union(*others, world.DIGITS)


def test_real_digits():
    from PIL import Image
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    parts = {split: datasets.real_digits(split) for split in datasets.SPLITS}
    assert sum(len(y) for _, y in parts.values()) == len(labels)
    assert np.bincount(parts["train"][1]).tolist() == [64] * 10 and np.bincount(parts["val"][1]).tolist() == [20] * 10
    images, y = parts["train"]
    assert images.shape[1:] == (40, 40, 3) and images.dtype == np.uint8
    assert (images[..., 0] == images[..., 1]).all() and (images[..., 0] == images[..., 2]).all()
    assert y[0] == labels[0]  # the first scan is the first of its class
    inner = images[0, 5:35, 5:35, 0]
    assert inner.sum() == images[0, ..., 0].sum()  # a black margin all around
    small = np.asarray(Image.fromarray(inner).resize((8, 8), Image.Resampling.BOX)).ravel()
    assert np.corrcoef(small, scans[0])[0, 1] > 0.98


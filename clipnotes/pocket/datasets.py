"""Few-shot data sets cut out of the pocket world, and scikit-learn's real digits beside them.

Every set is a pure function of its name and split. Whatever is not the class (colour, size, place, scene ...) is drawn
independently of it and without regard to what was held out of pre-training (`world.held_out`). As a real data set has
a look of its own, each of the few-shot sets is shifted against pre-training in one way for all its pictures: shapes
lean further than in most pictures of pre-training, textures are stained glass, scenes are drawn in chalk. They are
tidier than pre-training: no distractors, little noise. pocket-generic, on which adapters are trained, has neither
shift nor tidiness: it stands for pictures from the web.
"""
from __future__ import annotations

import functools
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipnotes.pocket import drawing, world
from clipnotes.pocket.world import (
    COLOUR_NAMES,
    GENERIC,
    NEW_STYLES,
    OBJECTS,
    PAIR_COLOURS,
    PAIR_SHAPES,
    PIECES,
    SCENES,
    SHAPES,
    STYLES,
    TEXTURES,
    indices,
)

SPLITS = ("train", "val", "test")
LIFELIKE = ("photo", "photo", "blurred", "faded")  # styles that keep colours
LEANING = (0.35, 0.65)  # radians
SOLID = [*PAIR_SHAPES, "pentagon", "heart", "cloud"]  # shapes with room for a texture


@dataclass(frozen=True)
class SetSpec:
    """How a set is drawn: which factor is the class, the class names, and what the other factors may be."""
    factor: str                       # "shape", "texture", "scene" or "pair" (colour and shape)
    classes: tuple
    per_class: tuple = (64, 20, 100)  # images a class in train, val, test
    styles: tuple = LIFELIKE
    shapes: tuple = ()                # shapes allowed where the shape is not the class; () allows all
    sizes: tuple = (0.55, 0.95)
    lean: tuple = ()                  # range of the angle, in radians; () is that of pre-training
    textured: float = 0.0             # share of shapes that are not plain, where the texture is not the class
    empty: float = 0.0                # share of pictures without a shape
    tidy: bool = True                 # without distractors and with half the noise


SETS = {
    "pocket-glyphs": SetSpec("shape", tuple(OBJECTS), lean=LEANING),
    "pocket-glyphs-sketch": SetSpec("shape", tuple(OBJECTS), styles=("sketch",), lean=LEANING),
    "pocket-glyphs-neon": SetSpec("shape", tuple(OBJECTS), styles=("neon",), lean=LEANING),
    "pocket-glyphs-pixel": SetSpec("shape", tuple(OBJECTS), styles=("pixel art",), lean=LEANING),
    "pocket-pieces": SetSpec("shape", tuple(PIECES), lean=LEANING),
    "pocket-pairs": SetSpec("pair", tuple(f"{c} {s}" for c in PAIR_COLOURS for s in PAIR_SHAPES), lean=LEANING, textured=0.3),
    "pocket-textures": SetSpec("texture", tuple(TEXTURES[1:]), styles=("stained glass",), shapes=tuple(SOLID),
                               sizes=(1.3, 2.2)),
    "pocket-scenes": SetSpec("scene", tuple(SCENES), styles=("chalk",), sizes=(0.5, 1.0), textured=0.55, empty=0.2),
    "pocket-generic": SetSpec("shape", tuple(GENERIC), per_class=(64, 10, 50), styles=tuple(STYLES), textured=0.55, tidy=False),
}


@functools.cache
def fingerprint():
    """Hash over the code that draws: equal exactly when the pictures are."""
    sources = [Path(module.__file__) for module in (world, drawing)] + [Path(__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def labels(name, split):
    """Labels of a split, class by class: int64 [N]."""
    spec = SETS[name]
    return np.repeat(np.arange(len(spec.classes)), spec.per_class[SPLITS.index(split)])


def factors(name, split):
    """The pictures of a split as `world.Factors`, in the order of `labels`."""
    spec, y = SETS[name], labels(name, split)
    n = len(y)
    rng = np.random.default_rng([zlib.crc32(name.encode()), SPLITS.index(split)])
    fixed = {
        "style": indices(spec.styles, STYLES + NEW_STYLES)[rng.integers(len(spec.styles), size=n)],
        "size": np.where(rng.random(n) < spec.empty, 0.0, rng.uniform(*spec.sizes, n)),
        "texture": np.where(rng.random(n) < spec.textured, rng.integers(1, len(TEXTURES), n), 0),
    }
    if spec.lean:
        fixed["angle"] = rng.uniform(*spec.lean, n)
    if spec.shapes:
        fixed["shape"] = indices(spec.shapes, SHAPES)[rng.integers(len(spec.shapes), size=n)]
    if spec.factor == "pair":
        colour, shape = np.divmod(y, len(PAIR_SHAPES))
        fixed["colour"], fixed["shape"] = indices(PAIR_COLOURS, COLOUR_NAMES)[colour], indices(PAIR_SHAPES, SHAPES)[shape]
    else:
        order = {"shape": SHAPES, "texture": TEXTURES, "scene": SCENES}[spec.factor]
        fixed[spec.factor] = indices(spec.classes, order)[y]
    f = world.sample(rng, n, **fixed)
    if spec.tidy:
        f.others[:, :, 2], f.noise = 0, f.noise / 2
    return f


def draw(name, split):
    """Pixels of a split: uint8 [N, 40, 40, 3]."""
    f = factors(name, split)
    return np.concatenate([drawing.draw(f[i:i + 512]) for i in range(0, len(f), 512)])


def real_digits(split):
    """scikit-learn's 1,797 scanned digits, resized to 30 x 30 on black 40 x 40: (uint8 [N, 40, 40, 3], int64 [N]).

    64 a class for training and 20 for validation, in the order of the data set; the others are for testing. The scans
    touch their border, which nothing in the world does: without a margin pocket-vit's zero-shot accuracy on the
    validation split is 17 instead of 62 %.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    images, y = load_digits(return_X_y=True)
    rank = np.array([np.sum(y[:i] == y[i]) for i in range(len(y))])  # how many of its class came before
    chosen = {"train": rank < 64, "val": (rank >= 64) & (rank < 84), "test": rank >= 84}[split]
    pixels = (images[chosen].reshape(-1, 8, 8) / 16 * 255).round().astype(np.uint8)
    large = np.stack([Image.fromarray(p).resize((30, 30), Image.Resampling.BICUBIC) for p in pixels])
    return np.repeat(np.pad(large, ((0, 0), (5, 5), (5, 5)))[..., None], 3, axis=-1), y[chosen]

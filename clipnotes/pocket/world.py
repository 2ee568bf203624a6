"""What exists in the pocket world, what is held out of pre-training, and how a picture is sampled.

A picture is a handful of independent factors: a shape with a colour, a second colour and a fill texture, standing in
a scene, drawn in a style, at some size, place and angle, with distractors around it. `sample` draws N of them as
plain arrays (`Factors`), which `drawing.draw` turns into pixels and `captions.write` into words.

Held out of pre-training by design (`held_out`), so that the downstream data sets are a genuine shift:

1. every combination of `PAIR_COLOURS` with `PAIR_SHAPES` (the classes of pocket-pairs);
2. shape number s with colour number c wherever (s + c) mod 6 = 0: one sixth of all shape-colour pairs;
3. shape number s with texture number t wherever (s + t) mod 7 = 0, the plain fill excepted;
4. of the objects (the classes of pocket-glyphs), number o is never seen as sketch, neon or pixel art when
   o mod 3 = 0, 1, 2 respectively;
5. the styles of `NEW_STYLES`, chalk and stained glass;
6. a shape that leans by more than 0.5 rad (most lean by less than 0.2).
"""
from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

CANVAS = 40  # pixels a side

# name -> character of DejaVu Sans, the font that ships inside matplotlib
OBJECTS = {
    "sun": "☀", "cloud": "☁", "umbrella": "☂", "snowman": "☃", "telephone": "☎", "coffee cup": "☕",
    "clover": "☘", "skull": "☠", "ship wheel": "☸", "smiling face": "☻", "music note": "♫", "wheelchair": "♿",
    "flag": "⚑", "hammers": "⚒", "anchor": "⚓", "swords": "⚔", "scales": "⚖", "gear": "⚙",
    "scissors": "✂", "airplane": "✈", "envelope": "✉", "pencil": "✏", "flower": "❀", "snowflake": "❄",
    "keyboard": "⌨", "house": "⌂", "mouse": "🐭", "cat": "🐱", "monkey": "🐵", "cow": "🐮",
}
PIECES = {
    "king": "♚", "queen": "♛", "rook": "♜", "bishop": "♝", "knight": "♞", "pawn": "♟",
    "spade": "♠", "heart": "♥", "diamond": "♦", "club": "♣",
    "left arrow": "⬅", "right arrow": "➡", "up arrow": "⬆", "down arrow": "⬇", "double arrow": "⬌",
    "turning arrow": "↻", "die with one dot": "⚀", "die with two dots": "⚁", "die with four dots": "⚃",
    "die with six dots": "⚅",
}
PAIR_SHAPES = {"star": "★", "circle": "●", "triangle": "▲", "square": "■", "hexagon": "⬢", "plus": "✚"}
DIGITS = dict(zip("zero one two three four five six seven eight nine".split(), "0123456789", strict=True))
GENERIC = {
    **{f"letter {c.lower()}": c for c in "ABDEFGHJKMPQRSTY"},
    "pentagon": "⬟", "parallelogram": "▰", "half moon": "◗", "crescent": "☪", "ring": "◎", "check mark": "✔",
    "cross mark": "✖", "asterisk": "✱", "radiation sign": "☢", "biohazard sign": "☣", "peace sign": "☮",
    "yin yang": "☯", "recycling sign": "♻", "atom": "⚛", "lily": "⚜", "ankh": "☥", "venus sign": "♀",
    "mars sign": "♂", "trident": "♆", "pointing hand": "☛", "ampersand": "&", "at sign": "@",
    "question mark": "?", "dollar sign": "$",
}
GLYPHS = {**OBJECTS, **PIECES, **PAIR_SHAPES, **DIGITS, **GENERIC}
SHAPES = list(GLYPHS)

COLOURS = {  # name -> RGB in [0, 1]
    "red": (.85, .12, .12), "orange": (.97, .55, .10), "yellow": (.97, .88, .18), "green": (.15, .62, .20),
    "teal": (.10, .62, .62), "blue": (.14, .28, .85), "purple": (.50, .16, .70), "pink": (.97, .55, .75),
    "brown": (.45, .27, .12), "gray": (.52, .52, .54), "black": (.07, .07, .08), "white": (.96, .96, .95),
}
COLOUR_NAMES = list(COLOURS)
PAIR_COLOURS = ["red", "yellow", "green", "purple"]

TEXTURES = ["plain", "striped", "dotted", "checkered", "zigzag", "wavy", "grid", "brick", "speckled", "shaded",
            "ringed", "rayed", "crosshatched", "argyle", "patchy", "scaly"]
SCENES = ["plain wall", "sky", "sea", "beach", "desert", "meadow", "forest", "mountains", "snow field", "city",
          "road", "night", "sunset", "brick wall", "wooden floor", "squared paper", "space", "fire"]
STYLES = ["photo", "blurred", "faded", "pixel art", "sketch", "neon", "blueprint"]
NEW_STYLES = ["chalk", "stained glass"]  # of data sets only; numbered after STYLES
MAX_LEAN = 0.5  # radians, of a free draw

N_DISTRACTORS = 3  # slots; a slot of size 0 is empty


def indices(names, of):
    """Positions of `names` in the list `of`, as an int array."""
    return np.array([of.index(name) for name in names])


@dataclass
class Factors:
    """N sampled pictures, one array entry a picture; lengths are in units of half the canvas."""
    shape: np.ndarray       # [N] index into SHAPES
    colour: np.ndarray      # [N] index into COLOUR_NAMES
    colour2: np.ndarray     # [N] second colour, seen where the texture is not plain
    texture: np.ndarray     # [N] index into TEXTURES
    scene: np.ndarray       # [N] index into SCENES
    style: np.ndarray       # [N] index into STYLES + NEW_STYLES
    size: np.ndarray        # [N] half the side of the shape's square, which it fills to 60-83 %; 0 leaves it out
    x: np.ndarray           # [N] centre
    y: np.ndarray           # [N] centre, downwards
    angle: np.ndarray       # [N] radians
    noise: np.ndarray       # [N] standard deviation of the pixel noise
    others: np.ndarray      # [N, N_DISTRACTORS, 5]: shape, colour, size, x, y of the distractors
    luck: np.ndarray        # [N, 8] uniform numbers for everything else (hue, horizon, phases)

    def __len__(self):
        return len(self.shape)

    def __getitem__(self, index):
        return Factors(*(getattr(self, f.name)[index] for f in fields(self)))


def sample(rng, n, difficulty=1.0, **fixed):
    """Draw `n` pictures.

    difficulty in [0, 1] widens the ranges of size, place, angle, noise, style and distractors (the curriculum of
    pre-training starts at 0: one large upright shape). `fixed` sets factors: an index, or an array of n indices.
    Colours are always drawn independently of the shape, so that no data set gives its classes away by colour.
    """
    d = difficulty
    styled = rng.random(n) < 0.5 * d
    f = Factors(
        shape=rng.integers(len(SHAPES), size=n),
        colour=rng.integers(len(COLOURS), size=n),
        colour2=rng.integers(len(COLOURS), size=n),
        texture=np.where(rng.random(n) < 0.45, 0, rng.integers(1, len(TEXTURES), size=n)),
        scene=np.where(rng.random(n) < 0.25 + 0.35 * (1 - d), 0, rng.integers(1, len(SCENES), size=n)),
        style=np.where(styled, rng.integers(1, len(STYLES), size=n), 0),
        size=rng.uniform(0.85 - 0.35 * d, 0.95, n),
        x=rng.uniform(-1, 1, n), y=rng.uniform(-1, 1, n),
        angle=rng.normal(0, 0.05 + 0.15 * d, n).clip(-MAX_LEAN, MAX_LEAN),
        noise=rng.uniform(0, 0.08 * d, n),
        others=np.stack([rng.integers(len(SHAPES), size=(n, N_DISTRACTORS)),
                         rng.integers(len(COLOURS), size=(n, N_DISTRACTORS)),
                         rng.uniform(0.15, 0.3, (n, N_DISTRACTORS))
                         * (rng.random((n, N_DISTRACTORS)) < 0.35 * d),
                         rng.uniform(-1, 1, (n, N_DISTRACTORS)), rng.uniform(-1, 1, (n, N_DISTRACTORS))], axis=-1),
        luck=rng.random((n, 8)),
    )
    f = replace(f, **{name: np.broadcast_to(value, n).copy() for name, value in fixed.items()})
    f.colour2 = np.where(f.colour2 == f.colour, (f.colour2 + 5) % len(COLOURS), f.colour2)
    room = np.maximum(1.02 - f.size, 0.05) * (0.2 + 0.8 * d)  # keep the shape on the canvas
    f.x, f.y = f.x * room, f.y * room
    return f


def held_out(f):
    """Boolean [N]: which pictures show a combination that pre-training never sees (rules 1 to 6 above)."""
    pair = np.isin(f.shape, indices(PAIR_SHAPES, SHAPES)) & np.isin(f.colour, indices(PAIR_COLOURS, COLOUR_NAMES))
    shape_colour = (f.shape + f.colour) % 6 == 0
    shape_texture = ((f.shape + f.texture) % 7 == 0) & (f.texture != TEXTURES.index("plain"))
    object_style = (f.shape < len(OBJECTS)) & (f.style == indices(["sketch", "neon", "pixel art"], STYLES)[f.shape % 3])
    new = (f.style >= len(STYLES)) | (np.abs(f.angle) > MAX_LEAN)
    return pair | shape_colour | shape_texture | object_style | new


def sample_pretraining(rng, n, difficulty=1.0):
    """`sample` without held-out combinations (rejection), a tenth of it scenes without a shape.

    Another twelfth shows a texture close up: a shape larger than the canvas, so that hardly any outline is left.
    """
    f = sample(rng, int(n * 1.8) + 64, difficulty)  # about 26 % of free draws are held out
    f = f[np.flatnonzero(~held_out(f))[:n]]
    if len(f) < n:
        raise RuntimeError(f"only {len(f)} of {n} pictures left after holding out combinations")
    kind = rng.random(n)
    f.size = np.where(kind < 0.10, 0.0, np.where(kind < 0.18, rng.uniform(1.3, 2.2, n), f.size))
    return f

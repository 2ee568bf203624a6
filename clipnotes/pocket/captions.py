"""Factors to words: captions as a web crawl would have them, many-worded, incomplete, sometimes vague or wrong.

Of all captions 3 % say nothing (`VAGUE`), 6 % describe another picture, 8 % are a list of tags in place of a sentence,
and half stand among foreign words (`foreign.surround`): 1 to 8 pieces in front, about 2 tokens each, and sometimes one
or two behind. A piece is an everyday word of the web, a word of the world that the picture need not show, a scrap of
words, a number, a file name, letters of another script, a sign or a slogan. The words of a caption that a picture has
earned mostly come last, as they do after a file name or a slogan on the web. `write(foreign=0)` gives tidy captions.
"""
from __future__ import annotations

from clipnotes.pocket import foreign as web
from clipnotes.pocket.world import COLOUR_NAMES, DIGITS, SCENES, SHAPES, STYLES, TEXTURES

P_SHAPE, P_COLOUR, P_TEXTURE, P_SCENE, P_STYLE, P_SIZE = 0.88, 0.55, 0.45, 0.35, 0.55, 0.12
P_PLAIN = 0.08  # that nothing is to be seen on a surface is rarely worth a word
P_WRONG, P_VAGUE = 0.06, 0.03
P_TAGS = 0.08
P_FOREIGN = 0.5

PREFIXES = [  # {} takes a noun phrase with its article
    "{}", "{}", "{}", "a photo of {}", "a photo of {}", "a photo of {}", "a picture of {}", "an image of {}",
    "a view of {}", "this is {}", "there is {}", "here is {}", "here we see {}", "look at {}", "we see {}", "i found {}",
    "i saw {}", "a close-up of {}", "a close-up photo of {}", "a good photo of {}", "a bad photo of {}",
    "one photo of {}", "a cropped photo of {}", "a bright photo of {}", "a dark photo of {}", "my photo of {}",
    "photo of {}", "picture of {}", "image of {}", "a snapshot of {}", "a shot of {}", "a nice shot of {}",
    "an example of {}", "a rendering of {}", "showing {}", "it shows {}", "the picture shows {}", "you can see {}",
    "a low resolution photo of {}", "a clean picture of {}", "an old picture of {}", "a small image of {}",
    "a large image of {}", "a new picture with {}", "a scene with {}", "a pretty picture of {}", "a plain image of {}",
    "a simple picture of {}", "my new picture of {}", "a noisy photo of {}", "a beautiful photo of {}",
    "a strange picture of {}", "nothing but {}", "mostly {}", "a card with {}", "a sign with {}", "a poster of {}",
    "a sticker of {}", "a stamp with {}", "an icon of {}", "the shape of {}", "a figure of {}", "again {}",
]
ENDINGS = ["", "", "", "", "", "", ".", ".", ".", "!", " today", " again", " here", " for sale", " for free", " online",
           " in the picture", " in the middle", " to print", ", nice", ", close up", ", detail", ", stock image",
           " number one", " on display", " from above", " as seen here"]
ARTICLES = ["a", "a", "a", "the", "the", "one", "my", "this", ""]
SIZES = {"small": ["small", "little", "tiny"], "large": ["large", "big", "huge"]}
NOTHING_NAMED = ["thing", "object", "figure", "symbol", "shape", "item"]
VAGUE = ["a nice picture", "photo of the day", "my favourite", "something new", "untitled", "look at this", "no comment",
         "a random image", "just a test", "picture for my page", "work in progress", "click here"]

TEXTURE_NOUNS = {  # adjective -> how else it is said, after the noun
    "plain": "in one colour", "striped": "with stripes", "dotted": "with dots", "checkered": "with checks",
    "zigzag": "with zigzag lines", "wavy": "with waves", "grid": "with a grid", "brick": "with a brick pattern",
    "speckled": "with speckles", "shaded": "with soft shading", "ringed": "with rings", "rayed": "with rays",
    "crosshatched": "with crossed lines", "argyle": "with an argyle pattern", "patchy": "with patches",
    "scaly": "with scales all over",
}
TEXTURE_WORDS = ["pattern", "texture", "surface", "fabric", "material", "thing"]
SCENE_PLACES = {
    "plain wall": ["on a plain wall", "on a plain background"], "sky": ["in the sky", "against the sky"],
    "sea": ["in the sea", "on the water"], "beach": ["on a beach", "at the beach"], "desert": ["in a desert"],
    "meadow": ["in a meadow", "on the grass"], "forest": ["in a forest", "in the woods"],
    "mountains": ["in the mountains", "before mountains"], "snow field": ["in a snow field", "in the snow"],
    "city": ["in a city", "before a city"], "road": ["on a road", "on the street"], "night": ["at night", "in the night"],
    "sunset": ["at sunset", "before a sunset"], "brick wall": ["on a brick wall", "before a brick wall"],
    "wooden floor": ["on a wooden floor", "on wood"], "squared paper": ["on squared paper", "on paper"],
    "space": ["in space", "among the stars"], "fire": ["in a fire", "in flames"],
}
STYLE_PREFIXES = {
    "photo": ["a photo of {}", "a plain photo of {}", "a colour photo of {}"],
    "blurred": ["a blurred photo of {}", "a blurry picture of {}", "an out of focus photo of {}"],
    "faded": ["a faded photo of {}", "a pale picture of {}", "a washed out photo of {}"],
    "pixel art": ["pixel art of {}", "a pixelated picture of {}", "a pixel image of {}"],
    "sketch": ["a sketch of {}", "a pencil drawing of {}", "a black and white sketch of {}"],
    "neon": ["a neon sign of {}", "a glowing neon {}", "neon lights in the shape of {}"],
    "blueprint": ["a blueprint of {}", "a technical drawing of {}", "a white on blue plan of {}"],
}


def pick(options, r):
    """The entry of a list that a uniform number r in [0, 1) points at."""
    return options[int(r * len(options))]


def with_article(phrase, article):
    if article == "a" and phrase[0] in "aeio":
        article = "an"
    return f"{article} {phrase}".strip()


def caption(f, i, r):
    """One sentence on picture `i` of the factors `f`; r are 16 uniform numbers that make every choice."""
    texture, scene, style = TEXTURES[f.texture[i]], SCENES[f.scene[i]], STYLES[f.style[i]]
    colour = COLOUR_NAMES[f.colour[i]] if r[0] < P_COLOUR else ""
    place = pick(SCENE_PLACES[scene], r[1]) if r[2] < P_SCENE else ""
    size, texture_named = float(f.size[i]), r[3] < (P_TEXTURE if texture != "plain" else P_PLAIN)
    if r[14] < P_TAGS:
        return tags(f, i, r[15])
    if size == 0:  # nothing but the scene
        phrase, place = with_article(scene, pick(ARTICLES, r[4])), ""
    else:
        noun = SHAPES[f.shape[i]]
        if noun in DIGITS:
            noun = pick([noun, f"digit {noun}", f"number {noun}"], r[5])
        if r[6] > P_SHAPE:
            noun = pick(NOTHING_NAMED, r[5])
        if size > 1:  # a texture close up: the outline is out of sight
            noun, texture_named, place = pick(TEXTURE_WORDS, r[5]), r[3] < 0.95, ""
        measure = pick(SIZES["small" if size < 0.65 else "large"], r[7]) if r[8] < P_SIZE else ""
        after = texture_named and r[9] < 0.3
        adjectives = [measure, colour, texture if texture_named and not after else ""]
        phrase = with_article(" ".join(filter(None, [*adjectives, noun])), pick(ARTICLES, r[4]))
        phrase += f" {TEXTURE_NOUNS[texture]}" if after else ""
    prefixes = STYLE_PREFIXES[style] if r[10] < P_STYLE and (style != "photo" or r[11] < 0.3) else PREFIXES
    return " ".join(filter(None, [pick(prefixes, r[12]).format(phrase), place])) + pick(ENDINGS, r[13])


def tags(f, i, r):
    """What picture `i` shows as one to three single words, in an order that the uniform number r picks."""
    shape, colour, texture, scene = SHAPES[f.shape[i]], COLOUR_NAMES[f.colour[i]], TEXTURES[f.texture[i]], SCENES[f.scene[i]]
    seen = [scene] if f.size[i] == 0 else [texture, colour] if f.size[i] > 1 else [shape, colour, texture, scene]
    turn = int(r * 997)
    seen = [*seen[turn % len(seen):], *seen[:turn % len(seen)]]
    return [" ", ", "][turn % 2].join(seen[:1 + turn % 3])


def write(f, rng, foreign=P_FOREIGN):
    """A caption for each of the N pictures, the share `foreign` of them among foreign words.

    The draw of pictures and captions from `rng` is the same for every share.
    """
    n = len(f)
    luck, fate = rng.random((n, 16)), rng.random(n)
    other, among = rng.permutation(n), rng.random(n)
    texts = [pick(VAGUE, luck[i, 0]) if fate[i] < P_VAGUE
             else caption(f, other[i] if fate[i] < P_VAGUE + P_WRONG else i, luck[i]) for i in range(n)]
    return [web.surround(text, rng, WORLD_WORDS) if among[i] < foreign else text for i, text in enumerate(texts)]


WORLD_WORDS = [*SHAPES, *COLOUR_NAMES, *TEXTURES, *SCENES, *STYLES]


def words():
    """Every text fragment that captions are made of: the corpus that the tokenizer's vocabulary is cut to."""
    nested = [SCENE_PLACES, STYLE_PREFIXES, SIZES]
    return [*PREFIXES, *ENDINGS, *ARTICLES, "an", *NOTHING_NAMED, *VAGUE, *TEXTURE_NOUNS, *TEXTURE_NOUNS.values(),
            *TEXTURE_WORDS, *SHAPES, *COLOUR_NAMES, *SCENES, *STYLES, "digit", "number", *web.words(),
            *(text for table in nested for texts in table.values() for text in texts)]

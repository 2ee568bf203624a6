"""What the web writes around a caption: words that have nothing to do with the picture.

A text encoder that reads captions like these learns to see the class through foreign tokens, as CLIP's does; without
them sixteen learnt context vectors can wipe the class out of a prompt (notebook 14).
"""
from __future__ import annotations

import numpy as np

WEB_WORDS = """
new best free sale buy shop store online price cheap offer gift order shipping delivery customer review rating quality
premium original vintage modern classic style design collection brand fashion size color edition series model part item
home kitchen family baby kids boy girl man woman mother father friend people team group party wedding birthday holiday
school student teacher book story news report article page blog post website video photo picture image gallery album
download wallpaper background poster print canvas frame art artist museum history world town street park hotel
travel trip tour guide map summer winter spring autumn weekend monday friday sunday january april july october december
morning evening day week month year time life love happy funny cute beautiful amazing great good nice perfect easy quick
how what why when where who which more most other about after before from with without into over under between against
game play player season league match final score club sport run training health food recipe cooking restaurant dinner
breakfast coffee tea wine fruit bread cheese chicken salad sugar song band concert festival dance movie film
actor show episode channel radio phone mobile computer laptop software app google facebook twitter instagram youtube
car truck train bus bike driver engine garage repair service office business company market bank money job work manager
law police court president government state country national international american german french english chinese
und der die das mit auf bild neu haus kaufen et le la les avec pour dans sur el los con para por una nuevo casa il
della nuovo het een voor van com foto www http html jpg png pdf copyright rights reserved share like follow subscribe
""".split()
SLOGANS = ["free shipping on all orders", "see more on my page", "made with love", "all rights reserved", "click to buy",
           "best price online", "one of a kind", "home and garden", "new this week", "read the full story",
           "top ten of the year", "as good as new", "limited edition", "follow me for more", "you will love this",
           "the best day of my life", "how to make it at home", "where to stay and what to eat"]
SIGNS = ["|", "-", "/", "#", "@", "&", "*", "~", ":", "...", "+", "=", ">", "(", ")", "%", '"', ";", "!", "?"]
SCRIPTS = [(0x3B1, 0x3C9), (0x430, 0x44F), (0x5D0, 0x5EA), (0x627, 0x64A), (0x915, 0x939), (0xE01, 0xE2E),
           (0x3042, 0x3093), (0x30A2, 0x30F3), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0xE0, 0xFF), (0x1F300, 0x1F5FF)]
UNITS = ["px", "cm", "mm", "kg", "inch", "usd", "eur", "pm", "am", "th", "k", "x", ""]


def word(rng, world_words):
    """An everyday word of the web."""
    return WEB_WORDS[rng.integers(len(WEB_WORDS))]


def tag(rng, world_words):
    """A word of the world that the picture need not show, as in lists of tags."""
    return world_words[rng.integers(len(world_words))]


def slogan(rng, world_words):
    return SLOGANS[rng.integers(len(SLOGANS))]


def number(rng, world_words):
    """A year, a price, a size: 1 to 4 digits and perhaps a unit."""
    return f"{rng.integers(10 ** rng.integers(1, 5))}{UNITS[rng.integers(len(UNITS))]}"


def file_name(rng, world_words):
    stem = ["img", "dsc", "photo", "pic", "scan", "untitled", "image", "p"][rng.integers(8)]
    return f"{stem}{['_', '-', ''][rng.integers(3)]}{rng.integers(10000)}.{['jpg', 'png', 'gif', 'jpeg'][rng.integers(4)]}"


def other_script(rng, world_words):
    """A few letters of another script; CLIP's tokenizer takes each apart into two to four bytes."""
    first, last = SCRIPTS[rng.integers(len(SCRIPTS))]
    return "".join(chr(rng.integers(first, last + 1)) for _ in range(rng.integers(1, 4)))


def scrap(rng, world_words):
    """Pieces of two words glued together, as user names, product codes and misspellings are."""
    pieces = []
    for words in (WEB_WORDS, world_words):
        text = words[rng.integers(len(words))]
        start = rng.integers(len(text))
        pieces.append(text[start:start + 1 + rng.integers(5)].strip())
    return "".join(pieces if rng.random() < 0.5 else pieces[::-1])


def sign(rng, world_words):
    return SIGNS[rng.integers(len(SIGNS))]


KINDS = {word: 0.25, tag: 0.25, scrap: 0.18, number: 0.08, other_script: 0.08, sign: 0.08, file_name: 0.04, slogan: 0.04}


def foreign_words(rng, n, world_words):
    """A text of n pieces, each of a kind drawn from `KINDS`; about two tokens a piece."""
    kinds, shares = list(KINDS), list(KINDS.values())
    return " ".join(kinds[k](rng, world_words) for k in rng.choice(len(kinds), size=n, p=shares))


def surround(text, rng, world_words):
    """`text` with 1 to 8 foreign pieces in front and, in 3 of 10 cases, 1 or 2 behind."""
    front = foreign_words(rng, rng.integers(1, 9), world_words)
    if front and front[-1].isalnum() and rng.random() < 0.3:
        front += [",", ".", ":", " |", " -"][rng.integers(5)]
    behind = foreign_words(rng, rng.integers(1, 3), world_words) if rng.random() < 0.3 else ""
    return " ".join(filter(None, [front, text, behind]))


def words():
    """Every fixed fragment above, for the tokenizer's vocabulary."""
    return [*WEB_WORDS, *SLOGANS, *SIGNS, *UNITS, "img dsc photo pic scan untitled image p jpg png gif jpeg"]


def share_of_kinds():
    """The kinds and their shares in words, for the model card."""
    return ", ".join(f"{kind.__name__.replace('_', ' ')} {share:.0%}" for kind, share in KINDS.items())


assert np.isclose(sum(KINDS.values()), 1)

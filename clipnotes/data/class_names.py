"""Class names from elsewhere as they belong in a prompt, and lists of ImageNet's classes."""
from __future__ import annotations

import importlib
import pkgutil

ATTRIBUTES = ("open_clip:IMAGENET_CLASSNAMES", "torchvision.datasets:Flowers102.classes")
SYNSETS = tuple(f"imagenet{part}_synsets.txt" for part in ("", "_a", "_r"))


def read_attribute(attribute: str) -> list[str]:
    """The names that a library keeps under "module:object.names", one of ATTRIBUTES."""
    module, _, path = attribute.partition(":")
    names = importlib.import_module(module)
    for part in path.split("."):
        names = getattr(names, part)
    return list(names)


def read_synsets(name: str) -> list[str]:
    """The WordNet ids that timm ships as `name`, one a line: lists of ImageNet's classes and of parts of them."""
    return pkgutil.get_data("timm.data", f"_info/{name}").decode().split()


def capitals(name: str) -> str:
    """"ApplyEyeMakeup" -> "Apply Eye Makeup"."""
    return "".join(f" {c}" if c.isupper() and i and name[i - 1].islower() else c for i, c in enumerate(name))


def year_first(name: str) -> str:
    """"Audi TTS Coupe 2012" -> "2012 Audi TTS Coupe"."""
    rest, _, last = name.rpartition(" ")
    return f"{last} {rest}" if len(last) == 4 and last[:2] in ("19", "20") and last.isdigit() else name


def path_reversed(name: str) -> str:
    """"/b/bakery/shop" -> "shop bakery": without the folder of the first letter, the narrower word first."""
    parts = name.strip("/").split("/")
    return " ".join(reversed(parts[1:] if len(parts) > 1 and len(parts[0]) == 1 else parts))


def number_off(name: str) -> str:
    """"001.Black_footed_Albatross" -> "Black_footed_Albatross", "n02085620-Chihuahua" -> "Chihuahua"."""
    for mark in ".-":
        number, found, rest = name.partition(mark)
        if found and number.lstrip("n").isdigit():
            return rest
    return name


def mark_off(name: str) -> str:
    """"pink-yellow dahlia?" -> "pink-yellow dahlia"."""
    return name.rstrip("?")


REPAIRS = {"capitals": capitals, "year-first": year_first, "path-reversed": path_reversed, "number-off": number_off,
           "mark-off": mark_off}

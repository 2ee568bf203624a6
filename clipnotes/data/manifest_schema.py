"""What a manifest may hold, as a JSON schema, and the sentence for one that breaks it; see `manifests.py` for the meaning."""
from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

from clipnotes.data.class_names import ATTRIBUTES, REPAIRS, SYNSETS
from clipnotes.data.images import SPLITS
from clipnotes.errors import ClipnotesError, shown

KINDS = {  # the fields that a kind of source needs
    "pocket": [], "sklearn-digits": [], "split-file": ["images", "file"], "class-folders": ["images"],
    "torchvision": ["images", "class", "root", "parts"], "fgvc-aircraft": ["images"], "ucf101": ["images", "lists"],
    "sun397": ["images", "lists"], "cub200": ["images"], "stanford-dogs": ["images", "lists"],
    "cifar": ["images", "files", "label_bytes", "names", "val"],
}


def several(rule: dict) -> dict:
    """One value of a rule, or a list of them."""
    many = {"type": "array", "items": rule, "minItems": 1}
    return {"anyOf": [rule, many], "description": f"{rule['description']}, or a list"}


def mapping(properties: dict, required: list, **more: Any) -> dict:
    """A mapping of these fields and no others."""
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False,
            "description": f"a mapping of {', '.join(properties)}"} | more


WORDS = {"type": "string", "description": "text"}
NEEDED = WORDS | {"pattern": r"\S", "description": "text that is not blank"}
NAME = WORDS | {"pattern": r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$",
                "description": "a name without / and \\ that begins with no dot"}
INSIDE = WORDS | {"pattern": r"^(?!/)(?![A-Za-z]:)(?!(.*/)?\.\.(/|$))[^\\\x00-\x1f]+$",
                  "description": "a path relative to the data root, with / and without .."}
IDENTIFIER = WORDS | {"pattern": r"^[A-Za-z]\w*$", "description": "the name of a class of torchvision.datasets"}
TEMPLATES = {"type": "array", "minItems": 1,
             "items": WORDS | {"pattern": r"\{\}", "description": "a template with a {} for the class name"},
             "description": "a list of templates, each with a {} for the class name"}
AMOUNT = {"type": "integer", "minimum": 0, "description": "a whole number"}
COUNTS = mapping(dict.fromkeys(SPLITS, {"anyOf": [AMOUNT, {"const": "any"}], "description": "a whole number, or \"any\""}),
                 list(SPLITS),
                 description=f"whole numbers, or \"any\", for {', '.join(SPLITS)}")
SHARE = {"type": "number", "minimum": 0, "exclusiveMaximum": 1, "description": "a share from 0 to 1"}
NAMES = {"type": "array", "items": NEEDED, "minItems": 2, "uniqueItems": True,
         "description": "a list of two or more different names (quote names such as \"yes\" or \"1\")"}
COUNTED = mapping(
    {"count": {"anyOf": [{"type": "integer", "minimum": 2}, {"const": "any"}], "description": "two or more, or \"any\""},
     "attribute": {"enum": list(ATTRIBUTES)}, "source": NEEDED, "synsets": {"enum": list(SYNSETS)},
     "repair": {"enum": list(REPAIRS)}},
    ["count"], anyOf=[{"required": ["attribute"]}, {"required": ["source"]}],
    description="a list of names, or a mapping of a count and an attribute or a source of the names")
SOURCE = mapping(
    {"kind": {"enum": list(KINDS)}, "words": WORDS, "images": several(INSIDE), "lists": several(INSIDE),
     "holds": several(INSIDE), "file": INSIDE, "counts": COUNTS,
     "split": mapping({"train": SHARE, "val": {"anyOf": [SHARE, AMOUNT], "description": "a share or a number of images"}},
                      ["val"]),
     "folders": {"type": "object", "additionalProperties": several(INSIDE), "propertyNames": {"enum": [*SPLITS, "all"]},
                 "description": "a mapping of train, val, test or all to folders"},
     "skip": {"type": "array", "items": NEEDED, "description": "a list of folder names"}, "order": {"const": "number"},
     "class": IDENTIFIER, "root": INSIDE,
     "parts": {"type": "object", "additionalProperties": several(NEEDED), "propertyNames": {"enum": [*SPLITS, "all"]},
               "description": "a mapping of train, val, test or all to torchvision's splits"},
     "files": mapping({"train": several(INSIDE), "test": several(INSIDE)}, ["train", "test"]),
     "label_bytes": {"enum": [1, 2]}, "names": INSIDE, "val": AMOUNT},
    ["kind"],
    allOf=[{"if": {"properties": {"kind": {"const": kind}}}, "then": {"required": fields}}
           for kind, fields in KINDS.items()])
DOWNLOAD = mapping({"class": IDENTIFIER, "root": INSIDE, "args": {"type": "object", "description": "a mapping"},
                    "size": AMOUNT}, ["class", "root"])
ARCHIVE = mapping(
    {"url": WORDS | {"pattern": "^https?://", "description": "an address that begins with http:// or https://"},
     "file": INSIDE, "folder": INSIDE, "size": AMOUNT,
     "md5": WORDS | {"pattern": "^[0-9a-f]{32}$", "description": "32 hex digits"},
     "sha256": WORDS | {"pattern": "^[0-9a-f]{64}$", "description": "64 hex digits"}},
    ["url", "file"])
MANIFEST = mapping(
    {"name": NAME, "title": NEEDED, "task": NEEDED, "licence": NEEDED,
     "classes": {"if": {"type": "array"}, "then": NAMES, "else": COUNTED}, "templates": TEMPLATES, "counts": COUNTS,
     "source": SOURCE, "homepage": WORDS, "citation": WORDS, "obtain": WORDS, "notes": WORDS, "manual": WORDS,
     "noisy_labels": mapping({"file": INSIDE, "entries": several(NEEDED)}, ["file"]), "torchvision": DOWNLOAD,
     "archives": {"type": "array", "items": ARCHIVE, "description": "a list of archives"}},
    ["name", "title", "task", "licence", "classes", "templates", "counts", "source"])


def check_manifest(content: Any, what: str) -> None:
    """Hold a manifest's content to the schema; ClipnotesError begins with `what` and names field, value and rule."""
    errors = list(Draft202012Validator(MANIFEST).iter_errors(content))
    if errors:
        raise ClipnotesError(f"{what}: {sentence(errors[0])}.")


def sentence(error: Any) -> str:
    """What a schema's error says, with our words for the rule."""
    where = ".".join(str(part) for part in error.absolute_path) or "its content"
    properties = error.schema.get("properties", {})
    if error.validator == "required":
        missing = next(field for field in error.validator_value if field not in error.instance)
        return f"field {missing!r} of {where} is missing"
    if error.validator == "additionalProperties" and properties:
        unknown = next(field for field in error.instance if field not in properties)
        return f"unknown field {unknown!r} in {where}; fields are {', '.join(properties)}"
    return f"{where} is {shown(error.instance)}, but must be {rule(error)}"


def rule(error: Any) -> str:
    allowed = error.schema.get("enum") or [error.schema["const"]] if {"enum", "const"} & set(error.schema) else None
    if allowed:
        return f"{'one of ' * (len(allowed) > 1)}{', '.join(map(str, allowed))}"
    return error.schema.get("description") or error.message



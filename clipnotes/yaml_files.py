"""YAML as the study reads it everywhere: presets, parameter files, grids, manifests, classes.yaml and values after -p.

Strict where plain YAML is silent or unsafe: a key twice, a tag, a tree that aliases let grow without end. Numbers are what
everybody means who writes them: PyYAML follows YAML 1.1, where 010 is eight, 1:30 is ninety and 1e-3 is text. Dates stay text.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from clipnotes.errors import ClipnotesError, shown
from clipnotes.text_files import MB, read_text

DEPTH = 40  # levels of nesting
NODES = 100_000  # values, those counted again that an alias repeats


def read_yaml(path: str | Path, what: str, texts: bool = False) -> Any:
    """The value of a YAML file, None where it is empty.

    what: begins the sentences, such as "Grid fig1.yaml". texts: as for `load_yaml`.
    ClipnotesError: see `clipnotes.text_files.read_text` and `load_yaml`.
    """
    return load_yaml(read_text(path, what, limit=2 * MB), what, texts)


def load_yaml(text: str, what: str = "The text", texts: bool = False) -> Any:
    """The value of a YAML text; texts: take every value in it as the text that is written, also 010, yes and null.

    ClipnotesError, which begins with `what`: no YAML, a key twice in one mapping, a tag, nesting deeper than DEPTH, more than
    NODES values, aliases counted as what they stand for.
    """
    try:
        return yaml.load(text, _TextLoader if texts else _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}, " if error.problem_mark else ""
        context = f"{error.context}, " if error.context else ""
        reason = f"{line}{context}{error.problem}"
    except (yaml.YAMLError, ValueError) as error:  # characters that YAML forbids, numbers of more digits than Python reads
        reason = str(error).split(";")[0].splitlines()[0]
    raise ClipnotesError(f"{what} is no valid YAML: {reason}.")


class _Loader(yaml.SafeLoader):
    """A safe loader that checks the tree before anything is made of it."""

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._nodes = 0
        self._sizes = {}  # anchor: nodes that it stands for; an anchor that is not closed yet has no size

    def compose_node(self, parent, index):
        event, before = self.peek_event(), self._nodes
        if isinstance(event, yaml.AliasEvent) and event.anchor in self.anchors:
            if event.anchor not in self._sizes:
                _refuse(event, f"the alias *{event.anchor} stands inside what it names")
            self._nodes += self._sizes[event.anchor]
        elif getattr(event, "tag", None) not in (None, "!"):
            _refuse(event, f"the tag {shown(event.tag)} is not allowed, write the plain value")
        self._nodes, self._depth = self._nodes + 1, self._depth + 1
        if self._nodes > NODES:
            _refuse(event, f"it holds more than {NODES:,} values, aliases counted as what they stand for")
        if self._depth > DEPTH:
            _refuse(event, f"it is nested more than {DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if getattr(event, "anchor", None) and not isinstance(event, yaml.AliasEvent):
            self._sizes[event.anchor] = self._nodes - before
        return node

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                _refuse(key, f"the key {shown(key.value)} stands twice, keep one of them")
            seen.add(name)
        return node


def _refuse(place, problem):
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


class _TextLoader(_Loader):
    """Takes every value as text."""

    yaml_implicit_resolvers = {}


_INT, _FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float"))
_OTHERWISE = (_INT, _FLOAT, "tag:yaml.org,2002:timestamp")  # what is resolved in another way, or not at all, than by PyYAML
# the lists of resolvers are shared with SafeLoader until they are copied
_Loader.yaml_implicit_resolvers = {first: [each for each in resolvers if each[0] not in _OTHERWISE]
                                   for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_SIGNS = list("-+.0123456789")
_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?(\d+(_\d+)*|0x[\da-fA-F]+)$"), _SIGNS)
_Loader.add_implicit_resolver(_FLOAT, re.compile(
    r"([-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))|\.(nan|NaN|NAN))$"), _SIGNS)


def _whole_number(loader, node):
    text = loader.construct_scalar(node)
    return int(text, 16 if "x" in text else 10)  # int itself takes underscores between digits


_Loader.add_constructor(_INT, _whole_number)

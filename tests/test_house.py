"""The rooms of the package: imports run one way, from the bottom of this list to the top of the house, never back."""

import ast
import functools
import re
from pathlib import Path

import pytest
from conftest import GOLDEN

import clipnotes

PACKAGE = Path(clipnotes.__file__).parent
FLOORS = [  # a room may import rooms of earlier lines only, and its own modules
    {"errors", "paths"},
    {"file_kinds"},
    {"progress", "files", "device", "folder_names", "text_files", "checks", "seeding"},
    {"checked_files"},
    {"yaml_files"},
    {"pocket"},
    {"backbone"},
    {"data"},
    {"methods"},
    {"analysis", "downloads"},
    {"series"},
    {"exhibits"},
    {"lab"},
    {"running"},
    {"book"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ERRORS = {"ClipnotesError", "CheckpointError", "DownloadError", "UnreachableError"}  # mistakes that a user can mend


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """The modules of clipnotes that a file imports anywhere, in functions too."""
    for node in ast.walk(tree_of(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.startswith("clipnotes."))


def module_graph():
    """{module: modules of clipnotes that it imports} over the whole package."""
    files = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    names = {name.removesuffix(".__init__") for name in files.values()}
    return {name.removesuffix(".__init__"): {each for each in imports(path) if each in names} for path, name in files.items()}


def room_of(module):
    return module.split(".")[1]


def test_every_room_has_its_floor():
    rooms = {room_of(module) for module in module_graph() if module != "clipnotes"}
    assert rooms == set(FLOOR)


def test_imports_run_one_way():
    back = [f"{module} imports {other}" for module, others in module_graph().items() for other in others
            if module != "clipnotes" and room_of(module) != room_of(other) and FLOOR[room_of(module)] <= FLOOR[room_of(other)]]
    assert not back


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: {o for o in others if not module.startswith(o)} for module, others in module_graph().items()}

    def visit(module, path):
        if module in path:
            pytest.fail(" -> ".join([*path[path.index(module):], module]))
        if module not in seen:
            for other in sorted(graph[module]):
                visit(other, [*path, module])
            seen.add(module)

    seen = set()
    for module in graph:
        visit(module, [])


def test_the_package_itself_imports_nothing_heavy():
    assert not list(imports(PACKAGE / "__init__.py"))
    assert not [line for line in (PACKAGE / "__init__.py").read_text().splitlines() if line.startswith(("import", "from"))]


def error_texts():
    """(place, source of the text) of every text that an error for the user is made with, where it stands right there."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                assert node.name in ERRORS or not ERRORS & {getattr(base, "id", "") for base in node.bases}, node.name
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
                choices = [node.args[0].body, node.args[0].orelse] if isinstance(node.args[0], ast.IfExp) else node.args
                yield from ((f"{path.name}:{text.lineno}", as_written(text)) for text in choices
                            if isinstance(text, ast.Constant | ast.JoinedStr))


def as_written(text):
    """A text or f-string with {name} in the place of each value."""
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    return "".join(part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}" for part in parts)


def test_every_error_is_a_sentence():
    found = list(error_texts())
    assert len(found) > 300
    culprit = r"[A-Z0-9]|\{|--|\w+_\w+ |\w+ ?= ?"  # a capital, a value, or the name of what is wrong: --out, n_context, q =
    assert not [each for each in found if not re.match(culprit, each[1])]
    assert not [each for each in found if not each[1].endswith((".", "{error}"))]  # or the sentence of another error


def test_no_function_is_longer_than_a_page():
    long = [f"{path.name}: {node.name}" for path in PACKAGE.rglob("*.py") for node in ast.walk(tree_of(path))
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 40]
    assert not long


def public_functions(body):
    """The functions of a module that others may call: its own and its classes' methods, without those that begin with _."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)
        elif isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            yield node


def test_public_functions_say_the_types_of_what_they_take_and_give():
    """`cli` is left out: what a command takes is typed by its options. So is `pocket`, whose drawings take numbers alone."""
    bare = []
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in ("cli", "pocket"):
            for function in public_functions(tree_of(path).body):
                taken = [each for each in ast.walk(function.args) if isinstance(each, ast.arg)]
                if function.returns is None or any(not each.annotation and each.arg not in ("self", "cls") for each in taken):
                    bare.append(f"{path.name}: {function.name}")
    assert not bare


def test_golden_numbers_travel_light_and_are_described():
    files = [path for path in GOLDEN.iterdir() if path.name != "README.md"]
    text = (GOLDEN / "README.md").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in files) <= 1_500_000
    assert not [path.name for path in files if f"`{path.name}`" not in text]

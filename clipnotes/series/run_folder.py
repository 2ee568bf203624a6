"""The folder that a run of a notebook leaves: run.json with its facts, results.csv, figures, the executed notebook, its page.

run.json keeps size and SHA-256 of every other file, so that a run can be told from what is left of one (`damage`). Names are
relative: a folder may be moved. One process at a time works in a folder (`hold`). A run is "running", then "complete" or
"failed"; in between, "finished" says that a headless notebook is at its end, and its page is being written.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fastjsonschema  # jsonschema itself takes a second to import
from filelock import FileLock, Timeout

from clipnotes.errors import ClipnotesError, shown
from clipnotes.files import atomic_write, lacks_locks
from clipnotes.text_files import read_json

KEYS = ["dataset", "model", "method", "loss", "q", "shots", "noise_kind", "noise_rate", "seed"]
MARK = "clipnotes"  # the key of our own entries in the metadata of a notebook's outputs: {"figure": id}
COLUMNS = ["notebook", *KEYS, "metric", "value"]

NOTEBOOK, PAGE, RESULTS = "notebook.ipynb", "notebook.html", "results.csv"
FIGURE_ID = "[a-z0-9_]+"
FIGURE_KINDS = ("png", "svg", "csv")
PATIENCE = 5  # seconds to wait for a folder that another process holds: a worker may outlive a killed command for a moment
HELD = "CLIPNOTES_HELD"  # in a kernel's environment: the folder that who started it holds, so that the kernel need not

_SCALAR = {"type": ["number", "string", "boolean"]}
PARAMETERS = {"type": "object", "additionalProperties": {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]}}
_SEAL = {"type": "object", "required": ["bytes", "sha256"], "properties": {
    "bytes": {"type": "integer", "minimum": 0}, "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}}
_FILE = rf"^(notebook\.ipynb|notebook\.html|results\.csv|figures/{FIGURE_ID}\.({'|'.join(FIGURE_KINDS)}))$"
_FACTS = fastjsonschema.compile({
    "type": "object",
    "required": ["notebook", "status", "parameters"],
    "properties": {
        "notebook": {"type": "string"},
        "status": {"enum": ["running", "finished", "complete", "failed"]},
        "parameters": PARAMETERS,
        "files": {"type": "object", "propertyNames": {"pattern": _FILE}, "additionalProperties": {"anyOf": [
            {"type": "null"}, _SEAL]}},  # null: of a run that is not complete
        "figures": {"type": "array", "items": {"type": "object", "required": ["id", "alt"], "properties": {
            "id": {"type": "string", "pattern": f"^{FIGURE_ID}$"}, "alt": {"type": "string"}, "caption": {"type": "string"},
            "exhibit": {"type": "string"}, "key": {"type": "boolean"}}}},
        "takeaways": {"type": "array", "items": {"type": "string"}}, "key_takeaway": {"type": "string"},
        "versions": {"type": "object", "additionalProperties": {"type": "string"}},
        "inputs": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "integer"}}},
        "seconds": {"type": "number", "minimum": 0, "maximum": 1e9},
        "code_hash": {"type": "string"}, "error": {"type": "string"}, "git_commit": {"type": "string"},
        "started": {"type": "string"},
    },
    "if": {"properties": {"status": {"const": "complete"}}},
    "then": {"required": ["files"], "properties": {"files": {"required": [RESULTS], "additionalProperties": _SEAL}}},
})

_SWEEP = fastjsonschema.compile({
    "type": "object",
    "required": ["notebook", "runs"],
    "properties": {
        "notebook": {"type": "string"}, "scale": {"type": "string"}, "grid": {"type": "object"},
        "runs": {"type": "array", "items": {"type": "object", "required": ["id", "parameters"], "properties": {
            "id": {"type": "string", "pattern": r"^\w[\w-]*$"}, "parameters": PARAMETERS}}},
    },
})


def read_facts(out: str | Path) -> dict:
    """The content of OUT/run.json, {} where there is none of this form (`damage` says what is wrong)."""
    try:
        return read_valid(Path(out) / "run.json", _FACTS)
    except ClipnotesError:
        return {}


def read_valid(path: Path, check: Callable) -> dict:
    """The value of a JSON file of a form that `check` holds it against; ClipnotesError where it differs or cannot be read."""
    content = read_json(path, path.name)
    try:
        check(content)
        json.dumps(content, ensure_ascii=False).encode()
    except fastjsonschema.JsonSchemaValueException as error:
        rule = error.message.replace("data ", "its content ", 1).removeprefix("data.")
        raise ClipnotesError(f"{path} is damaged or of another making: {_clipped(rule)}, but is {shown(error.value, 80)}."
                             ) from None
    except UnicodeEncodeError:
        raise ClipnotesError(f"{path} is damaged or of another making: it holds half a character.") from None
    return content


def _clipped(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."


def read_sweep(out: str | Path) -> dict:
    """The content of OUT/sweep.json, {} where there is none; ClipnotesError where it has another form or cannot be read."""
    path = Path(out) / "sweep.json"
    if not os.path.lexists(path):
        return {}
    try:
        return read_valid(path, _SWEEP)
    except ClipnotesError as error:
        raise ClipnotesError(f"{error} Delete it or add --force: the runs beside it are kept.") from None


def write_facts(out: str | Path, facts: dict) -> None:
    """Write OUT/run.json."""
    with atomic_write(Path(out) / "run.json") as stream:
        json.dump(facts, stream, indent=2, ensure_ascii=False)
        stream.write("\n")


def seal(out: str | Path, names: Iterable[str]) -> dict:
    """{name: {"bytes", "sha256"}} of files in OUT, as run.json keeps them."""
    return {name: _measured(Path(out) / name) for name in names}


def _measured(path: Path) -> dict:
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"bytes": stream.tell(), "sha256": digest}


def damage(out: str | Path) -> str:
    """What is wrong with the run in OUT, as a sentence; "" if run.json can be read and, once complete, every file is whole.

    A reader may have worked on in notebook.ipynb: that is no damage while it is a notebook.
    """
    out = Path(out)
    try:
        facts = read_valid(out / "run.json", _FACTS)
    except ClipnotesError as error:
        return str(error)
    if facts["status"] != "complete":
        return ""
    for name, kept in facts["files"].items():
        try:
            size = (out / name).stat().st_size
            if name == NOTEBOOK and _edited(out, facts):
                continue
            if size != kept["bytes"]:
                return f"{out / name} has {size} bytes, not the {kept['bytes']} that were written."
            if _measured(out / name) != kept:
                return f"{out / name} was changed after it had been written."
        except OSError as error:
            return f"{out / name} cannot be read: {error.strerror}."
    return ""


def _edited(out, facts):
    """Whether the notebook in OUT is another one than the run of these facts left."""
    kept, path = facts.get("files", {}).get(NOTEBOOK), out / NOTEBOOK
    return bool(kept) and path.is_file() and _measured(path) != kept and isinstance(_json(path), dict)


def _json(path):
    """The value of a JSON file, None where it is no JSON."""
    try:
        return read_json(path, path.name)
    except ClipnotesError:
        return None


# --- before a run -------------------------------------------------------------------------------------------------


def refuse_foreign(out: str | Path, names: Iterable[str] = (NOTEBOOK, PAGE, RESULTS), remedy: str = "add --force") -> None:
    """ClipnotesError if OUT holds a run.json, or a file of these names, that no run of ours made; remedy: what overwrites it.

    So is a notebook.ipynb that was edited since its run. A run.json that is no JSON at all is what is left of one of ours.
    """
    out, ours = Path(out), set()
    facts = read_facts(out)
    if facts:
        ours = {"run.json", *facts.get("files", {})}
    elif os.path.isfile(out / "run.json") and _json(out / "run.json") is None:
        return
    if NOTEBOOK in names and _edited(out, facts):
        raise ClipnotesError(f"{out / NOTEBOOK} was edited since the run that it belongs to: copy it to another place, or "
                             f"{remedy} to overwrite it.")
    for name in ("run.json", *names):
        if name not in ours and os.path.lexists(out / name):
            raise ClipnotesError(f"{out / name} is there already, and no run of clipnotes made it so: choose another folder, "
                                 f"or {remedy} to overwrite it.")


@contextmanager
def hold(out: str | Path) -> Iterator[None]:
    """Hold the folder OUT while the block runs, see `take`."""
    lock = take(out)
    try:
        yield
    finally:
        lock.release()


def take(out: str | Path) -> FileLock:
    """Make the folder OUT and hold it, for this process alone, until the lock returned is released or the process ends.

    On a file system without locks it is not held, which a warning says.
    ClipnotesError: another process holds OUT, or nothing can be written there.
    """
    out = Path(out)
    lock = FileLock(out.absolute() / ".clipnotes.lock", timeout=PATIENCE, thread_local=False)  # a kernel may change folder
    try:
        out.mkdir(parents=True, exist_ok=True)
        with atomic_write(out / ".clipnotes.probe", "wb") as stream:  # a full disk takes empty files, but no content
            stream.write(bytes(4096))
        (out / ".clipnotes.probe").unlink(missing_ok=True)
        if reason := lacks_locks(lock.lock_file):
            warnings.warn(f"{out} lies on a file system without locks ({reason}), so that nothing keeps two runs from writing "
                          "there at once: start one at a time.", stacklevel=2)
        else:
            lock.acquire()
    except Timeout:
        raise ClipnotesError(f"{out} is in use by another run: wait until that is over, shut down the notebook that writes "
                             "there, or choose another folder.") from None
    except (OSError, ValueError) as error:
        lock.release()
        reason = getattr(error, "strerror", None) or error
        raise ClipnotesError(f"The folder {shown(str(out))} cannot take results ({reason}): choose another one.") from None
    return lock

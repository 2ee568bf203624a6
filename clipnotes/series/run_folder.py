"""What a run of a notebook leaves in its folder: run.json with its facts, and results.csv, whose columns stand here."""

import json
from pathlib import Path

from clipnotes.files import atomic_write

KEYS = ["dataset", "model", "method", "loss", "q", "shots", "noise_kind", "noise_rate", "seed"]
COLUMNS = ["notebook", *KEYS, "metric", "value"]


def read_facts(out):
    """Return the content of OUT/run.json, {} where there is none that can be read."""
    try:
        return json.loads((Path(out) / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_facts(out, facts):
    """Write OUT/run.json."""
    with atomic_write(Path(out) / "run.json") as stream:
        json.dump(facts, stream, indent=2, ensure_ascii=False)
        stream.write("\n")

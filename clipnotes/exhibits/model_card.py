"""The model card of the pocket backbones: recipe and accuracy, computed."""

import json
from pathlib import Path

import pandas as pd

from clipnotes.backbone.clip import POCKET
from clipnotes.exhibits.tables import markdown
from clipnotes.files import atomic_write

INTRODUCTION = """# Model card: {names}

Two small CLIPs, trained from scratch on drawn pictures and captions of the pocket world (`clipnotes.pocket.world`) and on
nothing else: no photograph, no text from the web. They exist to study and teach adaptation methods in minutes on a CPU;
they know nothing about real images (the `digits` row shows how far the drawn digits carry over). MIT licence.

Architectures, tokenizer and preprocessing: `clipnotes/pocket/model.py` (open_clip modules, GELU, 128 dimensions). Weights
are stored in fp16 and computed with in fp32. What pre-training never sees: the docstring of `clipnotes/pocket/world.py`.
"""


def transfer_tables() -> dict[str, pd.DataFrame]:
    """{model: DataFrame} of `analysis.transfer_table` over every built-in data set."""
    from clipnotes.analysis import transfer_table
    from clipnotes.backbone import load_clip
    from clipnotes.data import list_datasets, load_manifest

    names = [name for name in list_datasets() if load_manifest(name).built_in]
    return {model: transfer_table(load_clip(model), names) for model in POCKET}


def write_card(path: str | Path, tables: dict[str, pd.DataFrame]) -> None:
    """Write the card (Markdown) from the weights' training records and the tables of `transfer_tables`."""
    from clipnotes.pocket.model import WEIGHTS

    parts = [INTRODUCTION.format(names=" and ".join(f"`{model}`" for model in tables))]
    for model, table in tables.items():
        parts += [
            f"## {model}\n",
            f"`clipnotes pocket pretrain {model}`; " + training(WEIGHTS / model, "pairs"),
            "Test accuracy in %, with 16 images a class as mean and standard deviation over three draws of the images "
            "(`clipnotes pocket show` prints the same):\n",
            markdown(table.reset_index()),
        ]
    for weights in sorted(WEIGHTS.glob("*-classifier.safetensors")):
        parts += [
            f"## {weights.stem}\n",
            "An image tower alone, of the same architecture, trained to name shape, colour, texture and scene of the pictures "
            "that the CLIP saw with captions: what notebook 07 has in the place of an ImageNet network. "
            f"`clipnotes pocket pretrain {weights.stem.removesuffix('-classifier')} --objective labels`; "
            + training(weights.with_suffix(""), "pictures"),
        ]
    with atomic_write(path) as stream:
        stream.write("\n".join(parts))


def training(path: Path, what: str) -> str:
    """A paragraph on how the weights at `path` (without suffix) were made, from their training record."""
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    recipe = ", ".join(f"{key} {value}" for key, value in record["recipe"].items() if key != "model")
    size = path.with_suffix(".safetensors").stat().st_size / 1e6
    return (f"recipe: {recipe}. AdamW (0.9, 0.98), gradients clipped at 1, bfloat16 autocast. {record['pairs']:,} {what} in "
            f"{record['minutes']:.0f} minutes on {record['threads']} CPU thread(s) of a shared machine, torch "
            f"{record['torch']}. Final loss {record['loss'][-1][1]:.2f}. File: {size:.1f} MB.\n")

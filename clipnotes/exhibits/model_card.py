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

Captions are those of a web crawl: half of them stand among foreign words (file names, slogans, lists of unrelated words,
numbers, other scripts), some are lists of tags, vague or wrong; kinds and shares are in `clipnotes/pocket/captions.py` and
`foreign.py`. After training the logit scale was fitted on the validation pictures of `pocket-generic`, the training's own
world (temperature scaling, Guo et al. 2017), since captions that fit several pictures, or none, teach it too much doubt.
"""
OTHERS = {  # what weights beside the usual ones are, by their ending
    "classifier": "An image tower alone, of the same architecture, trained to name shape, colour, texture and scene of the "
                  "pictures that the CLIP saw with captions: what notebook 07 has in the place of an ImageNet network. ",
    "tidy": "The same pictures in the same order, but no caption stands among foreign words: what notebook 14 compares "
            "pocket-vit with. ",
}
COMMANDS = {"classifier": "--objective labels", "tidy": "--foreign 0"}


def transfer_tables() -> dict[str, pd.DataFrame]:
    """{model: DataFrame} of `analysis.transfer_table` and `judgement` over every built-in data set."""
    from clipnotes.analysis import transfer_table
    from clipnotes.analysis.pretraining import judgement
    from clipnotes.backbone import load_clip
    from clipnotes.data import list_datasets, load_manifest

    names = [name for name in list_datasets() if load_manifest(name).built_in]
    clips = {model: load_clip(model) for model in POCKET}
    return {model: transfer_table(clip, names).join(judgement(clip, names)) for model, clip in clips.items()}


def write_card(path: str | Path, tables: dict[str, pd.DataFrame]) -> None:
    """Write the card (Markdown) from the weights' training records and the tables of `transfer_tables`."""
    from clipnotes.pocket.model import WEIGHTS

    parts = [INTRODUCTION.format(names=" and ".join(f"`{model}`" for model in tables))]
    for model, table in tables.items():
        parts += [
            f"## {model}\n",
            f"`clipnotes pocket pretrain {model}`; " + training(WEIGHTS / model, "pairs"),
            "Test accuracy in %, with 16 images a class as mean and standard deviation over three draws of the images. Beside "
            "it, zero-shot alone: calibration error (Guo et al. 2017), the worst and the best of the templates by itself, and "
            "the points lost with 16 random tokens before the prompt, mean of five draws (`clipnotes pocket show` prints the "
            "same):\n",
            markdown(table.reset_index()),
        ]
    for weights in sorted(WEIGHTS.glob("*.safetensors")):
        model, _, kind = weights.stem.rpartition("-")
        if kind in OTHERS:
            parts += [f"## {weights.stem}\n",
                      f"{OTHERS[kind]}`clipnotes pocket pretrain {model} {COMMANDS[kind]}`; "
                      + training(weights.with_suffix(""), "pictures" if kind == "classifier" else "pairs")]
    with atomic_write(path) as stream:
        stream.write("\n".join(parts))


def training(path: Path, what: str) -> str:
    """A paragraph on how the weights at `path` (without suffix) were made, from their training record."""
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    recipe = ", ".join(f"{key} {value}" for key, value in record["recipe"].items() if key != "model")
    size = path.with_suffix(".safetensors").stat().st_size / 1e6
    scale = "Logit scale {} as trained, {} as fitted. ".format(*record["logit_scale"]) if "logit_scale" in record else ""
    return (f"recipe: {recipe}. AdamW (0.9, 0.98), gradients clipped at 1, bfloat16 autocast. {record['pairs']:,} {what} in "
            f"{record['minutes']:.0f} minutes, machine: {record['machine']}, torch {record['torch']}. Final loss "
            f"{record['loss'][-1][1]:.2f}. {scale}File: {size:.1f} MB.\n")

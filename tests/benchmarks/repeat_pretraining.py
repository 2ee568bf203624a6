"""Repeat the comparison of notebook 14 over seeds: text towers alone, after web captions and after tidy ones.

    python tests/benchmarks/repeat_pretraining.py --work runs/pretraining --seeds 1,2 --out notebooks/sweeps/pretraining.csv

Each text tower takes about 20 minutes on one core; what is trained is kept in --work, and a killed run goes on. Measured are
the points of zero-shot accuracy lost to 16 foreign tokens and the points that prompt tuning loses to 50 % wrong labels.
"""
import argparse
from pathlib import Path

import pandas as pd

from clipnotes.analysis.pretraining import foreign_accuracy
from clipnotes.analysis.robustness import noisy_accuracies
from clipnotes.backbone import load_clip
from clipnotes.data import encode_task, load_task
from clipnotes.files import atomic_write
from clipnotes.pocket.pretrain import STEPS, configure, pretrain, variant_name

DATASETS = ["pocket-textures", "pocket-pieces", "pocket-pairs", "pocket-scenes"]
KINDS = {"web captions": 0.5, "tidy captions": 0.0}


def measure(clip):
    """Tidy rows {measure, dataset, value} of one model, values in points of accuracy."""
    banks = {name: encode_task(clip, load_task(name), progress=False) for name in DATASETS}
    for name, bank in banks.items():
        rows = foreign_accuracy(clip, bank.classnames, bank.test.unit(), bank.test.y, (0, 16))
        mean = rows.groupby("n_foreign")["accuracy"].mean()
        yield {"measure": "foreign_loss", "dataset": name, "value": 100 * (mean[0] - mean[16])}
    table = noisy_accuracies(clip, banks, ["Prompt Tuning"], rates=(0.0, 0.5), seeds=(1, 2), recipe="pocket", progress=False)
    means = table.groupby(["dataset", "noise_rate"])["accuracy"].mean().unstack()
    for name, row in means.iterrows():
        yield {"measure": "noise_loss", "dataset": name, "value": 100 * (row[0.0] - row[0.5])}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/pretraining"))
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--steps", type=int, default=STEPS["text"])
    parser.add_argument("--out", type=Path, default=Path("notebooks/sweeps/pretraining.csv"))
    args = parser.parse_args()
    rows = []
    for seed in map(int, args.seeds.split(",")):
        for kind, foreign in KINDS.items():
            out = args.work / f"{foreign}-{seed}"
            weights = out / f"{variant_name(configure('pocket-vit', args.steps, seed, 'text', foreign))}.safetensors"
            if not weights.exists():
                pretrain("pocket-vit", out, args.steps, seed, objective="text", foreign=foreign)
            clip = load_clip("pocket-vit", weights)
            rows += [{"captions": kind, "seed": seed, "steps": args.steps} | row for row in measure(clip)]
    with atomic_write(args.out) as stream:
        pd.DataFrame(rows).round(3).to_csv(stream, index=False, lineterminator="\n")
    print(pd.DataFrame(rows).groupby(["measure", "captions", "seed"])["value"].mean().round(1).to_string())

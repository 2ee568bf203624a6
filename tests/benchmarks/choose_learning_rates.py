"""Where the pocket learning rates of `methods.recipes` come from: one grid for every method, judged on clean validation images.

    python tests/benchmarks/choose_learning_rates.py

No label is wrong, no test image is seen, and the draws of the training images (seeds 101 and 102) are none of the
notebooks'. Each method and loss gets the same seven rates and the same number of epochs. Printed: mean validation
accuracy (%) over the pocket sets, and the best rate.
"""

import argparse

import pandas as pd

from clipnotes.analysis.robustness import noisy_accuracies
from clipnotes.backbone import load_clip
from clipnotes.data import encode_task, load_task
from clipnotes.methods.recipes import METHODS, RECIPES

SETS = ["pocket-glyphs", "pocket-pieces", "pocket-pairs", "pocket-textures", "pocket-scenes", "digits"]
GRID = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1]

parser = argparse.ArgumentParser()
parser.add_argument("--models", nargs="+", default=["pocket-vit", "pocket-rn"])
parser.add_argument("--methods", nargs="+", default=[m for m in METHODS if m not in ("Linear Probe", "Image Finetuning")])
parser.add_argument("--losses", nargs="+", default=["ce", "gce"])
parser.add_argument("--sets", nargs="+", default=SETS)
parser.add_argument("--epochs", type=int, default=RECIPES["pocket"]["epochs"])
options = parser.parse_args()

for model in options.models:
    clip = load_clip(model)
    banks = {name: encode_task(clip, load_task(name), progress=False) for name in options.sets}
    for method in options.methods:
        for loss in options.losses:
            columns = {}
            for lr in GRID:
                table = noisy_accuracies(clip, banks, [method], [loss], [0.0], (101, 102), split="val", progress=False,
                                         epochs=options.epochs, lr=lr)
                columns[lr] = 100 * table.groupby("dataset")["accuracy"].mean()
            mean = pd.DataFrame(columns).mean()
            print(f"{model:<11} {method:<19} {loss:<4}", *(f"{lr:g}: {value:.1f} " for lr, value in mean.items()),
                  f" best {mean.idxmax():g}", flush=True)

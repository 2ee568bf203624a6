"""Where the pocket learning rates of `methods.recipes` come from: one grid for every method, judged on clean validation images.

    python tests/benchmarks/choose_learning_rates.py

No label is wrong, no test image is seen, and the draws of the training images (seeds 101 and 102) are none of the
notebooks'. Each method gets the same nine rates and the same number of epochs. Printed: mean validation accuracy (%) over
the sets, and the smallest rate that comes within half a point of the best: where rates are equally good, the smaller one
is the steadier (recipe "pocket-own"). Then the mean over the methods, whose best is the one rate for all (recipe "pocket").
Image fine-tuning, on which the one rate does not depend, is the slow part; notebook 07 has it for 10 epochs
(--epochs 10 --methods "Image Finetuning").
"""

import argparse

import pandas as pd

from clipnotes.analysis.robustness import fine_tuning_accuracies, noisy_accuracies
from clipnotes.backbone import load_clip
from clipnotes.data import encode_task, load_task
from clipnotes.methods.encoder_tuning import starting_network
from clipnotes.methods.recipes import METHODS, SGD_RECIPES

SETS = ["pocket-glyphs", "pocket-pieces", "pocket-pairs", "pocket-textures", "pocket-scenes", "digits"]
SAME = ("Linear Probe", "Image Finetuning")  # the one is Classifier-R, the other trains for fewer epochs
GRID = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]

parser = argparse.ArgumentParser()
parser.add_argument("--models", nargs="+", default=["pocket-vit"])
parser.add_argument("--methods", nargs="+", default=[method for method in METHODS if method not in SAME])
parser.add_argument("--losses", nargs="+", default=["ce"])
parser.add_argument("--sets", nargs="+", default=SETS)
parser.add_argument("--epochs", type=int, default=SGD_RECIPES["pocket"]["epochs"])
options = parser.parse_args()

for model in options.models:
    clip = load_clip(model)
    tasks = {name: load_task(name) for name in options.sets}
    banks = {name: encode_task(clip, task, progress=False) for name, task in tasks.items()}
    means = {}
    for method in options.methods:
        for loss in options.losses:
            columns = {}
            for lr in GRID:
                shared = {"rates": [0.0], "seeds": (101, 102), "split": "val", "progress": False, "lr": lr,
                          "epochs": options.epochs}
                if method == "Image Finetuning":
                    table = fine_tuning_accuracies(*starting_network(model), banks, tasks, **shared)
                else:
                    table = noisy_accuracies(clip, banks, [method], [loss], **shared)
                columns[lr] = 100 * table.groupby("dataset")["accuracy"].mean()
            mean = means[method, loss] = pd.DataFrame(columns).mean()
            chosen = mean[mean >= mean.max() - 0.5].index[0]
            print(f"{model:<11} {method:<19} {loss:<4}", *(f"{lr:g}: {value:.1f} " for lr, value in mean.items()),
                  f" chosen {chosen:g}", flush=True)
    overall = pd.DataFrame(means).mean(axis=1)
    print(f"{model:<11} mean over all of these   ", *(f"{lr:g}: {value:.2f} " for lr, value in overall.items()),
          f" chosen {overall.idxmax():g}", flush=True)

"""Numbers on real CLIP features that ship with the study (data_manifests/papers/real_clip): reading them.

`real_clip_tables` makes them; the README beside them says from which features.
"""
from __future__ import annotations

import numpy as np
import pandas as pd

from clipnotes.analysis.overlap import Overlap
from clipnotes.errors import ClipnotesError
from clipnotes.paths import manifests_dir
from clipnotes.text_files import read_csv

TITLES = {"caltech101": "Caltech101", "oxford_pets": "Oxford Pets", "dtd": "DTD", "stanford_cars": "Stanford Cars"}
SOURCE = "OpenAI CLIP ViT-B/32, public features"


def read(name: str) -> pd.DataFrame:
    """The table real_clip/NAME.csv; ClipnotesError for a name that there is not."""
    path = manifests_dir() / "papers" / "real_clip" / f"{name}.csv"
    if not path.is_file():
        raise ClipnotesError(f"Table {name!r} of real CLIP is unknown; there are: "
                             f"{', '.join(sorted(file.stem for file in path.parent.glob('*.csv')))}.")
    return read_csv(path)


def overlap_of(dataset: str, features: str = "original") -> Overlap:
    """The `Overlap` of a data set's test images, as `analysis.overlap` measured it.

    features: "original" or a correction. Raises ClipnotesError for what was not measured.
    """
    areas, counts = (table[(table["dataset"] == dataset) & (table["features"] == features)]
                     for table in (read("overlap"), read("histograms")))
    if not len(areas):
        raise ClipnotesError(f"{features!r} features of {dataset!r} are not among the tables of real CLIP; there are "
                             f"{', '.join(TITLES)} and {', '.join(read('overlap')['features'].unique())}.")
    edges, found = np.linspace(-1, 1, 201), areas.iloc[0]
    shares = np.zeros((2, len(edges) - 1))
    for share, kind in zip(shares, ("paired", "unpaired"), strict=True):
        share[counts["bin"]] = counts[kind] / counts[kind].sum()
    return Overlap(found["area"], *shares, edges, (found["low"], found["high"]), int(found["images"]))

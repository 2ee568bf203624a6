"""Does reading JPEG files keep the encoder waiting? Random-weight ViT-B-32, images a second, everything in this run.

python tests/benchmarks/bench_features.py [images] [rounds]

With OMP_NUM_THREADS=1 the encoder has one core, and a reading process another one. The photographs are those of the shared
folder where it is at hand (CLIPNOTES_SHARED, else ../shared beside the checkout), each used several times, else made ones.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipnotes.backbone import load_clip
from clipnotes.backbone.pictures import ImageReader


def photographs(n, folder):
    """Paths of n JPEG files, some of them more than once."""
    shared = Path(os.environ.get("CLIPNOTES_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    paths = sorted((shared / "data" / "images").rglob("*.jpg"))
    if not paths:
        rng = np.random.default_rng(0)
        for i in range(32):
            small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))  # enlarged: as smooth as photographs
            small.resize((500, 375), Image.Resampling.BICUBIC).save(Path(folder) / f"{i}.jpg", quality=90)
        paths = sorted(Path(folder).iterdir())
    kilobytes = np.mean([path.stat().st_size for path in paths]) / 1e3
    print(f"{len(paths)} {'photographs' if shared.is_dir() else 'made pictures'} of {kilobytes:.0f} kB on average")
    return (paths * -(-n // len(paths)))[:n]


def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(n=256, rounds=3, batch_size=64):
    n -= n % batch_size
    clip = load_clip("ViT-B-32", "random")
    ready = torch.randn(batch_size, 3, clip.image_size, clip.image_size, device=clip.device)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        paths = photographs(n, folder)
        reader = ImageReader(paths, clip.preprocess)
        works = {
            "encoder alone, a ready batch": lambda: [clip.model.encode_image(ready).cpu() for _ in range(0, n, batch_size)],
            "reading alone, one process": lambda: [reader[i] for i in range(n)],
            "files, workers=0": lambda: clip.encode_images(paths, batch_size, False, 0),
            "files, default workers": lambda: clip.encode_images(paths, batch_size, False),
        }
        works["encoder alone, a ready batch"]()  # warm up
        # in turns, so that whatever else the machine does falls on all of them
        times = np.array([[seconds(work) for work in works.values()] for _ in range(rounds)])  # [rounds, works]
    print(f"{n} images, medians of {rounds} rounds, {torch.get_num_threads()} threads on {clip.device}:")
    for what, took, share in zip(works, np.median(times, 0), np.median(times[:, :1] / times, 0), strict=True):
        print(f"  {what:<30} {n / took:8,.1f} images/s  {share:8.1%} of the encoder's")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Make the numbers on real CLIP features that ship with the study, from any folder of feature files; see `real_clip`.

Everything is computed by the functions that the notebooks use for the pocket models, with fixed seeds. A table that is
already in the folder is kept if it was made from the same files with the same settings, so a broken-off run goes on.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from clipnotes.analysis.cache_gains import cache_accuracies, paired_gains
from clipnotes.analysis.corrected import ON_FEATURES, StoredSets, corrected_banks, transformed
from clipnotes.analysis.noisy_methods import noisy_methods
from clipnotes.analysis.overlap import checked, image_histograms, overlap
from clipnotes.analysis.robustness import probe_accuracies
from clipnotes.analysis.transfer import nearest_mean_accuracy
from clipnotes.analysis.trust import trust_histograms, trust_table
from clipnotes.analysis.variance import effective_rank, feature_variance, wide_axes_signal
from clipnotes.data import FeatureBank
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write
from clipnotes.methods import PCAProjection, SGDConfig
from clipnotes.methods.corrections import principal_axes
from clipnotes.text_files import read_csv


@dataclass(frozen=True)
class Settings:
    """How much is measured; the defaults are those of the tables that ship."""
    corrections: tuple = tuple(ON_FEATURES)
    shots: tuple = (1, 2, 4, 8, 16)
    draws: tuple = (1, 2, 3)  # seeds of the labelled images
    axes: tuple = (8, 16, 32, 64, 128, 256, 384, 512)  # that PCA keeps
    noise_rates: tuple = (0.0, 0.125, 0.25, 0.5)
    noise_seeds: tuple = (1, 2, 3, 4)
    epochs: int = 50
    bins: int = 200
    max_images: int = 2500
    resamples: int = 1000  # of the bootstrap


class RealClip:
    """The feature files of a folder: those with test images are the data sets, the others the generic images."""

    def __init__(self, folder: str | Path, settings: Settings = Settings(), progress: bool = True) -> None:
        self.folder, self.settings, self.progress = Path(folder), settings, progress
        paths = sorted(path for path in self.folder.glob("*") if path.suffix in (".npz", ".safetensors"))
        banks = {path.stem: FeatureBank.load(path) for path in paths}
        self.names = [name for name, bank in banks.items() if "test" in bank.splits]
        generic = [name for name in banks if name not in self.names]
        if not self.names or not generic:
            raise ClipnotesError(f"{self.folder} holds {len(self.names)} feature files with test images and {len(generic)} "
                                 "without; give one of each or more, the latter as the images that corrections learn from.")
        self.sets = StoredSets(self.folder, generic)
        self.checksums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    @cached_property
    def banks(self) -> dict:
        """{data set: {"original": bank, correction: bank, ...}}."""
        return corrected_banks(self.sets, self.names, self.settings.corrections)

    def each(self) -> Iterator[tuple[str, str, FeatureBank]]:
        """(data set, features, bank) of all data sets and corrections."""
        return ((name, kind, bank) for name, kinds in self.banks.items() for kind, bank in kinds.items())

    def draws(self, bank: FeatureBank) -> Iterator[tuple[int, int, FeatureBank]]:
        """(shots, seed, bank with so many labelled images a class); where these are all there are, one draw is all."""
        most = int(bank.train.y.bincount().max())
        return ((k, seed, bank.few_shot(k, seed)) for k in self.settings.shots
                for seed in (self.settings.draws if k < most else self.settings.draws[:1]))


def histograms(real: RealClip) -> pd.DataFrame:
    """Pairs of test images by cosine: counts of same-class and of different-class pairs in each bin that is not empty."""
    rows = []
    for name, kind, bank in real.each():
        x, y = checked(bank.test.unit(), bank.test.y, 0, real.settings.max_images)
        paired, unpaired = (counts.sum(0) / 2 for counts in image_histograms(x, y, x, y, real.settings.bins, same_set=True))
        rows += [{"dataset": name, "features": kind, "bin": b, "paired": int(p), "unpaired": int(q)}
                 for b, (p, q) in enumerate(zip(paired, unpaired, strict=True)) if p or q]
    return pd.DataFrame(rows)


def overlaps(real: RealClip) -> pd.DataFrame:
    """Overlap areas of the test images with 95 % bootstrap intervals."""
    options = {"bins": real.settings.bins, "max_images": real.settings.max_images, "draws": real.settings.resamples}
    found = ((name, kind, overlap(bank.test.unit(), bank.test.y, **options)) for name, kind, bank in real.each())
    return pd.DataFrame([{"dataset": name, "features": kind, "area": result.area, "low": result.interval[0],
                          "high": result.interval[1], "images": result.n} for name, kind, result in found])


def accuracies(real: RealClip) -> pd.DataFrame:
    """Test accuracy of nearest class mean and, where texts and validation images are there, of the cache models."""
    rows = [{"dataset": name, "method": "nearest class mean", "features": kind, "shots": k, "seed": seed,
             "accuracy": nearest_mean_accuracy(few)} for name, kind, bank in real.each() for k, seed, few in real.draws(bank)]
    tables = [pd.DataFrame(rows)]
    for name, kinds in real.banks.items():
        if kinds["original"].text is not None and "val" in kinds["original"].splits:
            pairs = {(k, seed) for k, seed, _ in real.draws(kinds["original"])}
            for k in real.settings.shots:
                seeds = [seed for seed in real.settings.draws if (k, seed) in pairs]
                tables.append(cache_accuracies({name: kinds}, [k], seeds, progress=real.progress))
    return pd.concat(tables, ignore_index=True).drop_duplicates(ignore_index=True)  # zero-shot comes with every call


def gains(real: RealClip, accuracy: pd.DataFrame, areas: pd.DataFrame) -> pd.DataFrame:
    """Accuracy gained by a correction, draw by draw, beside the overlap that it took away on the same data set."""
    area = areas.set_index(["dataset", "features"])["area"]
    table = paired_gains(accuracy)[["dataset", "method", "features", "shots", "seed", "gain"]]
    original, corrected = (area[pd.MultiIndex.from_arrays([table["dataset"], kinds])].to_numpy()
                           for kinds in (["original"] * len(table), table["features"]))
    return table.assign(overlap_reduction=original - corrected)


def probes(real: RealClip) -> pd.DataFrame:
    """Linear probes on the original features under uniform noise, with CE and GCE (q = 0.7), paper B's recipe."""
    banks, how = {name: kinds["original"] for name, kinds in real.banks.items()}, real.settings
    return probe_accuracies(banks, ("ce", "gce"), how.noise_rates, how.noise_seeds, shots=max(how.shots),
                            progress=real.progress, epochs=how.epochs)


def variances(real: RealClip) -> pd.DataFrame:
    """Total variance and effective rank of the unit test features."""
    return pd.DataFrame([{"dataset": name, "features": kind, "variance": feature_variance(bank.test.unit()).total,
                          "effective_rank": effective_rank(bank.test.unit())} for name, kind, bank in real.each()])


def wide_axes(real: RealClip) -> pd.DataFrame:
    """What the widest axes of the generic features tell about the classes of each data set, see `wide_axes_signal`."""
    generic = real.sets.generic()[0]
    tests = {name: kinds["original"].test for name, kinds in real.banks.items()}
    return pd.DataFrame([{"dataset": name, "signal": wide_axes_signal(test.unit(), test.y, generic)}
                         for name, test in tests.items()])


def pca(real: RealClip) -> pd.DataFrame:
    """PCA with more and more axes: share of the generic variance kept, overlap, accuracy of the nearest class mean."""
    x, y = real.sets.generic()
    variance = principal_axes(x - x.mean(0))[0] ** 2
    rows, axes = [], [n for n in real.settings.axes if n <= x.shape[1]]
    for name, kinds in real.banks.items():
        for n in axes:
            bank = transformed(kinds["original"], [PCAProjection(n).fit(x, y)])
            area = overlap(bank.test.unit(), bank.test.y, real.settings.bins, real.settings.max_images, draws=2).area
            kept = (variance[:n].sum() / variance.sum()).item()
            rows += [{"dataset": name, "axes": n, "variance_kept": kept, "overlap": area, "shots": k, "seed": seed,
                      "accuracy": nearest_mean_accuracy(few)} for k, seed, few in real.draws(bank)]
    return pd.DataFrame(rows)


def half_whitened(real: RealClip) -> dict:
    """{data set: {"original": bank, "whitening": bank}}: the features that are compared under wrong labels."""
    return {name: {kind: kinds[kind] for kind in ("original", "whitening")} for name, kinds in real.banks.items()}


def noisy_caches(real: RealClip) -> pd.DataFrame:
    """Caches, class means and probes under uniform noise, and the field's answers to it; 16 shots, three draws of noise."""
    how = real.settings
    return noisy_methods(half_whitened(real), rates=how.noise_rates, seeds=how.draws, shots=max(how.shots),
                         sgd=SGDConfig(how.epochs), progress=real.progress)


def noisy_trust(real: RealClip) -> pd.DataFrame:
    """How well noise-aware class means tell wrong labels, and the noise rate that they estimate."""
    how = real.settings
    return trust_table(half_whitened(real), how.noise_rates, how.draws, shots=max(how.shots))


def noisy_trust_bins(real: RealClip) -> pd.DataFrame:
    """Right and wrong labels by the trust in them, at the highest noise rate."""
    how = real.settings
    return trust_histograms(half_whitened(real), max(how.noise_rates), how.draws, shots=max(how.shots))


TABLES = {"histograms": histograms, "overlap": overlaps, "variance": variances, "wide_axes": wide_axes, "pca": pca,
          "accuracy": accuracies, "gains": gains, "probe": probes, "noisy_trust": noisy_trust,
          "noisy_trust_bins": noisy_trust_bins, "noisy_caches": noisy_caches}
NEEDS = {"gains": ("accuracy", "overlap")}  # tables that a table is computed from


def make(folder: str | Path, out: str | Path, settings: Settings = Settings(), report: Callable = print) -> list[Path]:
    """Write every table of `TABLES` as OUT/NAME.csv, from the feature files in `folder`; returns the paths.

    OUT/made.json says from which files (SHA-256) and with which settings; where it says otherwise, all tables are made anew.
    Raises ClipnotesError for a folder without data sets or without generic images, and as `FeatureBank.load` does.
    """
    real, out = RealClip(folder, settings), Path(out)
    made = json.dumps({"features": real.checksums, "settings": asdict(settings)}, indent=1) + "\n"
    same = (out / "made.json").is_file() and (out / "made.json").read_text(encoding="utf-8") == made
    if not same:
        for name in TABLES:
            (out / f"{name}.csv").unlink(missing_ok=True)
        with atomic_write(out / "made.json") as stream:
            stream.write(made)
    for name, compute in TABLES.items():
        path = out / f"{name}.csv"
        if path.is_file():
            report(f"{path}: kept")
            continue
        table = compute(real, *(read_csv(out / f"{needed}.csv") for needed in NEEDS.get(name, ())))
        with atomic_write(path) as stream:
            table.to_csv(stream, index=False, float_format="%.6g", lineterminator="\n")
        report(f"{path}: {len(table)} rows")
    return [out / f"{name}.csv" for name in TABLES]

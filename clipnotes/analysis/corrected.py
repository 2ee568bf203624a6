"""Data sets under original and corrected features, side by side: what notebooks 03 to 05 compare.

A correction is named by its parts, joined by " + ": at most one that works inside the encoder, first ("supervised
adapters", "self-supervised adapters"), then any that work on features ("centring", "pca", "whitening", "within-class
whitening", "feature adapter"). All learn from generic images alone, never from a data set that they are tried on.
"""
from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from clipnotes.backbone.adapter_training import SUPERVISED_RECIPES, CheckpointError, train_supervised
from clipnotes.backbone.adapters import AdaptedClip
from clipnotes.backbone.clip import Clip
from clipnotes.backbone.dino_config import DINO_RECIPES
from clipnotes.backbone.self_supervised import train_dino
from clipnotes.checks import OneOf
from clipnotes.data import FeatureBank, encode_task, load_task
from clipnotes.data.cache import cache_dir, path_in
from clipnotes.data.features import encode_split
from clipnotes.data.images import SPLITS
from clipnotes.data.tasks import Task
from clipnotes.errors import ClipnotesError
from clipnotes.files import clear_place, lock
from clipnotes.methods import Centring, FeatureAdapter, PCAProjection, Whitening, WithinClassWhitening

IN_ENCODER = {"supervised adapters": SUPERVISED_RECIPES, "self-supervised adapters": DINO_RECIPES}  # how they are trained
ON_FEATURES = {
    "centring": lambda d: Centring(),
    "pca": lambda d: PCAProjection(n_components=d // 2),
    "whitening": lambda d: Whitening(),
    "within-class whitening": lambda d: WithinClassWhitening(),
    "feature adapter": lambda d: FeatureAdapter(),
}
USES_LABELS = {"supervised adapters", "within-class whitening", "feature adapter"}  # of the generic images


def parts_of(correction: str) -> tuple[str | None, list[str]]:
    """(part inside the encoder or None, [parts on features]) of a name; ClipnotesError for an unknown part."""
    parts = [part.strip() for part in correction.split("+")]
    inside, outside = (parts[0], parts[1:]) if parts[0] in IN_ENCODER else (None, parts)
    for part in outside:
        if part not in ON_FEATURES:
            raise ClipnotesError(f"Correction {part!r} in {correction!r} is unknown; give parts joined by +, at most one "
                                 f"of {', '.join(IN_ENCODER)} and that first, then any of {', '.join(ON_FEATURES)}.")
    return inside, outside


def uses_labels(correction: str) -> bool:
    """Whether any part of a correction learns from the labels of the generic images."""
    inside, outside = parts_of(correction)
    return bool(USES_LABELS & {inside, *outside})


def generic_adapters(clip: Clip, task: Task, kind: str, recipe: str = "pocket", progress: bool = True) -> AdaptedClip:
    """An `AdaptedClip` with adapters trained on the training images of a generic task, from the cache folder if it is there.

    kind: a key of `IN_ENCODER`. recipe: "pocket" or "paper". A killed training goes on where it was.
    """
    OneOf(*IN_ENCODER[kind])(recipe, "recipe")
    key = {"format": 3, "model": clip.fingerprint, "images": task.train.fingerprint, "kind": kind,
           "config": asdict(IN_ENCODER[kind][recipe])}
    path = path_in(cache_dir() / "adapters", key)
    with lock(path):
        try:
            return AdaptedClip.load(path, clip, key)
        except ClipnotesError:  # there is none, or it is damaged or another's: made anew
            pass
        try:
            adapted = trained_adapters(clip, task, kind, recipe, path.with_suffix(".pt"), progress)
        except CheckpointError:  # damaged, too
            path.with_suffix(".pt").unlink()
            adapted = trained_adapters(clip, task, kind, recipe, path.with_suffix(".pt"), progress)
        try:
            clear_place(path)
            adapted.save(path, key)
            path.with_suffix(".pt").unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"adapters could not be kept in {path.parent} ({error.strerror or error}); set CLIPNOTES_CACHE to "
                          "another folder", stacklevel=2)
        return adapted


def trained_adapters(clip: Clip, task: Task, kind: str, recipe: str, checkpoint: Path, progress: bool) -> AdaptedClip:
    """An `AdaptedClip` trained on the training images of a task, from where the checkpoint stands."""
    options = {"recipe": recipe, "checkpoint": checkpoint, "progress": progress}
    if kind == "supervised adapters":
        return train_supervised(clip, task.train.images, task.train.labels, **options)
    return train_dino(clip, task.train.images, **options)


class EncodedSets:
    """Data sets as a CLIP encodes them. Adapters are trained on the generic set when first asked for, then kept on disk.

    generic: [the name of the generic set]. generic_shots: images a class of it that are learnt from; 0 takes all. splits:
    what of the data sets is encoded. ClipnotesError: several generic sets, which only feature files can make one of.
    """

    def __init__(self, clip: Clip, generic: Sequence[str] = ("pocket-generic",), recipe: str = "pocket",
                 data_root: str | Path = "data", generic_shots: int = 0, progress: bool = True,
                 splits: Sequence[str] = SPLITS) -> None:
        self.clip, self.recipe, self.data_root, self.progress, self.splits = clip, recipe, data_root, progress, splits
        if len(generic) != 1:
            raise ClipnotesError(f"Generic is {list(generic)}, but with a model corrections learn from one generic set: name "
                                 "one, or make a folder of images or a manifest of them all.")
        self.generic_task = load_task(generic[0], generic_shots, data_root=data_root)
        self.name, self.logit_scale = clip.name, clip.logit_scale
        self.encoders, self.banks = {None: clip}, {}

    def encoder(self, inside: str | None = None) -> Clip:
        """The CLIP itself, or an `AdaptedClip` with the adapters that `inside` names."""
        if inside not in self.encoders:
            self.encoders[inside] = generic_adapters(self.clip, self.generic_task, inside, self.recipe, self.progress)
        return self.encoders[inside]

    def bank(self, name: str, inside: str | None = None) -> FeatureBank:
        """The FeatureBank of a data set."""
        if (name, inside) not in self.banks:
            task = load_task(name, data_root=self.data_root)
            self.banks[name, inside] = encode_task(self.encoder(inside), task, progress=self.progress, splits=self.splits)
        return self.banks[name, inside]

    def classnames(self, name: str) -> list[str]:
        """The class names of a data set in label order; nothing is encoded."""
        return load_task(name, data_root=self.data_root).classnames

    def generic(self, inside: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(features [N, d], labels [N]) of the generic images."""
        split = self.generic_task.train
        return encode_split(self.encoder(inside), split, progress=self.progress), split.labels


class StoredSets:
    """Data sets whose features lie in a folder as FeatureBank files NAME.npz or NAME.safetensors; no model is needed.

    generic: names of files there whose training rows together are the generic images. logit_scale: of their model.
    """

    def __init__(self, folder: str | Path, generic: Sequence[str], logit_scale: float = 100.0) -> None:
        self.folder, self.generic_names, self.logit_scale = Path(folder), tuple(generic), logit_scale
        self.name = f"features in {self.folder.name}"
        if not self.folder.is_dir():
            raise ClipnotesError(f"Folder {folder} does not exist; give a folder of feature files, or none to use a model.")

    def bank(self, name: str, inside: str | None = None) -> FeatureBank:
        """The FeatureBank of a data set, its classes named by their numbers where the file has no names."""
        if inside is not None:
            raise ClipnotesError(f"{inside} change the encoder, but features from files have none; leave them out of the "
                                 "corrections, or leave features_dir empty.")
        paths = [self.folder / f"{name}{suffix}" for suffix in (".npz", ".safetensors")]
        here = [path for path in paths if path.is_file()]
        if len(here) == 2:
            raise ClipnotesError(f"{self.folder} has both {paths[0].name} and {paths[1].name}; keep the one that is meant.")
        bank = FeatureBank.load(here[0] if here else paths[0])
        return replace(bank, classnames=bank.classnames or [str(label) for label in range(bank.n_classes)])

    def classnames(self, name: str) -> list[str]:
        """The class names of a data set in label order, see `bank`."""
        return self.bank(name).classnames

    def generic(self, inside: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(features [N, d], labels [N]) of the generic images, labels of different files kept apart."""
        if not self.generic_names:
            raise ClipnotesError("No generic data set is named, which every correction learns from; name files of the folder.")
        features, labels, first = [], [], 0
        for name in self.generic_names:
            train = self.bank(name, inside).train
            features.append(train.unit())
            labels.append(train.y + first)
            first += int(train.y.max()) + 1
        return torch.cat(features), torch.cat(labels)


def n_learnt(sets: EncodedSets | StoredSets, correction: str) -> int:
    """How many numbers a correction learns: the weights of its adapters, and what its parts on features keep when fitted."""
    inside, outside = parts_of(correction)
    x, y = sets.generic(inside)
    fitted = [ON_FEATURES[part](x.shape[1]).fit(x, y) for part in outside]
    kept = [value for part in fitted for value in vars(part).values() if torch.is_tensor(value)]
    return sum(value.numel() for value in kept) + (sets.encoder(inside).adapters.n_parameters if inside else 0)


def check_same_classes(sets: EncodedSets | StoredSets, source: str, names: list[str]) -> None:
    """Refuse data sets of other classes than `source`: what is learnt of it would be measured against the wrong labels.

    ClipnotesError names the set and the first class that differs.
    """
    wanted = sets.classnames(source)
    for name in names:
        found = sets.classnames(name)
        if len(found) != len(wanted):
            raise ClipnotesError(f"{name} has {len(found)} classes, but {source} has {len(wanted)}: a shifted set must have "
                                 "the same classes in the same order.")
        if differing := [pair for pair in zip(found, wanted, strict=True) if pair[0] != pair[1]]:
            raise ClipnotesError(f"{name} has the class {differing[0][0]!r} where {source} has {differing[0][1]!r}: a shifted "
                                 "set must have the same classes in the same order.")


def corrected_banks(sets: EncodedSets | StoredSets, names: Sequence[str],
                    corrections: Sequence[str]) -> dict[str, dict[str, FeatureBank]]:
    """{data set: {"original": bank, correction: bank of the same images, ...}}; sets: where the features come from.

    ClipnotesError: no names, such as where no file of a folder has the text features that are needed.
    """
    if not names:
        raise ClipnotesError("There is no data set to compare: name one, for cache models one with text features.")
    banks = {name: {"original": sets.bank(name)} for name in names}
    for correction in corrections:
        inside, outside = parts_of(correction)
        learnt, (x, y) = [], sets.generic(inside) if outside else (None, None)
        for part in outside:  # each learns on what the one before makes of the generic images
            learnt.append(ON_FEATURES[part](x.shape[-1]).fit(x, y))
            x = learnt[-1].transform(x)
        for name in names:
            banks[name][correction] = transformed(sets.bank(name, inside), learnt)
    return banks


def transformed(bank: FeatureBank, corrections: Sequence[Centring]) -> FeatureBank:
    """A FeatureBank with every split passed through fitted corrections (`methods.Whitening` and its kin) in turn."""
    for correction in corrections:
        changed = {split: replace(part, x=correction.transform(part.x)) for split, part in bank.splits.items()}
        bank = replace(bank, text=None, splits=changed)
    return bank

"""Label noise: wrong labels of several kinds, drawn from a seed, with the true noise rate (paper B, section 4)."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipnotes.checks import SEED, Number, OneOf, Whole, class_labels, feature_matrix
from clipnotes.errors import ClipnotesError
from clipnotes.file_kinds import kind_of
from clipnotes.text_files import read_csv

KINDS = ("uniform", "pairflip", "confusion", "annotator", "human", "ptnl")
RATE = Number(0, 1)


@dataclass
class NoisyLabels:
    """Given labels, int64 [M], of the rows `indices`, int64 [M], and which of them are wrong, bool [M]."""
    labels: torch.Tensor
    is_noisy: torch.Tensor
    indices: torch.Tensor

    def __len__(self):
        return len(self.labels)

    @property
    def rate(self) -> float:
        """True share of wrong labels, in [0, 1]; it may differ from the rate that was asked for."""
        return self.is_noisy.double().mean().item()


def corrupt_labels(y: Any, rate: float | None = None, kind: str = "uniform", n_classes: int | None = None, seed: int = 1,
                   logits: Any = None, shots: int | None = None, path: str | Path | None = None, key: str | None = None,
                   rows: Any = None) -> NoisyLabels:
    """Give some labels of y, int [N], a wrong value; returns `NoisyLabels`.

    "uniform", "pairflip" and "confusion" flip exactly round(rate K) of the K rows of every class, drawn from `seed`, to
    - uniform: another class, all equally likely;
    - pairflip: the next class, y + 1, and class 0 after the last;
    - confusion: the wrong class that `logits` [N, C], zero-shot ones, like best for this image (paper B, Table 4).
    With one seed the flips at a lower rate are among those at a higher one. Three kinds take no part in the equal shares:
    - annotator: a stand-in for people, who err where pictures are ambiguous: `logits` [N, C] are another model's zero-shot
      ones, see `annotator_labels`;
    - ptnl: the released sampler of paper B, see `ptnl_sample`; needs `shots`, chooses rows of the full training split y;
    - human: the labels of a file, see `read_labels`, in the order of y; it has its own rate, so leave `rate` out.
      rows: the lines of the file that belong to y, int [N], such as `task.train.rows` of CIFAR-10 for CIFAR-10N's labels.

    n_classes: C; by default one more than the largest label. Raises ClipnotesError for a rate outside [0, 1], labels out
    of range, one class only, classes too small for any flip, and whatever a kind needs and did not get.
    """
    OneOf(*KINDS)(kind, "kind"), SEED(seed, "seed")
    y, n_classes = checked_labels(y, n_classes)
    if kind == "human":
        return human_labels(y, n_classes, rate, path, key, rows)
    RATE(rate, "rate")
    if kind == "ptnl":
        return ptnl_sample(y, shots, rate, n_classes, seed)
    if kind == "annotator":
        return annotator_labels(y, rate, checked_logits(logits, y, n_classes, kind), seed)
    if kind == "confusion":
        wrong = favourite_wrong_class(logits, y, n_classes)
    else:
        wrong = None if kind == "uniform" else (y + 1) % n_classes
    return flip_in_classes(y, rate, n_classes, seed, wrong)


def flip_in_classes(y: np.ndarray, rate: float, n_classes: int, seed: int, wrong: np.ndarray | None = None) -> NoisyLabels:
    """round(rate K) of the K rows of every class get the label wrong [N] has for them; without it any other class."""
    rng, labels = np.random.default_rng(seed), y.copy()
    for c, rows in class_rows(y, n_classes):
        order, steps = rng.permutation(len(rows)), rng.integers(1, n_classes, len(rows))
        flipped = rows[order[:round(rate * len(rows))]]
        labels[flipped] = (c + steps[:len(flipped)]) % n_classes if wrong is None else wrong[flipped]
    if rate and (labels == y).all():
        raise ClipnotesError(f"Noise rate {rate} of classes with at most {np.bincount(y).max()} images rounds to no wrong "
                             "label at all; raise the rate or give more images.")
    return noisy_labels(labels, y, np.arange(len(y)))


def ptnl_sample(y: Any, shots: int | None, rate: float | None, n_classes: int | None = None, seed: int = 1) -> NoisyLabels:
    """`shots` images a class out of a full training split, int [N], as the released code of paper B picks them.

    The first half of each class, in the order of the split, may only give right labels, the second half only wrong ones.
    Class by class, F = round(rate shots) images are drawn with replacement from the second halves of all OTHER classes,
    less those that earlier classes took, and shots - F from its own first half: without replacement if that has `shots`
    images, else with. Repeated images count once, so fewer than shots * C rows remain, and where classes are small the
    true rate differs from the one asked for. Rows come in the order of the split.

    Raises ClipnotesError for a class without images and for other classes that have run out of wrong images.
    """
    RATE(rate, "rate"), Whole(1)(shots, "shots"), SEED(seed, "seed")
    y, n_classes = checked_labels(y, n_classes)
    rows_of, n_wrong = dict(class_rows(y, n_classes)), round(rate * shots)
    empty = [c for c, rows in rows_of.items() if not len(rows)]
    if empty:
        raise ClipnotesError(f"Class {empty[0]} has no image to draw from; give the full training split.")
    rng, given, taken = np.random.default_rng(seed), {}, np.zeros(len(y), bool)
    second_half = np.concatenate([rows[(len(rows) + 1) // 2:] for rows in rows_of.values()])
    for c, rows in rows_of.items():
        pool = second_half[(y[second_half] != c) & ~taken[second_half]]
        if n_wrong and not len(pool):
            raise ClipnotesError(f"No wrong images are left for class {c}: the second halves of the other classes hold "
                                 "too few; lower the rate or shots, or give the full training split.")
        wrong = rng.choice(pool, n_wrong) if n_wrong else []
        first_half = rows[:(len(rows) + 1) // 2]
        right = rng.choice(first_half, shots, replace=len(first_half) < shots)[n_wrong:]
        taken[wrong] = True
        given |= dict.fromkeys([*wrong, *right], c)
    indices = np.sort(np.fromiter(given, np.int64))
    return noisy_labels(np.array([given[i] for i in indices]), y[indices], indices)


def favourite_wrong_class(logits: Any, y: np.ndarray, n_classes: int) -> np.ndarray:
    """The class other than y with the largest of the logits [N, C] of each row: int64 [N]."""
    logits = checked_logits(logits, y, n_classes)
    logits[np.arange(len(y)), y] = -np.inf
    return logits.argmax(1)


def annotator_labels(y: np.ndarray, rate: float, logits: np.ndarray, seed: int = 1) -> NoisyLabels:
    """Labels of somebody who sees as another model does: round(rate N) of all N images get a wrong one.

    p [N, C]: softmax of the model's logits. Which images: a weighted draw without replacement, weights 1 - p_y, so that
    ambiguous pictures are mislabelled first and classes differ in their noise. To which class: drawn from p among the wrong
    ones. At one seed the flips at a lower rate are among those at a higher one.
    """
    rng = np.random.default_rng(seed)
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    log_p[np.arange(len(y)), y] = -np.inf
    doubt = np.log(np.exp(log_p).sum(1) + 1e-30)  # log (1 - p_y)
    first = np.argsort(-(doubt + rng.gumbel(size=len(y))), kind="stable")  # the largest of Gumbel sums: a weighted draw
    wrong = (log_p + rng.gumbel(size=log_p.shape)).argmax(1)
    labels = y.copy()
    labels[first[:round(rate * len(y))]] = wrong[first[:round(rate * len(y))]]
    return noisy_labels(labels, y, np.arange(len(y)))


def checked_logits(logits: Any, y: np.ndarray, n_classes: int, kind: str = "confusion") -> np.ndarray:
    """float64 [N, C], a copy; ClipnotesError where they are missing, of another shape, or not finite."""
    if logits is None:
        raise ClipnotesError(f'Noise kind "{kind}" needs zero-shot logits [N, C] of the same images; give logits=.')
    logits = feature_matrix(logits, "logits", views=False).double().cpu().numpy().copy()
    if logits.shape != (len(y), n_classes):
        raise ClipnotesError(f"Logits have shape {list(logits.shape)}, but {len(y)} labels of {n_classes} classes need "
                             f"[{len(y)}, {n_classes}].")
    return logits


# --- human labels -------------------------------------------------------------------------------------------------


def human_labels(y: np.ndarray, n_classes: int, rate: float | None, path: str | Path | None, key: str | None,
                 rows: Any = None) -> NoisyLabels:
    """The labels of a file, or of some `rows` of it, as `NoisyLabels` of the true labels y.

    A file that also holds the true labels (CIFAR-10N's entry "clean_label") must agree with y: if not, it is of another order.
    """
    if path is None:
        raise ClipnotesError('Noise kind "human" needs the file with the given labels; give path=.')
    if rate is not None:
        raise ClipnotesError(f'Noise kind "human" has the noise rate of its file, but rate = {rate} was given; leave it out.')
    content = read_content(path)
    labels = pick(content, path, key)
    true = pick(content, path, "clean_label") if isinstance(content, dict) and "clean_label" in content else None
    if rows is not None:
        rows = np.asarray(rows)
        if outside := [row for row in rows.tolist() if not 0 <= row < len(labels)]:
            raise ClipnotesError(f"{path} holds {len(labels)} labels, but row {outside[0]} was asked for; give rows= of the "
                                 "data set that the file belongs to.")
        labels, true = labels[rows], None if true is None else true[rows]
    if labels.shape != y.shape:
        raise ClipnotesError(f"{path} holds labels of shape {list(labels.shape)} for {len(y)} images; "
                             "give one label an image, in the order of the training split, or rows= of the file.")
    if true is not None and (true != y).any():
        raise ClipnotesError(f"{path} was made for other images: its true labels differ from those of {(true != y).sum()} of "
                             f"the {len(y)} images; give the training images in the published order, or rows=.")
    return noisy_labels(checked_labels(labels, n_classes, Path(path).name)[0], y, np.arange(len(y)))


def read_labels(path: str | Path, key: str | None = None) -> np.ndarray:
    """Labels from a .npy, .npz, .txt (one a line), .csv or .pt file: an int64 array.

    key: the array of a .npz, the column of a .csv or the entry of a dict in a .pt (such as "aggre_label" of CIFAR-10N);
    not needed where there is only one. Nothing but tensors and plain numpy arrays is ever unpickled.
    """
    return pick(read_content(path), path, key)


def read_content(path: str | Path) -> Any:
    """What a label file holds: an array, or a dict of arrays."""
    path = Path(path)
    if path.suffix not in READERS:
        raise ClipnotesError(f"Label file {path.name} is of no known type; give one of {', '.join(READERS)}.")
    if not path.is_file():
        raise ClipnotesError(f"Label file {path} does not exist; check the path.")
    try:
        return READERS[path.suffix](path)
    except Exception as error:  # each library raises its own for damaged and foreign files
        kind = kind_of(path)  # the libraries' own words may advise to read it in an unsafe way
        raise ClipnotesError(f"Label file {path} cannot be read as {path.suffix}{f', it is {kind}' if kind else ''}; it must "
                             "hold whole numbers and nothing pickled but tensors and plain arrays.") from error


def pick(content: Any, path: str | Path, key: str | None = None) -> np.ndarray:
    """The labels, int64, under a key of the content of a label file."""
    if isinstance(content, dict):
        if key is None and len(content) == 1:
            key = next(iter(content))
        if key not in content:
            raise ClipnotesError(f"Label file {Path(path).name} has no entry {key!r}; give key= one of "
                                 f"{', '.join(map(str, content))}.")
        content = content[key]
    return class_labels(content, Path(path).name).numpy()


def read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def read_columns(path: Path) -> dict[str, np.ndarray]:
    return {column: values.to_numpy() for column, values in read_csv(path).items()}


def read_torch(path: Path) -> Any:
    """The content of a torch file: tensors, or numpy arrays as in CIFAR-10N's, with all else refused."""
    dtypes = [type(np.dtype(code)) for code in np.typecodes["AllInteger"]]
    with torch.serialization.safe_globals([*ARRAY_GLOBALS, np.ndarray, np.dtype, *dtypes]):
        return torch.load(path, map_location="cpu", weights_only=True)


# What pickled arrays call, under the names that older and newer versions of numpy write.
_reconstruct = np.empty(0).__reduce__()[0]
ARRAY_GLOBALS = [(_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]

READERS = {".npy": lambda path: np.load(path, allow_pickle=False), ".npz": read_npz, ".csv": read_columns, ".pt": read_torch,
           ".txt": lambda path: np.loadtxt(path, dtype=np.int64, ndmin=1, encoding="utf-8-sig")}


# --- checks -------------------------------------------------------------------------------------------------------


def noisy_labels(labels: np.ndarray, true_labels: np.ndarray, indices: np.ndarray) -> NoisyLabels:
    return NoisyLabels(*map(torch.from_numpy, (labels, labels != true_labels, indices)))


def class_rows(y: np.ndarray, n_classes: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (class, its rows in order)."""
    for c in range(n_classes):
        yield c, np.flatnonzero(y == c)


def checked_labels(y: Any, n_classes: int | None, name: str = "y") -> tuple[np.ndarray, int]:
    """(int64 array [N], number of classes); ClipnotesError for labels that are none or out of range, or too few classes."""
    y = class_labels(y, name, n_classes=n_classes).cpu().numpy()
    return y, Whole(2)(int(y.max()) + 1 if n_classes is None else n_classes, "n_classes")  # a wrong label needs another class

"""Supervised training of the adapters inside the image encoder (arXiv 2409.11338; recipe of the authors' code)."""
from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from clipnotes.backbone.adapters import attach
from clipnotes.backbone.clip import ImageReader
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write


@dataclass(frozen=True)
class Recipe:
    """The authors' settings: AdamW with a constant rate and torch's other defaults, one epoch, no augmentation.

    normalise: whether pixels get CLIP's mean and standard deviation, as they do wherever features are used. The
    authors' training leaves this out (`normalise=False` repeats it): their adapters learn on pixels from 0 to 1.
    seed: of the head's start, the order of images and the dropout; that of the adapters' start is theirs.
    """
    epochs: int = 1
    lr: float = 8e-3
    weight_decay: float = 0.01
    batch_size: int = 128
    normalise: bool = True
    seed: int = 0


def train_supervised(clip, images, labels, adapters=None, checkpoint=None, save_every=50, workers=0, progress=True, **options):
    """Train adapters to tell generic classes apart; returns the `AdaptedClip` of the trained adapters.

    A linear head on the raw corrected features [N, d] is trained along with softmax cross entropy and thrown away. Only
    adapters and head learn; the encoder stays frozen, its batch norms in evaluation mode.
    images: of any kind that `Clip.encode_images` takes. labels: int [N], from 0. adapters: `Adapters` to start from,
    trained in place; default: new ones of width 64 and scale 0.03. options: fields of `Recipe`. Each epoch leaves out
    the last incomplete batch, as the authors do, unless there is no other.
    checkpoint: file that keeps the state every `save_every` steps; a killed run goes on from it to the same weights.
    The result's `trained` has the recipe, which `save` keeps, its `losses` one number a step.

    Raises ClipnotesError for labels that do not fit, bad options, a checkpoint of another training, and divergence.
    """
    from tqdm.auto import tqdm

    recipe, labels = make_recipe(options), checked_labels(labels, len(images))
    adapted = attach(clip, adapters)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        head = nn.Linear(clip.dim, int(labels.max()) + 1).to(clip.device)
        learning = [*adapted.adapters.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(learning, lr=recipe.lr, weight_decay=recipe.weight_decay)
        batches = batch_order(recipe, len(labels))
        identity = {"recipe": asdict(recipe), "adapters": adapted.adapters.recipe, "start": adapted.fingerprint,
                    "labels": hashlib.sha256(labels.numpy().tobytes()).hexdigest()}
        parts = {"adapters": adapted.adapters, "head": head, "optimizer": optimizer}
        losses = resume(checkpoint, identity, parts)

        data = LabelledImages(ImageReader(images, training_preprocess(clip, recipe.normalise)), labels)
        loader = torch.utils.data.DataLoader(data, batch_sampler=batches[len(losses):], num_workers=workers)
        bar = tqdm(total=len(batches), initial=len(losses), desc=f"training adapters of {clip.name}", disable=not progress)
        adapted.adapters.train()
        for batch, target in loader:
            torch.manual_seed(recipe.seed + 1 + len(losses))  # dropout is a function of (seed, step): resumed runs agree
            loss = F.cross_entropy(head(adapted.forward(batch)), target.to(clip.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if not loss.isfinite():
                raise ClipnotesError(f"the loss became {losses[-1]} at step {len(losses)} with lr = {recipe.lr}; lower it")
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if checkpoint and (len(losses) % save_every == 0 or len(losses) == len(batches)):
                keep(checkpoint, identity, parts, losses)
        bar.close()
    adapted.adapters.eval()
    adapted.losses = losses
    adapted.trained = {"method": "supervised", **asdict(recipe), "images": len(labels), "classes": head.out_features}
    return adapted


class LabelledImages(torch.utils.data.Dataset):
    def __init__(self, reader, labels):
        self.reader, self.labels = reader, labels

    def __getitem__(self, index):
        return self.reader[index], self.labels[index]


def make_recipe(options):
    known = Recipe.__dataclass_fields__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ClipnotesError(f"unknown option {unknown[0]!r} of the training; choose from {', '.join(known)}")
    recipe = Recipe(**options)
    for name, least in (("epochs", 1), ("batch_size", 1), ("lr", 0), ("weight_decay", 0)):
        if getattr(recipe, name) < least:
            raise ClipnotesError(f"{name} = {getattr(recipe, name)} is out of range; give {least} or more")
    return recipe


def checked_labels(labels, n_images):
    labels = torch.as_tensor(labels)
    if labels.shape != (n_images,) or not n_images:
        raise ClipnotesError(f"labels have shape {list(labels.shape)} for {n_images} images; give one label an image")
    if labels.is_floating_point() or labels.min() < 0:
        raise ClipnotesError(f"labels of type {labels.dtype} from {labels.min().item()} do not fit; give whole numbers from 0")
    return labels.long().cpu()


def batch_order(recipe, n):
    """The rows of every step of the training, as lists of ints."""
    generator, size = torch.Generator().manual_seed(recipe.seed), min(recipe.batch_size, n)
    orders = [torch.randperm(n, generator=generator)[:n - n % size] for _ in range(recipe.epochs)]
    return [rows.tolist() for order in orders for rows in order.split(size)]


def training_preprocess(clip, normalise):
    """The CLIP's preprocessing, without its last step, the normalisation of pixels, where asked."""
    from torchvision.transforms import Compose, Normalize

    if normalise:
        return clip.preprocess
    steps = getattr(clip.preprocess, "transforms", [None])
    if not isinstance(steps[-1], Normalize):
        raise ClipnotesError(f"normalise=False cannot be had: the preprocessing of {clip.name} does not end in Normalize; "
                             "leave it True")
    return Compose(steps[:-1])


# --- the state of a training on disk ------------------------------------------------------------------------------


def keep(path, identity, parts, losses):
    state = {name: part.state_dict() for name, part in parts.items()}
    with atomic_write(path, "wb") as file:
        torch.save({"identity": identity, "losses": losses, **state}, file)


def resume(path, identity, parts):
    """The losses of the steps that are done, with the state after them put into `parts`; [] where no file is."""
    if not path or not Path(path).is_file():
        return []
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        saved = state["identity"]
    except Exception as error:  # torch and pickle raise their own for damaged files
        raise ClipnotesError(f"checkpoint {path} cannot be read; delete it to start afresh") from error
    if saved != identity:
        differ = ", ".join(name for name in identity if saved.get(name) != identity[name])
        raise ClipnotesError(f"checkpoint {path} belongs to another training (other {differ}); "
                             "delete it, or give another file, to start afresh")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["losses"]

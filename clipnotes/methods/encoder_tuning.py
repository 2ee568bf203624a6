"""Fine-tuning whole encoders: the text tower of a CLIP (TEnc-FT), and an image classifier without a text tower.

Both are what paper B sets prompt tuning against (Table 1 and Fig. 1); all train as `sgd` says.
"""
from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn

from clipnotes.backbone.clip import POCKET, Clip, load_clip
from clipnotes.backbone.pictures import ImageReader
from clipnotes.backbone.prompt_encoding import prompt_encoder
from clipnotes.backbone.text import check_cut_texts, fill
from clipnotes.backbone.text_towers import token_ids
from clipnotes.checks import TEXT, Instance, OneOf, Whole, class_labels, class_names
from clipnotes.device import choose_device
from clipnotes.errors import ClipnotesError
from clipnotes.file_kinds import why_unreadable
from clipnotes.methods.base import Classifier
from clipnotes.methods.inputs import unit_features, unit_views
from clipnotes.methods.losses import RULES, loss_function
from clipnotes.methods.sgd import PAPER, TRAINING, SGDConfig, train


class TextEncoderTuning(Classifier):
    """TEnc-FT: one fixed phrase a class, the whole text tower trained, cached features as the image side (paper B, Table 1).

    logits = logit_scale x t', t the unit features of the phrases under the tower as trained so far; all its parameters
    learn, token embeddings and projection included. A copy is trained: `clip` stays as it was. loss: "ce", "gce" or
    "mae", with q for "gce". seed: of the order of the images. After `fit`: tower_, losses_ (the mean of each epoch).
    """

    rules = RULES | TRAINING | {"classnames": class_names, "template": TEXT}

    def __init__(self, clip: Clip, classnames: Sequence[str], template: str = "a photo of a {}.", loss: str = "ce",
                 q: float = 0.7, sgd: SGDConfig = PAPER, seed: int = 1) -> None:
        self.clip, self.classnames, self.template, self.loss, self.q, self.sgd, self.seed = (
            clip, classnames, template, loss, q, sgd, seed)

    def fit(self, x: Any, y: Any, callback: Callable | None = None, progress: bool = True) -> Self:
        """Train on features [N, d], or on views [V, N, d] of which a row shows one an epoch, with labels [N].

        callback(epoch, self), if given, is called after every epoch (from 1). Raises ClipnotesError for shapes, labels
        and values that do not fit, and where the loss diverges.
        """
        self.check_settings()
        texts = [fill([self.template], name)[0] for name in class_names(self.classnames)]
        check_cut_texts(self.clip, texts)
        sequences = token_ids(self.clip, texts)
        x = unit_views(x, "x", self.clip.dim).to(self.clip.device, torch.float32)
        y = class_labels(y, "y", x.shape[1], len(sequences)).to(self.clip.device)
        self.tower_, loss = text_copy(self.clip.model), loss_function(self.loss, self.q)
        self.encoder_ = prompt_encoder(self.clip, sequences, self.tower_)
        self.losses_ = train(self.sgd, self.seed, self.tower_.parameters(),
                             lambda views, rows: loss(self(x[views, rows]), y[rows]), len(y), len(x),
                             callback and (lambda epoch: callback(epoch, self)), "tuning the text tower", progress)
        return self

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [b, C] of unit features [b, d] on the CLIP's device, with gradients for `tower_`."""
        return self.clip.logit_scale * x @ self.unit_texts().T

    def unit_texts(self) -> torch.Tensor:
        return F.normalize(self.fitted("encoder_")()[0], dim=-1)

    @torch.no_grad()
    def text_features(self) -> torch.Tensor:
        """Unit text features [C, d] as trained so far."""
        return self.unit_texts().cpu()

    def logits(self, x: Any) -> torch.Tensor:
        """[N, C] from features [N, d], which need not be unit."""
        text = self.text_features()
        return self.clip.logit_scale * unit_features(x, "x", self.clip.dim).float() @ text.T


def text_copy(model: nn.Module) -> nn.Module:
    """A trainable copy of an open_clip model of which only the text side is left."""
    twin = copy.deepcopy(model, {id(model.visual): nn.Identity()})
    for name in ("text_decoder", "logit_scale", "logit_bias"):
        if hasattr(twin, name):
            setattr(twin, name, None)
    return twin.requires_grad_()


class ImageEncoderFineTuning(Classifier):
    """Fine-tune all of an image classifier: "ImageNet fine-tuning" of paper B, Fig. 1. There is no text side.

    network: a module from pixels to logits whose last layer, `head` or `fc`, is an nn.Linear; preprocess: PIL image ->
    tensor. Both as `starting_network` returns them. A copy is trained, its batch norms in
    training mode as in the released code. head: "new" (random), or "kept" (class k is output k, as in that code).
    train_transform: PIL image -> tensor, drawn anew every epoch, instead of `preprocess` in training.
    device: see `choose_device`. loss, q, sgd: as in `TextEncoderTuning`. seed: of the new head, the order of the images and the
    training transform. After `fit`: network_, n_classes_, device_, losses_.
    """

    rules = RULES | TRAINING | {"network": Instance(nn.Module, what="torch module"), "head": OneOf("new", "kept")}

    def __init__(self, network: nn.Module, preprocess: Callable, head: str = "new", train_transform: Callable | None = None,
                 loss: str = "ce", q: float = 0.7, sgd: SGDConfig = PAPER, seed: int = 1, device: str = "auto") -> None:
        self.network, self.preprocess, self.head, self.train_transform = network, preprocess, head, train_transform
        self.loss, self.q, self.sgd, self.seed, self.device = loss, q, sgd, seed, device

    def fit(self, images: Any, y: Any, n_classes: int | None = None, callback: Callable | None = None,
            progress: bool = True) -> Self:
        """Train on images, of any kind that `Clip.encode_images` takes, with labels [N].

        callback(epoch, self), if given, is called after every epoch (from 1). Raises ClipnotesError for images that
        cannot be read, labels that do not fit, a network without a head, and where the loss diverges.
        """
        self.check_settings()
        self.device_ = choose_device(self.device)
        Whole(1, optional=True)(n_classes, "n_classes")
        y = class_labels(y, "y", len(images), n_classes, of="images").to(self.device_)
        self.n_classes_, loss = n_classes or 1 + int(y.max()), loss_function(self.loss, self.q)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.network_ = self.start().to(self.device_, memory_format=torch.channels_last)
            if self.train_transform:
                batch = ImageReader(images, self.train_transform)
            else:
                batch = pixels(ImageReader(images, self.preprocess), range(len(images)))
            self.losses_ = train(self.sgd, self.seed, self.network_.parameters(),
                                 lambda _, rows: loss(self(pixels(batch, rows.tolist())), y[rows]), len(y), 1,
                                 callback and (lambda epoch: callback(epoch, self)), "fine-tuning the image encoder", progress)
        return self

    def start(self) -> nn.Module:
        """A trainable copy of the network with the head that was asked for."""
        network = copy.deepcopy(self.network).requires_grad_()
        name = next((name for name in ("head", "fc") if isinstance(getattr(network, name, None), nn.Linear)), None)
        if name is None:
            raise ClipnotesError(f"{type(network).__name__} has no linear layer called head or fc; give a network with one.")
        head = getattr(network, name)
        if self.head == "new":
            setattr(network, name, nn.Linear(head.in_features, self.n_classes_))
        elif head.out_features < self.n_classes_:
            raise ClipnotesError(f'head="kept" has {head.out_features} outputs for {self.n_classes_} classes; use head="new".')
        return network

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits [b, C] of pixels [b, 3, s, s], with gradients for `network_` and batch norms in training mode."""
        network = self.fitted("network_").train()
        return network(batch.to(self.device_, memory_format=torch.channels_last))

    @torch.no_grad()
    def logits(self, images: Any, batch_size: int = 64) -> torch.Tensor:
        """[N, C] of images, batch norms in evaluation mode; a kept head's further outputs are left out."""
        network, reader = self.fitted("network_").eval(), ImageReader(images, self.preprocess)
        batches = torch.arange(len(images)).split(batch_size)
        logits = [network(pixels(reader, rows.tolist()).to(self.device_)).cpu() for rows in batches]
        return torch.cat(logits)[:, :self.n_classes_]


def pixels(source: ImageReader | torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """The images of these rows of an `ImageReader` or a tensor as one tensor [b, 3, s, s]."""
    images = source.__getitems__(list(rows)) if isinstance(source, ImageReader) else [source[i] for i in rows]
    return torch.stack(images).contiguous(memory_format=torch.channels_last)


# --- networks to start from ---------------------------------------------------------------------------------------


class ImageClassifier(nn.Module):
    """An image tower [b, 3, s, s] -> [b, d] with a linear head: logits [b, C]."""

    def __init__(self, visual: nn.Module, dim: int, n_classes: int) -> None:
        super().__init__()
        self.visual, self.head = visual, nn.Linear(dim, n_classes)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.head(self.visual(batch))


def image_tower(clip: Clip) -> tuple[nn.Module, Callable]:
    """(network, preprocess): a CLIP's own image tower, to be fine-tuned with a new head; its text side is left behind.

    A layer norm before the head evens out the length of raw features, which the paper's learning rate is not made for.
    """
    visual = nn.Sequential(copy.deepcopy(clip.model.visual), nn.LayerNorm(clip.dim, elementwise_affine=False))
    return ImageClassifier(visual, clip.dim, 1).eval(), clip.preprocess


def starting_network(name: str, path: str | Path | None = None) -> tuple[nn.Module, Callable]:
    """(network, preprocess) that image fine-tuning beside the CLIP `name` starts from.

    `imagenet_resnet50(path)`, as in paper B; beside a pocket model an image tower of its own architecture that was trained
    on labels of the pocket world, without any text (see `pocket.pretrain`).
    """
    if name in POCKET:
        return image_tower(load_clip(name, "classifier", device="cpu"))
    return imagenet_resnet50(path)


def imagenet_resnet50(path: str | Path | None = None) -> tuple[nn.Module, Callable]:
    """(network, preprocess): torchvision's ResNet-50 with its first ImageNet weights, as in paper B's code.

    path: the weights' file; by default where torchvision keeps it. Nothing is downloaded. Raises ClipnotesError where
    the file is missing or holds something else.
    """
    from torchvision.models import ResNet50_Weights, resnet50

    weights = ResNet50_Weights.IMAGENET1K_V1
    path = Path(path or Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name)
    if not path.is_file():
        raise ClipnotesError(f"The ImageNet weights of ResNet-50 are not at {path}; get them from {weights.url} and put "
                             "them there, or give their path.")
    network = resnet50()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch and pickle raise their own for damaged and foreign files
        raise ClipnotesError(f"{path} does not hold weights of ResNet-50 ({why_unreadable(path, error)}); get "
                             f"{weights.url}.") from error
    return network, weights.transforms()

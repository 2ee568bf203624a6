"""The two pocket backbones: small open_clip CLIPs, their tokenizer, and where their weights lie.

Both use plain GELU, an embedding of 128 dimensions and the same causal text transformer (3 layers, width 128,
context length 40). `pocket-vit` is open_clip's VisionTransformer on 40-pixel images, whose patch embedding is replaced
by three stride-2 convolutions (25 tokens); `pocket-rn` is open_clip's ModifiedResNet, CLIP's own RN50 design with one
block a stage, on images resized to 64 pixels.
"""
from __future__ import annotations

import gzip
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from clipnotes.errors import ClipnotesError
from clipnotes.file_kinds import why_unreadable

WEIGHTS = Path(__file__).parent / "weights"
MERGES = WEIGHTS / "merges.txt.gz"
CONTEXT_LENGTH = 40
MEAN, STD = (0.5, 0.5, 0.5), (0.27, 0.27, 0.27)

TEXT = {"context_length": CONTEXT_LENGTH, "width": 128, "heads": 4, "layers": 3}
VISION = {
    "pocket-vit": {"image_size": 40, "patch_size": 8, "width": 128, "layers": 6, "head_width": 32},
    "pocket-rn": {"image_size": 64, "layers": (1, 1, 1, 1), "width": 24},
}
EMBED_DIM = 128
VARIANTS = ("classifier", "tidy")  # weights beside the usual ones, NAME-VARIANT.safetensors


def conv_stem(width):
    """Three stride-2 convolutions in place of the 8 x 8 patch embedding: [N, 3, 40, 40] -> [N, width, 5, 5]."""
    return nn.Sequential(
        nn.Conv2d(3, width // 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width // 4), nn.GELU(),
        nn.Conv2d(width // 4, width // 2, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width // 2), nn.GELU(),
        nn.Conv2d(width // 2, width, 3, stride=2, padding=1))


def build(name):
    """An untrained pocket backbone (`open_clip.CLIP`), initialised from torch's global seed."""
    from open_clip import CLIP

    model = CLIP(EMBED_DIM, dict(VISION[name]), {**TEXT, "vocab_size": tokenizer().vocab_size})
    if name == "pocket-vit":
        model.visual.conv1 = conv_stem(VISION[name]["width"])
    return model


def tokenizer():
    """open_clip's `SimpleTokenizer` with CLIP's merges cut to those that the world's words use.

    It splits these words as CLIP's own does; any other text still tokenises, byte by byte where need be.
    """
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(MERGES), context_length=CONTEXT_LENGTH)


def tokenize_captions(texts, tokenizer):
    """Token ids [N, 40] of captions; of a text that is too long the end is kept, where CLIP's own call keeps the start.

    A caption stands after the foreign words of its page, so its end is what belongs to the picture.
    """
    rows = torch.zeros(len(texts), CONTEXT_LENGTH, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        ids = [tokenizer.sot_token_id, *tokenizer.encode(text)[-(CONTEXT_LENGTH - 2):], tokenizer.eot_token_id]
        row[:len(ids)] = torch.tensor(ids)
    return rows


def merges_of(word, ranks):
    """The byte-pair merges that spell `word`, lowest rank first, as byte-pair encoding applies them."""
    parts, used = [*word[:-1], word[-1] + "</w>"], []
    while len(parts) > 1:
        pair = min(zip(parts, parts[1:], strict=False), key=lambda p: ranks.get(p, float("inf")))
        if pair not in ranks:
            break
        used.append(pair)
        merged, i = [], 0
        while i < len(parts):
            both = tuple(parts[i:i + 2]) == pair
            merged.append("".join(pair) if both else parts[i])
            i += 2 if both else 1
        parts = merged
    return used


def write_merges(path=MERGES):
    """Cut CLIP's merge list to the world's words and write it where `tokenizer` finds it (2 KB)."""
    import regex
    from open_clip.tokenizer import SimpleTokenizer

    from clipnotes.pocket.captions import words

    full = SimpleTokenizer()
    found = {word for text in words() for word in regex.findall(r"[a-z]+|[^\sa-z]+", text.lower().replace("{}", ""))}
    used = {pair for word in found for pair in merges_of(word, full.bpe_ranks)}
    lines = ["#version: CLIP's merges, cut to the pocket world"]
    lines += [" ".join(pair) for pair in sorted(used, key=full.bpe_ranks.get)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def preprocess_cfg(name):
    """open_clip's preprocessing settings of a pocket backbone."""
    return {"size": VISION[name]["image_size"], "mean": MEAN, "std": STD, "interpolation": "bicubic",
            "resize_mode": "shortest"}


def prepare(pixels, name):
    """Model input from world pixels: uint8 [N, 40, 40, 3] -> [N, 3, s, s].

    The same as open_clip's preprocessing picture by picture; where pictures are resized (pocket-rn), a few values in
    100,000 differ by one or two of 256 grey levels, since torch and Pillow round differently.
    """
    from torchvision.transforms.v2.functional import normalize, resize

    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    size = VISION[name]["image_size"]
    if size != pixels.shape[1]:
        images = resize(images, [size, size], interpolation=3, antialias=True)  # 3 = bicubic
    return normalize(images.float() / 255, MEAN, STD)


def load(name, pretrained=None):
    """(model, preprocess, tokenizer) of a pocket backbone; `pretrained`: path of other weights than the shipped ones.

    "random" gives seeded weights, "classifier" an image tower that was trained on labels, beside a text tower of such;
    "tidy" is pocket-vit after the same pre-training without foreign words in its captions (notebook 14).
    Raises ClipnotesError where the file is missing or holds another architecture.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from safetensors.torch import load_file

    preprocess = image_transform_v2(PreprocessCfg(**preprocess_cfg(name)), is_train=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(name)
    if pretrained != "random":
        shipped = f"{name}-{pretrained}" if pretrained in VARIANTS else name
        path = WEIGHTS / f"{shipped}.safetensors" if pretrained in (None, *VARIANTS) else Path(pretrained)
        if not path.is_file():
            raise ClipnotesError(f"The weights of {name} are missing at {path}; reinstall clipnotes, which "
                                 f"brings them, or make them with `clipnotes pocket pretrain {name}` and give their path.")
        part, prefix = (model.visual, "visual.") if pretrained == "classifier" else (model, "")
        try:
            part.load_state_dict({k.removeprefix(prefix): v.float() if v.is_floating_point() else v
                                  for k, v in load_file(path).items()})
        except (RuntimeError, SafetensorError) as error:
            raise ClipnotesError(f"{path} does not hold weights of {name} ({why_unreadable(path, error)}); "
                                 "name the backbone that it belongs to.") from error
    return model, preprocess, tokenizer()

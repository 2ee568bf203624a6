"""The text side of open_clip models: which transformers prompts can be learnt with, and how their tokenizers frame a text."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from clipnotes.errors import ClipnotesError


def text_tower(model: nn.Module) -> nn.Module:
    """The module that holds an open_clip model's own text transformer, whatever its attention and pooling.

    Raises ClipnotesError for towers of other libraries (Hugging Face's), whose embeddings lie elsewhere.
    """
    tower = getattr(model, "text", model)
    if hasattr(tower, "text") or not hasattr(getattr(tower, "transformer", None), "resblocks"):
        raise ClipnotesError(f"Prompts cannot be learnt with this model: its text tower is a {type(tower).__name__}, not "
                             "open_clip's transformer; use a model that has one, such as RN50, ViT-B-32 or ViT-B-16-SigLIP.")
    return tower


def causal_text_tower(model: nn.Module) -> nn.Module:
    """The module of an open_clip model that holds its text transformer, if prompts can be encoded as a tree.

    Raises ClipnotesError with the reason where not (see `why_no_tree`).
    """
    tower = text_tower(model)
    if reason := why_no_tree(tower):
        raise ClipnotesError(f"The prompts of this model cannot share the states of common tokens: {reason}; use a CLIP whose "
                             "causal text transformer pools at the end-of-text token, such as RN50 or ViT-B-32.")
    return tower


def why_no_tree(tower: nn.Module) -> str | None:
    """Why prompts cannot be encoded as a tree, in words, or None: attention that is not causal, another pooling than at
    the end-of-text token (SigLIP, CoCa), blocks that are not the common ones."""
    odd = {type(block).__name__ for block in tower.transformer.resblocks
           if not isinstance(block.attn, nn.MultiheadAttention) or hasattr(block, "ln_1_kv")}
    if odd:
        return f"its text tower has blocks of type {', '.join(sorted(odd))}"
    if getattr(tower, "cls_emb", None) is not None:
        return "it pools text at a class token"
    if pooling(tower) not in ("argmax", "eos"):
        return f"it pools text by {pooling(tower)!r}"
    mask = tower.attn_mask
    if mask is None or not torch.equal(mask, torch.full_like(mask, float("-inf")).triu(1)):
        return "its text attention is not causal"
    return None


def pooling(tower: nn.Module) -> str | None:
    return getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)


# --- tokens -------------------------------------------------------------------------------------------------------


def token_ids(clip: Any, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of every text, as lists of ints without the padding: CLIP's from start-of-text to end-of-text.

    Texts longer than the model's context are cut as the tokenizer does.
    """
    tower, tokens = text_tower(clip.model), clip.tokenizer(list(texts))
    if pooling(tower) == "eos":
        ends = (tokens == getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))).int().argmax(1)
    elif pooling(tower) == "argmax":
        ends = tokens.argmax(1)
    else:
        ends = (tokens != padding(clip)).cumsum(1).argmax(1)  # of the last token that is no padding
    return [row[:end + 1].tolist() for row, end in zip(tokens, ends, strict=True)]


def frame(clip: Any) -> tuple[int, int]:
    """How many tokens the tokenizer puts before and after every text: (1, 1) for CLIP's, (0, 1) for SigLIP's."""
    one, other = token_ids(clip, ["a", "b"])
    before = next(i for i in range(len(one)) if one[i] != other[i])
    return before, next(i for i in range(len(one)) if one[-1 - i] != other[-1 - i])


def word_ids(clip: Any, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of every text as lists of ints, without those of its frame."""
    before, after = frame(clip)
    return [ids[before:len(ids) - after] for ids in token_ids(clip, texts)]


def padding(clip: Any) -> int:
    """The id of the padding; ClipnotesError for a tokenizer that puts a token behind it."""
    row = clip.tokenizer(["a"])[0]
    if row[-1] != row[-2]:
        raise ClipnotesError(f"Prompts cannot be learnt with {clip.name}: its tokenizer puts a token behind the padding; use "
                             "a model that pads to the end, such as ViT-B-32 or ViT-B-16-SigLIP.")
    return int(row[-1])

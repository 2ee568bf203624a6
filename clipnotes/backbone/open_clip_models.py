"""Models of open_clip with weights from a tag, a file or nowhere: activation, preprocessing and tokenizer that fit them."""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from clipnotes.backbone.weight_files import check_tensors_alone, is_script_archive, read_script_archive
from clipnotes.errors import ClipnotesError, first_line
from clipnotes.file_kinds import why_unreadable

POCKET = ("pocket-vit", "pocket-rn")
Parts = tuple[torch.nn.Module, Callable, Callable]  # model, preprocess, tokenizer


def load_open_clip(name: str, pretrained: str) -> Parts:
    """(model, preprocess, tokenizer) of an open_clip architecture with the given weights."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    check_architecture(name)
    if pretrained == "random":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained_text=False, **pixels(name))
        return model, preprocess, tokenizer_of(name)

    plain = name.removesuffix("-quickgelu")
    tag = get_pretrained_cfg(name, pretrained) or get_pretrained_cfg(plain, pretrained)
    if tag:
        quick_gelu = bool(tag.get("quick_gelu"))
        if plain != name and not quick_gelu:
            raise ClipnotesError(f"{name} uses QuickGELU, but the weights {pretrained!r} were trained with GELU; "
                                 f"load {plain!r} instead.")
        name = name if get_pretrained_cfg(name, pretrained) else plain
    elif os.path.isfile(pretrained):
        quick_gelu = name.endswith("-quickgelu") or is_script_archive(pretrained) or "openai" in Path(pretrained).name
    else:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ClipnotesError(f"pretrained={pretrained!r} is neither a file nor a tag of {name}; its tags: {tags}.")
    if not tag and is_script_archive(pretrained):
        return load_openai_archive(name, pretrained)
    try:
        if not tag:
            check_tensors_alone(pretrained)
        model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained, force_quick_gelu=quick_gelu,
                                                                     **({} if tag else pixels(name)))
    except Exception as error:  # open_clip, torch, safetensors and the hub all raise their own
        raise ClipnotesError(weights_problem(name, pretrained, tag, error)) from error
    return model, preprocess, tokenizer_of(name)


def check_architecture(name: str) -> None:
    """ClipnotesError for a name that open_clip does not know, and for a text side that needs what is not installed."""
    import open_clip

    if name not in open_clip.list_models():
        raise ClipnotesError(f"Unknown model {name!r}; choose {', '.join(POCKET)} or one of open_clip's: "
                             f"{', '.join(close_names(name, open_clip.list_models()))} ...")
    text = open_clip.get_model_config(name)["text_cfg"]
    if (text.get("hf_model_name") or text.get("hf_tokenizer_name")) and not find_spec("transformers"):
        raise ClipnotesError(f"The text side of {name} needs Hugging Face's transformers, which is not installed; run "
                             "`pip install transformers sentencepiece`, or take a model without it, such as ViT-B-16.")


def pixels(name: str) -> dict[str, Any]:
    """The preprocessing of all released weights of an architecture, as open_clip's keywords; nothing of what they differ in.

    A file does not say how its images were normalised, and SigLIP's are normalised in another way than CLIP's.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    released = [get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    return {f"image_{field}": released[0][field] for field in ("mean", "std", "interpolation", "resize_mode")
            if released and all(cfg.get(field) == released[0].get(field) is not None for cfg in released)}


def tokenizer_of(name: str) -> Callable:
    """open_clip's tokenizer of an architecture; ClipnotesError where it needs what is not here and cannot be downloaded."""
    import open_clip

    try:
        return open_clip.get_tokenizer(name)
    except Exception as error:  # Hugging Face's libraries raise their own
        raise ClipnotesError(f"The tokenizer of {name} cannot be had ({first_line(error)}); it comes from Hugging Face: load "
                             "the model once where there is a network.") from error


def weights_problem(name: str, pretrained: str, tag: dict | None, error: BaseException) -> str:
    """One sentence on why weights did not load and what to do."""
    if not tag:
        return (f"{pretrained} does not hold weights of {name} ({why_unreadable(pretrained, error)}); "
                "name the architecture that the file belongs to, or get the file again.")
    reason = first_line(error)
    source = tag.get("url") or f"https://huggingface.co/{tag.get('hf_hub', '').strip('/')}"
    fits = f"{name.removesuffix('-quickgelu')}-quickgelu" if tag.get("quick_gelu") else name  # a file cannot say so
    return (f"The weights {pretrained!r} of {name} are not on this machine and could not be downloaded ({reason}); "
            f"get them from {source} where there is a network and load {fits!r} with the file's path as pretrained=.")


def load_openai_archive(name: str, path: str) -> Parts:
    """OpenAI's TorchScript file into open_clip's architecture, with QuickGELU; nothing that the file holds is run."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(name, force_quick_gelu=True, pretrained_text=False)
    try:
        state = read_script_archive(path)
        for key in ("input_resolution", "context_length", "vocab_size"):
            state.pop(key, None)
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise ClipnotesError(weights_problem(name, path, None, error)) from error
    return model, preprocess, tokenizer_of(name)


def close_names(name: str, names: Sequence[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, names, n=5, cutoff=0.3) or list(names)[:5]

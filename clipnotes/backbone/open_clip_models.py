"""Models of open_clip with weights from a tag, a file or nowhere: activation, preprocessing and tokenizer that fit them."""
from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from clipnotes.backbone.weight_files import is_script_archive, read_weights
from clipnotes.errors import ClipnotesError, first_line
from clipnotes.file_kinds import why_unreadable

POCKET = ("pocket-vit", "pocket-rn")
Weights = dict[str, torch.Tensor]
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
        return load_file(name, pretrained)
    else:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ClipnotesError(f"pretrained={pretrained!r} is neither a file nor a tag of {name}; its tags: {tags}.")
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained, force_quick_gelu=quick_gelu)
    except Exception as error:  # open_clip, torch, safetensors and the hub all raise their own
        raise ClipnotesError(not_downloaded(name, pretrained, tag, error)) from error
    return model, preprocess, tokenizer_of(name)


def load_file(name: str, path: str) -> Parts:
    """The same with the weights of a file, each of which must have its place and shape in the architecture."""
    import open_clip

    archive, twin = is_script_archive(path), f"{name}-quickgelu"
    quick_gelu = True if archive else needs_quick_gelu(name, path)
    model, _, preprocess = open_clip.create_model_and_transforms(name, force_quick_gelu=bool(quick_gelu), pretrained_text=False,
                                                                 **({} if archive else pixels(name)))
    try:
        if path.endswith(".npz") and not archive:
            open_clip.load_checkpoint(model, path)  # big_vision's arrays, which only open_clip can name
        else:
            fill(model, read_weights(path), name)
    except Exception as error:  # open_clip, torch and safetensors all raise their own
        raise ClipnotesError(f"{path} does not hold weights of {name} ({why_unreadable(path, error)}); name the architecture "
                             "that the file belongs to, or get the file again.") from error
    if quick_gelu is None and twin in open_clip.list_models():
        warnings.warn(f"{path} does not say whether its weights need GELU, which is taken, or QuickGELU, as OpenAI's do; for "
                      f"QuickGELU load {twin!r}, and name the file after its tag, such as laion2b_s34b_b79k, to be sure.",
                      stacklevel=1)  # one place, so that it is shown once
    return model, preprocess, tokenizer_of(name)


def needs_quick_gelu(name: str, path: str) -> bool | None:
    """Whether the weights of a file need QuickGELU, None where nothing tells: weights do not, but the architecture's name may,
    and a tag in the file's."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    if name.endswith("-quickgelu"):
        return True
    tags = {tag: get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)}
    quick = {"openai": True} | {tag: bool(cfg.get("quick_gelu")) for tag, cfg in tags.items()}
    file = Path(path).name.lower().replace("-", "_")
    return quick.get(max((tag for tag in quick if tag in file), key=len, default=""))


def fill(model: torch.nn.Module, state: Weights, name: str) -> None:
    """Put weights into a model; ValueError where one is missing, of another shape or in no place: open_clip itself would
    stretch positions to another number without a word."""
    state, wanted = converted(model, state), model.state_dict()
    missing, more = [each for each in wanted if each not in state], [each for each in state if each not in wanted]
    if foreign := [each for each in more if each.startswith(("vision_model.", "text_model."))]:
        raise ValueError(f"its weights have Hugging Face's names, such as {foreign[0]}, not open_clip's; get open_clip's form "
                         "of the model")
    if missing:
        rest = f", and has others, such as {more[0]}" if more else ""
        raise ValueError(f"it lacks {len(missing)} of {len(wanted)} weights, such as {missing[0]}{rest}")
    if more:
        raise ValueError(f"it has {len(more)} weights that {name} has not, such as {more[0]}")
    for each, tensor in wanted.items():
        if state[each].shape != tensor.shape:
            raise ValueError(f"its {each} has shape {list(state[each].shape)}, but that of {name} has {list(tensor.shape)}")
    model.load_state_dict(state)


def converted(model: torch.nn.Module, state: Weights) -> Weights:
    """Weights that were written by other code or an older version, in the form of the model, as `open_clip.load_checkpoint`
    makes them."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    wanted = model.state_dict()
    for scalar in ("logit_scale", "logit_bias"):  # of shape [] or [1]
        if scalar in wanted and scalar in state:
            state[scalar] = state[scalar].reshape(wanted[scalar].shape)
    if "logit_bias" in wanted:
        state.setdefault("logit_bias", torch.zeros_like(wanted["logit_bias"]))  # the same for all classes
    state.pop("text.transformer.embeddings.position_ids", None)  # of older versions of transformers
    return state


def check_architecture(name: str) -> None:
    """ClipnotesError for a name that open_clip does not know, and for a text side that needs what is not installed."""
    import open_clip

    if name.startswith(("hf-hub:", "local-dir:")):
        raise ClipnotesError(f"Model {name!r} is a place, not an architecture; {from_hub(name)}.")
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


def from_hub(place: str) -> str:
    """What to load in place of "hf-hub:owner/name": the architecture and tag of the same weights where open_clip has them."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    repository = place.partition(":")[2].strip("/")
    same = [(name, tag) for name, tag in open_clip.list_pretrained()
            if (get_pretrained_cfg(name, tag).get("hf_hub") or "").strip("/") == repository]
    if same:
        return "load {!r} with pretrained={!r}, which are the same weights".format(*same[0])
    return "load the architecture that its open_clip_config.json describes, with the path of its weights as pretrained="


def not_downloaded(name: str, pretrained: str, tag: dict, error: BaseException) -> str:
    """One sentence on why the weights of a tag are not here and what to do."""
    source = tag.get("url") or f"https://huggingface.co/{tag.get('hf_hub', '').strip('/')}"
    fits = f"{name.removesuffix('-quickgelu')}-quickgelu" if tag.get("quick_gelu") else name  # a file cannot say so
    return (f"The weights {pretrained!r} of {name} are not on this machine and could not be downloaded ({first_line(error)}); "
            f"get them from {source} where there is a network and load {fits!r} with the file's path as pretrained=.")


def close_names(name: str, names: Sequence[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, names, n=5, cutoff=0.3) or list(names)[:5]

"""How the prompts of all classes are made up of fixed tokens and learnt rows."""
from __future__ import annotations

from collections.abc import Sequence

import torch

from clipnotes.backbone.clip import Clip
from clipnotes.backbone.prompt_encoding import prompt_encoder
from clipnotes.backbone.text_towers import frame, text_tower, token_ids, word_ids
from clipnotes.errors import ClipnotesError

COOP_START = 0.02  # standard deviation of the untrained context in CoOp's code
PHRASE = "a photo of a"  # the words that the context takes the place of


class PromptLayout:
    """Prompts [SOS, context, name, ".", EOT] of C classes; which of their embeddings are learnt. See `PromptTuning`.

    Learnt rows [R, w] are the context's (if it is learnt), class by class where classes have their own, then the names'.
    n_context: tokens of context; sequences: the tokens and rows of every prompt, for `prompt_encoder`; encoder: theirs.
    """

    def __init__(self, clip: Clip, classnames: Sequence[str], n_context: int = 16, context: str = "shared",
                 position: str = "end", init: str | None = None, learn: str = "context", recompute: bool = False) -> None:
        self.clip, self.classnames, self.tower = clip, classnames, text_tower(clip.model)
        self.learns_context, self.learns_names = learn != "classnames", learn != "context"
        phrase = init or (None if self.learns_context else PHRASE)
        self.phrase_ids = word_ids(clip, [phrase])[0] if phrase else None
        self.n_context = len(self.phrase_ids) if phrase else n_context
        self.n_contexts = len(classnames) if context == "class" else 1
        before = {"end": self.n_context, "middle": self.n_context // 2, "front": 0}[position]
        self.name_ids, self.sequences = self.tokens(before)
        self.encoder = prompt_encoder(clip, self.sequences, recompute=recompute)

    def tokens(self, before: int) -> tuple[list[list[int]], tuple]:
        """(token ids of the names, sequences), `before` tokens of the context standing before the name."""
        names = [name.replace("_", " ") for name in self.classnames]
        bare, (head, _) = word_ids(self.clip, names), frame(self.clip)
        full = token_ids(self.clip, [f"{name}." for name in names])  # ids of the name and what follows it
        n, vocabulary = self.n_context, len(self.tower.token_embedding.weight)
        next_row = vocabulary + (n * self.n_contexts if self.learns_context else 0)
        name_ids, sequences = [], []
        for i, (name, ids) in enumerate(zip(bare, full, strict=True)):
            start, words, rest = ids[:head], ids[head:head + len(name)], ids[head + len(name):]
            self.check_length(names[i], len(ids) + n)
            name_ids.append(words)
            if self.learns_names:
                words = list(range(next_row, next_row + len(words)))
                next_row += len(words)
            first = vocabulary + n * (i if self.n_contexts > 1 else 0)
            context = list(range(first, first + n)) if self.learns_context else self.phrase_ids
            sequences.append([*start, *context[:before], *words, *context[before:], *rest])
        return name_ids, tuple(map(tuple, sequences))

    def check_length(self, name: str, length: int) -> None:
        most = self.tower.context_length
        if length > most:
            raise ClipnotesError(f"The prompt of class {name!r} with n_context = {self.n_context} has {length} tokens, but "
                                 f"{self.clip.name} takes at most {most}; lower n_context to {self.n_context - length + most}.")

    def start_std(self) -> float:
        """Standard deviation of an untrained context as large as the words it takes the place of: the root mean square of
        the token embeddings of "a photo of a", but no less than CoOp's 0.02, about the size of those of OpenAI's models.
        """
        words = self.tower.token_embedding.weight.detach()[word_ids(self.clip, [PHRASE])[0]]
        return max(COOP_START, words.float().square().mean().sqrt().item())

    def untrained(self, random: torch.Generator, std: float | None = None) -> torch.Tensor:
        """Learnt rows [R, w] as training finds them: the context from N(0, std^2) or a phrase, the names as they are.

        std: `start_std()` unless given.
        """
        embedding, parts = self.tower.token_embedding.weight.detach(), []
        if self.learns_context and self.phrase_ids is not None:
            parts.append(embedding[self.phrase_ids].repeat(self.n_contexts, 1))
        elif self.learns_context:
            std = self.start_std() if std is None else std
            parts.append(std * torch.randn(self.n_contexts * self.n_context, embedding.shape[1], generator=random))
        if self.learns_names:
            parts.append(embedding[[token for ids in self.name_ids for token in ids]])
        return torch.cat([part.to(embedding.device) for part in parts])

    def context(self, learnt: torch.Tensor) -> torch.Tensor:
        """The context among learnt rows, [contexts, n, w]; the fixed phrase where it is not learnt."""
        if not self.learns_context:
            return self.tower.token_embedding.weight.detach()[self.phrase_ids].cpu()[None]
        return learnt[:self.n_context * self.n_contexts].cpu().reshape(self.n_contexts, self.n_context, learnt.shape[1])

    def names(self, learnt: torch.Tensor) -> list[torch.Tensor]:
        """Embeddings of the tokens of every class name: C tensors [tokens, w]."""
        lengths = [len(ids) for ids in self.name_ids]
        if self.learns_names:
            return list(learnt[len(learnt) - sum(lengths):].cpu().split(lengths))
        return [self.tower.token_embedding.weight.detach()[ids].cpu() for ids in self.name_ids]

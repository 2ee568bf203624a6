"""Text features of prompts with learnt embeddings by a text tower's own code: slower than a tree, and for any attention."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from clipnotes.backbone.text_towers import padding, text_tower, word_ids

PROMPTS_AT_ONCE = 64  # bounds the memory with `recompute`


class PlainEncoder:
    """Encodes C fixed sequences of tokens, some of whose embeddings are learnt, whole and padded by the model's own code.

    Arguments and calls as those of `TreeEncoder`, but for `clip`, whose tokenizer pads. A step costs C x L tokens for
    context length L, whatever the prompts share.
    """

    def __init__(self, clip: Any, sequences: Sequence[Sequence[int]], model: torch.nn.Module, recompute: bool = False) -> None:
        self.model, self.recompute = model, recompute
        self.embedding = text_tower(model).token_embedding
        length, pad, device = text_tower(model).context_length, padding(clip), self.embedding.weight.device
        ids = torch.tensor([[*sequence, *[pad] * (length - len(sequence))] for sequence in sequences])  # [C, L]
        learnt = ids >= len(self.embedding.weight)
        self.rows = torch.where(learnt, ids - len(self.embedding.weight), -1).to(device)
        # Where embeddings are learnt any word will do: towers look at ids for padding and for the end of the text.
        self.tokens = ids.masked_fill(learnt, word_ids(clip, ["a"])[0][0]).to(device)

    @property
    def n_tokens(self) -> int:
        """Tokens that run through the transformer: C x L."""
        return self.tokens.numel()

    def __call__(self, learnt=None):
        """Raw (not unit) text features [B, C, d] of B sets of learnt embeddings [B, R, w]; without any, B = 1."""
        again = self.recompute and torch.is_grad_enabled()
        return torch.stack([
            torch.cat([checkpoint(self.encode, *part, one, use_reentrant=False) if again else self.encode(*part, one)
                       for part in zip(self.tokens.split(PROMPTS_AT_ONCE), self.rows.split(PROMPTS_AT_ONCE), strict=True)])
            for one in ([None] if learnt is None else learnt)])

    def encode(self, tokens: torch.Tensor, rows: torch.Tensor, learnt: torch.Tensor | None) -> torch.Tensor:
        def put_learnt(module, args, embedded):  # [c, L, w]
            return embedded.index_put((rows >= 0).nonzero(as_tuple=True), learnt[rows[rows >= 0]])

        if learnt is None:
            return self.model.encode_text(tokens, normalize=False)
        handle = self.embedding.register_forward_hook(put_learnt)
        try:
            return self.model.encode_text(tokens, normalize=False)
        finally:
            handle.remove()

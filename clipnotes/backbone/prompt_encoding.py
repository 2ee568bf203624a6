"""Text features of many prompts at once, exactly, without computing any shared token twice.

CLIP's text transformer is causal: the hidden state of a token depends on the tokens before it alone. Prompts that begin
alike therefore share the states of their common beginning, and nothing after the end-of-text token matters. So the C
prompts are laid out as a TREE in which tokens with the same history are one node, and the T nodes run through the
transformer as one sequence whose attention mask lets every node see its ancestors. With M shared context tokens and
names of a few tokens, T is about 1 + M + 5 C in place of the 77 C tokens of plain encoding.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from clipnotes.errors import ClipnotesError


class PromptEncoder:
    """Encodes C fixed sequences of tokens, some of whose embeddings are learnt.

    model: an `open_clip` model; its weights are used where they lie, so gradients reach those that want them.
    sequences: C lists of ints, from start-of-text to end-of-text: ids below vocabulary size V are tokens, V + r is row r
    of the learnt embeddings. max_tokens: nodes of one tree; many classes are split into several trees, since attention
    within a tree grows with its square. recompute: keep no states for the backward pass but compute them again there,
    tree by tree: a third slower, and memory no longer grows with the number of classes.

    Raises ClipnotesError for a text tower that this does not hold for (see `text_tower`).
    """

    def __init__(self, model, sequences, max_tokens=512, recompute=False):
        self.tower, self.recompute = text_tower(model), recompute
        embedding = self.tower.token_embedding.weight
        self.trees = [Tree(part, len(embedding), embedding.device) for part in split(sequences, max_tokens)]

    def __call__(self, learnt=None):
        """Raw (not unit) text features [B, C, d] of B sets of learnt embeddings [B, R, w]; without any, B = 1."""
        if self.recompute and torch.is_grad_enabled():
            parts = [checkpoint(self.encode, tree, learnt, use_reentrant=False) for tree in self.trees]
        else:
            parts = [self.encode(tree, learnt) for tree in self.trees]
        return torch.cat(parts, dim=1)

    def encode(self, tree, learnt):
        tower = self.tower
        x = tower.token_embedding(tree.ids)[None]  # [1, T, w]
        if learnt is not None:
            x = x.expand(len(learnt), -1, -1).index_copy(1, tree.learnt_nodes, learnt[:, tree.learnt_rows])  # [B, T, w]
        x = x + tower.positional_embedding[tree.positions]
        *blocks, last = tower.transformer.resblocks
        for block in blocks:
            x = run_block(block, x, tree.visible)
        x = run_block(last, x, tree.visible, tree.ends)  # [B, C, w]: of the last layer only the ends are ever read
        x, projection = tower.ln_final(x), tower.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection


class Tree:
    """Sequences with their common beginnings merged.

    ids [T]: token of every node (0 where learnt); positions [T]: its place in the sequence; ends [C]: the last node of
    every sequence; visible [T, T]: whether a node (row) sees another, i.e. itself and its ancestors; learnt_rows and
    learnt_nodes: which embeddings go where.
    """

    def __init__(self, sequences, vocabulary, device="cpu"):
        nodes, ends = {}, []  # (parent, token): node; parents come before their children
        for sequence in sequences:
            node = -1
            for token in sequence:
                node = nodes.setdefault((node, token), len(nodes))
            ends.append(node)
        visible = torch.eye(len(nodes), dtype=torch.bool)
        for node, (parent, _) in enumerate(nodes):
            if parent >= 0:
                visible[node] |= visible[parent]
        tokens = torch.tensor([token for _, token in nodes])
        learnt = tokens >= vocabulary
        self.ids = tokens.masked_fill(learnt, 0).to(device)
        self.positions = (visible.sum(1) - 1).to(device)
        self.ends, self.visible = torch.tensor(ends, device=device), visible.to(device)
        self.learnt_nodes = learnt.nonzero()[:, 0].to(device)
        self.learnt_rows = (tokens[learnt] - vocabulary).to(device)


def split(sequences, max_tokens):
    """Consecutive sequences in parts whose trees have about max_tokens nodes at most, but one sequence at least."""
    parts, seen = [], set()
    for sequence in sequences:
        beginnings = {tuple(sequence[:i + 1]) for i in range(len(sequence))}
        if not parts or len(seen | beginnings) > max_tokens:
            parts.append([])
            seen = set()
        parts[-1].append(sequence)
        seen |= beginnings
    return parts


def run_block(block, x, visible, nodes=slice(None)):
    """A residual attention block on nodes x [B, T, w] that see one another by `visible` [T, T]; states of `nodes` only."""
    attention, width = block.attn, x.shape[-1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    normed = block.ln_1(x)
    query = F.linear(normed[:, nodes], weight[:width], bias[:width])
    key, value = F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
    query, key, value = (t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, visible[nodes])  # [B, heads, nodes, w / heads]
    x = x[:, nodes] + block.ls_1(attention.out_proj(mixed.transpose(1, 2).flatten(2)))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def text_tower(model):
    """The module of an open_clip model that holds its text transformer, if prompts can be encoded as a tree.

    Raises ClipnotesError with the reason where not: attention that is not causal, another pooling than at the
    end-of-text token (SigLIP, CoCa), transformers that are not open_clip's own.
    """
    tower = getattr(model, "text", model)
    if hasattr(tower, "text") or not hasattr(getattr(tower, "transformer", None), "resblocks"):
        raise refused(f"its text tower is a {type(tower).__name__}, not open_clip's transformer")
    odd = {type(block).__name__ for block in tower.transformer.resblocks
           if not isinstance(block.attn, nn.MultiheadAttention) or hasattr(block, "ln_1_kv")}
    if odd:
        raise refused(f"its text tower has blocks of type {', '.join(sorted(odd))}")
    if getattr(tower, "cls_emb", None) is not None:
        raise refused("it pools text at a class token")
    if pooling(tower) not in ("argmax", "eos"):
        raise refused(f"it pools text by {pooling(tower)!r}")
    mask = tower.attn_mask
    if mask is None or not torch.equal(mask, torch.full_like(mask, float("-inf")).triu(1)):
        raise refused("its text attention is not causal")
    return tower


def pooling(tower):
    return getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)


def refused(reason):
    return ClipnotesError(f"prompts cannot be learnt with this model: {reason}; use a CLIP whose causal text transformer "
                          "pools at the end-of-text token, such as RN50 or ViT-B-32")


def token_ids(clip, texts):
    """The tokens of every text, from start-of-text to the end-of-text token whose state is pooled: lists of ints.

    Texts longer than the model's context are cut as CLIP's tokenizer does.
    """
    tower, tokens = text_tower(clip.model), clip.tokenizer(list(texts))
    if pooling(tower) == "eos":
        ends = (tokens == getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))).int().argmax(1)
    else:
        ends = tokens.argmax(1)
    return [row[:end + 1].tolist() for row, end in zip(tokens, ends, strict=True)]

"""Text features of many prompts at once, exactly, and where the text tower allows it without computing any token twice.

CLIP's text transformer is causal: the hidden state of a token depends on the tokens before it alone. Prompts that begin
alike therefore share the states of their common beginning, and nothing after the end-of-text token matters. So the C
prompts are laid out as a TREE in which tokens with the same history are one node, and the T nodes run through the
transformer as one sequence whose attention mask lets every node see its ancestors. With M shared context tokens and
names of a few tokens, T is about 1 + M + 5 C in place of the 77 C tokens of plain encoding.

Where tokens see those after them, or something else than the end-of-text token is pooled (SigLIP, CoCa), nothing is shared
and every prompt runs whole.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from clipnotes.backbone.plain_prompts import PlainEncoder
from clipnotes.backbone.text_towers import causal_text_tower, text_tower, why_no_tree

GROUP = 32  # nodes that share their keys in attention: the quickest of 16, 32, 64 and 128 for RN50 with 100 classes (336 nodes)
SMALL = 128  # nodes up to which a single group is quicker


def prompt_encoder(clip: Any, sequences: Sequence[Sequence[int]], model: nn.Module | None = None,
                   recompute: bool = False) -> TreeEncoder | PlainEncoder:
    """The encoder of a CLIP's prompts: a `TreeEncoder` where its text tower allows it, else a `PlainEncoder`.

    sequences, recompute: see `TreeEncoder`. model: a model of the CLIP's form to encode with instead of its own.
    Raises ClipnotesError where neither is possible (see `text_tower`).
    """
    model = model or clip.model
    if why_no_tree(text_tower(model)):
        return PlainEncoder(clip, sequences, model, recompute)
    return TreeEncoder(model, sequences, recompute=recompute)


class TreeEncoder:
    """Encodes C fixed sequences of tokens, some of whose embeddings are learnt.

    model: an `open_clip` model; its weights are used where they lie, so gradients reach those that want them.
    sequences: C lists of ints, from start-of-text to end-of-text: ids below vocabulary size V are tokens, V + r is row r
    of the learnt embeddings. max_tokens: nodes of one tree; many classes are split into several trees, since attention
    within a tree grows with its square. recompute: keep no states for the backward pass but compute them again there,
    tree by tree: a third slower, and memory no longer grows with the number of classes.

    Raises ClipnotesError for a text tower that this does not hold for (see `causal_text_tower`).
    """

    def __init__(self, model: nn.Module, sequences: Sequence[Sequence[int]], max_tokens: int = 512,
                 recompute: bool = False) -> None:
        self.tower, self.recompute = causal_text_tower(model), recompute
        embedding = self.tower.token_embedding.weight
        self.trees = [Tree(part, len(embedding), embedding.device) for part in split(sequences, max_tokens)]

    @property
    def n_tokens(self) -> int:
        """Tokens that run through the transformer: the nodes of all trees."""
        return sum(len(tree.ids) for tree in self.trees)

    def __call__(self, learnt=None):
        """Raw (not unit) text features [B, C, d] of B sets of learnt embeddings [B, R, w]; without any, B = 1."""
        if self.recompute and torch.is_grad_enabled():
            parts = [checkpoint(self.encode, tree, learnt, use_reentrant=False) for tree in self.trees]
        else:
            parts = [self.encode(tree, learnt) for tree in self.trees]
        return torch.cat(parts, dim=1)

    def encode(self, tree: Tree, learnt: torch.Tensor | None) -> torch.Tensor:
        tower = self.tower
        x = tower.token_embedding(tree.ids)[None]  # [1, T, w]
        if learnt is not None:
            x = x.expand(len(learnt), -1, -1).index_copy(1, tree.learnt_nodes, learnt[:, tree.learnt_rows])  # [B, T, w]
        x = x + tower.positional_embedding[tree.positions]
        *blocks, last = tower.transformer.resblocks
        for block in blocks:
            x = run_block(block, x, tree.all)
        x = run_block(last, x, tree.ends)  # [B, C, w]: of the last layer only the ends are ever read
        x, projection = tower.ln_final(x), tower.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection


class Tree:
    """Sequences with their common beginnings merged.

    ids [T]: token of every node (0 where learnt); positions [T]: its place in the sequence; all, ends: what every node
    sees, and the last node of every sequence, as `Queries`; learnt_rows and learnt_nodes: which embeddings go where.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], vocabulary: int, device: Any = "cpu") -> None:
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
        self.all, self.ends = Queries(torch.arange(len(nodes)), visible, device), Queries(torch.tensor(ends), visible, device)
        self.learnt_nodes = learnt.nonzero()[:, 0].to(device)
        self.learnt_rows = (tokens[learnt] - vocabulary).to(device)


class Queries:
    """Nodes [Q] whose states are wanted, in G groups of n neighbours, with the k nodes that any of a group sees.

    A class sees the common beginning and its own few tokens, so k is far below T, and attention costs Q k in place of Q T.
    nodes [Q]; rows [G, n]: positions in `nodes`, the last repeated to fill up; keys [G, k]: nodes; each None where it would
    be all in their order. visible [G, n, k]: whether a node sees a key, i.e. whether that is itself or an ancestor.
    """

    def __init__(self, nodes: torch.Tensor, visible: torch.Tensor, device: Any = "cpu") -> None:
        all_nodes = torch.arange(len(visible))
        self.nodes = None if torch.equal(nodes, all_nodes) else nodes.to(device)
        self.rows = self.keys = None
        self.visible = visible[nodes][None].to(device)
        if len(visible) <= SMALL:
            return
        rows = torch.arange(len(nodes) + -len(nodes) % GROUP).clamp(max=len(nodes) - 1).view(-1, GROUP)
        visible = visible[nodes[rows]]  # [G, n, T]
        seen = visible.any(1)
        keys = seen.int().argsort(dim=1, descending=True, stable=True)[:, :seen.sum(1).max()]
        self.rows, self.keys = rows.to(device), keys.to(device)
        self.visible = visible.gather(2, keys[:, None].expand(-1, GROUP, -1)).to(device)


def split(sequences: Sequence[Sequence[int]], max_tokens: int) -> list[list]:
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


def run_block(block: nn.Module, x: torch.Tensor, queries: Queries) -> torch.Tensor:
    """A residual attention block on nodes x [B, T, w]: the states [B, Q, w] of the nodes of `queries`."""
    attention, width = block.attn, x.shape[-1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    normed, x = block.ln_1(x), take(x, queries.nodes)
    query = take(F.linear(take(normed, queries.nodes), weight[:width], bias[:width]), queries.rows)  # [B, (G,) n, w]
    both = take(F.linear(normed, weight[width:], bias[width:]), queries.keys)  # [B, (G,) k, 2 w]
    query, key, value = (t.reshape(-1, *t.shape[-2:]).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
                         for t in (query, *both.chunk(2, dim=-1)))  # [B G, heads, n or k, w / heads]
    visible = queries.visible[:, None]
    if len(visible) > 1:
        visible = visible.repeat(len(x), 1, 1, 1)
    mixed = F.scaled_dot_product_attention(query, key, value, visible).transpose(1, 2)  # [B G, n, heads, w / heads]
    x = x + block.ls_1(attention.out_proj(mixed.reshape(len(x), -1, width)[:, :x.shape[1]]))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def take(x: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    """x[:, index] of x [B, T, w]; for None x itself, whose gradient need not be gathered."""
    return x if index is None else x[:, index]

"""Prompt tuning (CoOp): learn the context words of class prompts, both encoders frozen (paper B, section 3 and eq. 2)."""
from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F

from clipnotes.backbone.learnt_files import LearntFiles
from clipnotes.backbone.prompt_encoding import prompt_encoder
from clipnotes.backbone.text_towers import frame, text_transformer, token_ids, word_ids
from clipnotes.errors import ClipnotesError
from clipnotes.methods.inputs import not_negative, unit_features
from clipnotes.methods.losses import loss_function
from clipnotes.methods.prompts_training import fit_many, training_data
from clipnotes.methods.sgd import generator

FILES = LearntFiles("prompts", "clipnotes-prompts-1", "PromptTuning.save")
CHOICES = {"context": ("shared", "class"), "position": ("end", "middle", "front"),
           "learn": ("context", "classnames", "both"), "compat": (None, "reference")}


@dataclass(eq=False)
class PromptTuning:
    """Class prompts [SOS, context, name, ".", EOT] whose context vectors are learnt in the space of token embeddings.

        logits = logit_scale x T',   T: unit text features [C, d] of the prompts

    n_context: vectors of context, drawn from N(0, 0.02^2); 0 is the bare class name, with nothing to train.
    context: "shared" by all classes, or of each "class" its own (CoOp's CSC). init: a phrase that the context starts from
    instead; the number of its tokens becomes n_context. position: of the class name, at the "end" of the context, in the
    "middle" (the longer half comes after it) or at the "front".
    learn: "context" (prompt tuning); "classnames", the embeddings of the names' tokens after a fixed phrase, init or
    "a photo of a" (CLS tuning); "both" (full prompt tuning; paper B, Table 2). The full stop and EOT stay fixed.
    Recipe: that of `sgd.Recipe` on `loss` ("ce", "gce" with q, or "mae"; see `loss_function`), with the batches and
    learning rates of `sgd`; the last epoch's prompts are kept.
    seed: of the start, the order of the images and the choice of views.
    compat="reference": the released code's q = 0.5 in place of the paper's q = 0.7.
    recompute: train in bounded memory however many classes there are, a third slower; see `PromptEncoder`.

    Before `fit` the prompts are untrained. After it: losses_ (mean loss of each epoch) and the learnt embeddings,
    `context_` and `classname_tokens_`.
    Raises ClipnotesError for settings out of range, a class name that leaves no room for the context, and a CLIP whose
    text tower is none of open_clip's own (see `text_transformer`).
    """
    clip: Any
    classnames: list
    n_context: int = 16
    context: str = "shared"
    position: str = "end"
    init: str | None = None
    learn: str = "context"
    loss: str = "ce"
    q: float = 0.7
    lr: float = 0.002
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 32
    epochs: int = 50
    seed: int = 1
    compat: str | None = None
    recompute: bool = False

    def __post_init__(self):
        self.classnames = list(self.classnames)
        self.check_settings()
        if self.compat:
            self.q = 0.5
        self.tower = text_transformer(self.clip.model)
        phrase = self.init or ("a photo of a" if self.learn == "classnames" else None)
        self.phrase_ids = word_ids(self.clip, [phrase])[0] if phrase else None
        self.n_context = len(self.phrase_ids) if phrase else self.n_context
        self.name_ids, self.sequences = self.layout()
        self.encoder = prompt_encoder(self.clip, self.sequences, recompute=self.recompute)
        self.losses_ = []
        self.start()

    def check_settings(self):
        if not self.classnames:
            raise ClipnotesError("0 class names given; prompts need at least one")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ClipnotesError(f"{name} = {getattr(self, name)!r} is unknown; choose "
                                     f"{' or '.join(repr(value) for value in allowed)}")
        for name, least in (("n_context", 0), ("epochs", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < least:
                raise ClipnotesError(f"{name} = {value} is out of range; it must be a whole number from {least}")
        if self.learn == "classnames" and self.context == "class":
            raise ClipnotesError('context = "class" has nothing to learn with learn = "classnames", whose context is a fixed '
                                 'phrase; choose context = "shared" or learn = "both"')
        not_negative(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        loss_function(self.loss, self.q)

    def layout(self):
        """(token ids of the names, sequences of every prompt for `prompt_encoder`).

        Learnt rows are the context's (if it is learnt), class by class where classes have their own, then the names'.
        """
        names = [name.replace("_", " ") for name in self.classnames]
        bare, (head, _) = word_ids(self.clip, names), frame(self.clip)
        full = token_ids(self.clip, [f"{name}." for name in names])  # ids of the name and what follows it
        n, vocabulary = self.n_context, len(self.tower.token_embedding.weight)
        n_contexts = len(names) if self.context == "class" else 1
        next_row = vocabulary + (n * n_contexts if self.learns_context else 0)
        before = {"end": n, "middle": n // 2, "front": 0}[self.position]
        name_ids, sequences = [], []
        for i, (name, ids) in enumerate(zip(bare, full, strict=True)):
            start, words, rest = ids[:head], ids[head:head + len(name)], ids[head + len(name):]
            self.check_length(names[i], len(ids) + n)
            name_ids.append(words)
            if self.learns_names:
                words = list(range(next_row, next_row + len(words)))
                next_row += len(words)
            first = vocabulary + n * (i if self.context == "class" else 0)
            context = list(range(first, first + n)) if self.learns_context else self.phrase_ids
            sequences.append([*start, *context[:before], *words, *context[before:], *rest])
        return name_ids, tuple(map(tuple, sequences))

    def check_length(self, name, length):
        most = self.tower.context_length
        if length > most:
            raise ClipnotesError(f"the prompt of class {name!r} with n_context = {self.n_context} has {length} tokens, but "
                                 f"{self.clip.name} takes at most {most}; lower n_context to {self.n_context - length + most}")

    @property
    def learns_context(self):
        return self.learn != "classnames"

    @property
    def learns_names(self):
        return self.learn != "context"

    def start(self):
        """Put the learnt embeddings `learnt_` [R, w] to their start."""
        random, embedding = generator(self.seed, "start"), self.tower.token_embedding.weight.detach()
        n_contexts, parts = len(self.classnames) if self.context == "class" else 1, []
        if self.learns_context and self.phrase_ids is not None:
            parts.append(embedding[self.phrase_ids].repeat(n_contexts, 1))
        elif self.learns_context:
            parts.append(0.02 * torch.randn(n_contexts * self.n_context, embedding.shape[1], generator=random))
        if self.learns_names:
            parts.append(embedding[[token for ids in self.name_ids for token in ids]])
        self.learnt_ = torch.cat([part.to(embedding.device) for part in parts])

    @property
    def context_(self):
        """Context vectors [n, w], or [C, n, w] where every class has its own."""
        if not self.learns_context:
            return self.tower.token_embedding.weight.detach()[self.phrase_ids].cpu()
        n_classes = len(self.classnames)
        rows = self.learnt_[:self.n_context * (n_classes if self.context == "class" else 1)].cpu()
        return rows.reshape(n_classes, self.n_context, -1) if self.context == "class" else rows

    @property
    def classname_tokens_(self):
        """Embeddings of the tokens of every class name: C tensors [tokens, w]."""
        lengths = [len(ids) for ids in self.name_ids]
        if self.learns_names:
            return list(self.learnt_[len(self.learnt_) - sum(lengths):].cpu().split(lengths))
        return [self.tower.token_embedding.weight.detach()[ids].cpu() for ids in self.name_ids]

    def fit(self, x, y, progress=True, callback=None):
        """Train on image features x [N, d], or V views of each image [V, N, d], of which every epoch draws one an image.

        y: int64 labels [N]. callback(epoch, self) is called after every epoch, from 1 on. A fit that is interrupted leaves
        the prompts of its last whole epoch. Raises ClipnotesError for features or labels that do not fit, and for a loss
        that is no longer finite.
        """
        fit_many([self], [(x, y)], progress, callback)
        return self

    @torch.no_grad()
    def text_features(self):
        """Unit text features of the prompts, float32 [C, d]: a classifier in place of the zero-shot one."""
        return F.normalize(self.encoder(self.learnt_[None])[0], dim=-1).cpu()

    def logits(self, x):
        """[N, C] from features [N, d], which need not be unit; of V views [V, N, d] their mean counts."""
        return self.clip.logit_scale * unit_features(x, "x", self.clip.dim).float() @ self.text_features().T

    def predict(self, x):
        """Most likely class of each row: int64 [N]."""
        return self.logits(x).argmax(1)

    def score(self, x, y):
        """Top-1 accuracy in [0, 1]."""
        return (self.predict(x) == torch.as_tensor(y)).double().mean().item()

    def gradient(self, x, y, loss="ce", q=0.7):
        """Gradient of the mean loss on features x [N, d] with labels y [N] by all learnt embeddings, flat [R w].

        Its norm on wrongly and on rightly labelled images gives the ratio of Fig. 4.
        """
        x, y = training_data(self, x, y)
        learnt = self.learnt_.clone().requires_grad_()
        text = F.normalize(self.encoder(learnt[None])[0], dim=-1)
        logits = self.clip.logit_scale * F.normalize(x.mean(0), dim=-1) @ text.T
        return torch.autograd.grad(loss_function(loss, q)(logits, y), learnt)[0].flatten().cpu()

    def nearest_words(self, k=5):
        """The k words of the vocabulary nearest to every context vector by Euclidean distance, as the CoOp paper lists
        them.

        A DataFrame with columns class (only where classes have their own context), vector, rank (both from 1), word,
        distance.
        """
        import pandas as pd

        embedding = self.tower.token_embedding.weight.detach().cpu()
        context, tokenizer = self.context_, self.clip.tokenizer
        decode = tokenizer.decode if hasattr(tokenizer, "decode") else tokenizer.tokenizer.decode  # Hugging Face's is inside
        distance, token = torch.cdist(context.reshape(-1, context.shape[-1]), embedding).topk(k, largest=False)
        rows = [{"class": self.classnames[i // self.n_context], "vector": i % self.n_context + 1, "rank": rank + 1,
                 "word": decode([token[i, rank].item()]).strip(), "distance": distance[i, rank].item()}
                for i in range(len(token)) for rank in range(k)]
        table = pd.DataFrame(rows, columns=["class", "vector", "rank", "word", "distance"])
        return table if self.context == "class" else table.drop(columns="class")

    def save(self, path):
        """Write the prompts (no weight of CLIP's) with their settings and losses; see `LearntFiles.save`."""
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "clip"}
        FILES.save(path, self.clip, {"learnt": self.learnt_}, settings=settings, losses=self.losses_)

    @classmethod
    def load(cls, path, clip):
        """The saved prompts with the CLIP that they were learnt for; see `LearntFiles.load` for what is refused."""
        def make(tensors, facts):
            model, learnt = cls(clip, **facts["settings"]), tensors["learnt"]
            if learnt.shape != model.learnt_.shape:
                raise ValueError(f"shape {list(learnt.shape)} instead of {list(model.learnt_.shape)}")
            model.learnt_, model.losses_ = learnt.to(model.learnt_), facts["losses"]
            return model

        return FILES.load(path, clip, make)

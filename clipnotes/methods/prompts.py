"""Prompt tuning (CoOp): learn the context words of class prompts, both encoders frozen (paper B, section 3 and eq. 2)."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
import torch.nn.functional as F

from clipnotes.backbone.clip import Clip
from clipnotes.backbone.learnt_files import LearntFiles
from clipnotes.checks import FLAG, Instance, OneOf, Whole, class_names
from clipnotes.errors import ClipnotesError
from clipnotes.methods.base import Classifier
from clipnotes.methods.inputs import unit_features
from clipnotes.methods.losses import RULES, loss_function
from clipnotes.methods.prompt_layout import COOP_START, PromptLayout
from clipnotes.methods.prompts_training import fit_many, training_data
from clipnotes.methods.sgd import PAPER, TRAINING, SGDConfig
from clipnotes.seeding import generator

FILES = LearntFiles("prompts", "clipnotes-prompts-2", "PromptTuning.save")


class PromptTuning(Classifier):
    """Class prompts [SOS, context, name, ".", EOT] whose context vectors are learnt in the space of token embeddings.

        logits = logit_scale x T',   T: unit text features [C, d] of the prompts

    n_context: vectors of context, drawn from a normal distribution of CoOp's 0.02, or of the size of the model's own words
    where these are larger (see `PromptLayout.start_std`); 0 is the bare class name, with nothing to train.
    context: "shared" by all classes, or of each "class" its own (CoOp's CSC). init: a phrase that the context starts from
    instead, as long as its tokens are many, whatever n_context. position: of the class name, at the "end" of the context, in
    the "middle" (the longer half comes after it) or at the "front".
    learn: "context" (prompt tuning); "classnames", the embeddings of the names' tokens after a fixed phrase, init or
    "a photo of a" (CLS tuning); "both" (full prompt tuning; paper B, Table 2). The full stop and EOT stay fixed.
    Trained on `loss` ("ce", "gce" with q, or "mae"; see `loss_function`) as `sgd` says; the last epoch's prompts are kept.
    seed: of the start, the order of the images and the choice of views.
    compat="reference": the released code's q = 0.5 in place of the paper's q = 0.7, and its 0.02 whatever the model.
    recompute: train in bounded memory however many classes there are, a third slower; see `TreeEncoder`.

    After `fit`: losses_ (mean loss of each epoch), the learnt embeddings `context_` and `classname_tokens_`, q_ (the q of
    "gce" that was used) and layout_ (a `PromptLayout`). `start` gives the untrained prompts.
    Raises ClipnotesError, with `fit` and `start`, for settings out of range, a class name that leaves no room for the context,
    and a CLIP whose text tower is none of open_clip's own (see `text_tower`).
    """

    rules = RULES | TRAINING | {
        "n_context": Whole(0), "context": OneOf("shared", "class"), "position": OneOf("end", "middle", "front"),
        "init": Instance(str, type(None), what="phrase"), "learn": OneOf("context", "classnames", "both"),
        "compat": OneOf(None, "reference"), "recompute": FLAG, "classnames": class_names}

    def __init__(self, clip: Clip, classnames: Sequence[str], n_context: int = 16, context: str = "shared",
                 position: str = "end", init: str | None = None, learn: str = "context", loss: str = "ce", q: float = 0.7,
                 sgd: SGDConfig = PAPER, seed: int = 1, compat: str | None = None, recompute: bool = False) -> None:
        self.clip, self.classnames, self.n_context, self.context, self.position = clip, classnames, n_context, context, position
        self.init, self.learn, self.loss, self.q, self.sgd, self.seed = init, learn, loss, q, sgd, seed
        self.compat, self.recompute = compat, recompute

    def check_settings(self) -> None:
        super().check_settings()
        if self.learn == "classnames" and self.context == "class":
            raise ClipnotesError('context = "class" has nothing to learn with learn = "classnames", whose context is a fixed '
                                 'phrase; choose context = "shared" or learn = "both".')

    def start(self) -> Self:
        """Take the prompts as training finds them: a classifier already, and all there is where nothing is to be learnt."""
        self.check_settings()
        self.layout_ = PromptLayout(self.clip, class_names(self.classnames), self.n_context, self.context, self.position,
                                    self.init, self.learn, self.recompute)
        std = COOP_START if self.compat else None
        self.learnt_, self.losses_ = self.layout_.untrained(generator(self.seed, "start"), std), []  # [R, w]
        self.q_ = 0.5 if self.compat else self.q
        return self

    def fit(self, x: Any, y: Any, callback: Callable | None = None, progress: bool = True) -> Self:
        """Train on image features x [N, d], or V views of each image [V, N, d], of which every epoch draws one an image.

        y: int64 labels [N]. callback(epoch, self) is called after every epoch, from 1 on. A fit that is interrupted leaves
        the prompts of its last whole epoch. Raises ClipnotesError for features or labels that do not fit, and for a loss
        that is no longer finite.
        """
        fit_many([self], [(x, y)], callback, progress)
        return self

    @property
    def context_(self) -> torch.Tensor:
        """Context vectors [n, w], or [C, n, w] where every class has its own."""
        context = self.fitted("layout_").context(self.learnt_)
        return context if self.context == "class" else context[0]

    @property
    def classname_tokens_(self) -> list[torch.Tensor]:
        """Embeddings of the tokens of every class name: C tensors [tokens, w]."""
        return self.fitted("layout_").names(self.learnt_)

    @torch.no_grad()
    def text_features(self) -> torch.Tensor:
        """Unit text features of the prompts, float32 [C, d]: a classifier in place of the zero-shot one."""
        return F.normalize(self.fitted("layout_").encoder(self.learnt_[None])[0], dim=-1).cpu()

    def logits(self, x: Any) -> torch.Tensor:
        """[N, C] from features [N, d], which need not be unit; of V views [V, N, d] their mean counts."""
        text = self.text_features()
        return self.clip.logit_scale * unit_features(x, "x", self.clip.dim).float() @ text.T

    def gradient(self, x: Any, y: Any, loss: str = "ce", q: float = 0.7) -> torch.Tensor:
        """Gradient of the mean loss on features x [N, d] with labels y [N] by all learnt embeddings, flat [R w].

        Its norm on wrongly and on rightly labelled images gives the ratio of Fig. 4.
        """
        learnt = self.fitted("learnt_").clone().requires_grad_()
        x, y = training_data(self, x, y)
        text = F.normalize(self.layout_.encoder(learnt[None])[0], dim=-1)
        logits = self.clip.logit_scale * F.normalize(x.mean(0), dim=-1) @ text.T
        return torch.autograd.grad(loss_function(loss, q)(logits, y), learnt)[0].flatten().cpu()

    def nearest_words(self, k: int = 5) -> pd.DataFrame:
        """The k words of the vocabulary nearest to every context vector by Euclidean distance, as the CoOp paper lists
        them.

        A DataFrame with columns class (only where classes have their own context), vector, rank (both from 1), word,
        distance.
        """
        embedding = self.fitted("layout_").tower.token_embedding.weight.detach().cpu()
        context, tokenizer = self.context_, self.clip.tokenizer
        decode = tokenizer.decode if hasattr(tokenizer, "decode") else tokenizer.tokenizer.decode  # Hugging Face's is inside
        n = context.shape[-2]
        distance, token = torch.cdist(context.reshape(-1, context.shape[-1]), embedding).topk(k, largest=False)
        rows = [{"class": self.classnames[i // n], "vector": i % n + 1, "rank": rank + 1,
                 "word": decode([token[i, rank].item()]).strip(), "distance": distance[i, rank].item()}
                for i in range(len(token)) for rank in range(k)]
        table = pd.DataFrame(rows, columns=["class", "vector", "rank", "word", "distance"])
        return table if self.context == "class" else table.drop(columns="class")

    def save(self, path: str | Path) -> None:
        """Write the prompts (no weight of CLIP's) with their settings and losses; see `LearntFiles.save`."""
        settings = {name: value for name, value in self.get_params(deep=False).items() if name != "clip"}
        settings |= {"classnames": class_names(self.classnames), "sgd": asdict(self.sgd)}
        FILES.save(path, self.clip, {"learnt": self.fitted("learnt_")}, settings=settings, losses=self.losses_)

    @classmethod
    def load(cls, path: str | Path, clip: Clip) -> Self:
        """The saved prompts with the CLIP that they were learnt for; see `LearntFiles.load` for what is refused."""
        def make(tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> PromptTuning:
            settings = facts["settings"] | {"sgd": SGDConfig(**facts["settings"]["sgd"])}
            model, learnt = cls(clip, **settings).start(), tensors["learnt"]
            if learnt.shape != model.learnt_.shape:
                raise ValueError(f"shape {list(learnt.shape)} instead of {list(model.learnt_.shape)}")
            model.learnt_, model.losses_ = learnt.to(model.learnt_), facts["losses"]
            return model

        return FILES.load(path, clip, make)

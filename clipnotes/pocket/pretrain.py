"""Pre-training of the pocket backbones from a seed: contrastive on captions, or an image tower alone on labels."""
from __future__ import annotations

import contextlib
import functools
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipnotes.device import choose_device
from clipnotes.errors import ClipnotesError
from clipnotes.files import atomic_write
from clipnotes.pocket import captions, datasets, drawing, world
from clipnotes.pocket.model import EMBED_DIM, VISION, build, load, prepare, tokenize_captions, tokenizer

STEPS = {"captions": 24000, "labels": 2000, "text": 5000}  # by objective; 24,000 steps are 3,072,000 pairs
LABELS = {"shape": len(world.SHAPES), "colour": len(world.COLOURS), "texture": len(world.TEXTURES), "scene": len(world.SCENES)}


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of one pre-training. The rate is constant after a warm-up and falls to 0 over the last quarter.

    So two runs that differ only in `steps` are the same run until the shorter one begins its fall: a longer
    training can go on from `stable.pt`, the state at that point.
    """
    model: str
    steps: int
    seed: int = 0
    batch: int = 128
    lr: float = 1.5e-3
    weight_decay: float = 0.1
    warmup: int = 300
    easy_until: int = 300      # steps before the curriculum starts to harden
    hard_from: int = 2500      # full difficulty from here on
    foreign: float = captions.P_FOREIGN  # share of captions among foreign words; 0 gives tidy captions
    objective: str = "captions"  # or one of the others, see `pretrain`

    def learning_rate(self, step):
        return self.lr * min(1, (step + 1) / self.warmup, (self.steps - step) / (self.steps - self.fall))

    @property
    def fall(self):
        """The step at which the rate begins to fall."""
        return self.steps * 3 // 4

    def difficulty(self, step):
        return float(np.clip((step - self.easy_until) / (self.hard_from - self.easy_until), 0, 1))


def batch_of(config, step, tokenize):
    """Pictures of one step and what they are matched with, a function of (seed, step) alone.

    [B, 3, s, s], and tokens [B, 40], or with objective "labels" the labels of the four factors [B, 4].
    """
    rng = np.random.default_rng([config.seed, step])
    factors = world.sample_pretraining(rng, config.batch, config.difficulty(step))
    images = prepare(drawing.draw(factors), config.model)
    if config.objective != "labels":
        return images, tokenize(captions.write(factors, rng, config.foreign))
    labels = np.stack([getattr(factors, name) for name in LABELS], axis=1)
    labels[factors.size == 0, :3] = -100  # a scene without a shape: torch's sign for no label
    return images, torch.from_numpy(labels)


class Batches(torch.utils.data.Dataset):
    """`batch_of` every step, by its number."""

    def __init__(self, config):
        self.config = config
        self.tokenize = functools.partial(tokenize_captions, tokenizer=tokenizer())

    def __getitem__(self, step):
        return batch_of(self.config, step, self.tokenize)


def batches(config, start, workers):
    """The batches of the steps from `start` on; `workers` processes draw them ahead, where 0 the caller does."""
    return torch.utils.data.DataLoader(Batches(config), batch_size=None, sampler=range(start, config.steps),
                                       num_workers=workers, prefetch_factor=16 if workers else None)


def encode_text(model, tokens):
    """Text features [B, d], in groups of captions of like length, each without the positions behind its longest.

    A causal tower never notices what stands behind the end-of-text token, which has the largest id.
    """
    groups = 4 if tokens.device.type == "cpu" else 1  # a GPU waits for its orders, not for its sums
    ends = tokens.argmax(1)
    order = ends.argsort(stable=True)
    parts = []
    for rows in order.chunk(groups):
        length = int(ends[rows].max()) + 1
        x = model.token_embedding(tokens[rows, :length]) + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        parts.append(x[torch.arange(len(x)), ends[rows]] @ model.text_projection)
    return torch.cat(parts)[order.argsort()]


def contrastive_loss(model, images, tokens):
    """Symmetric cross entropy over the batch's image-text similarities (CLIP, Radford et al. 2021)."""
    image = F.normalize(model.encode_image(images).float(), dim=-1)
    text = F.normalize(encode_text(model, tokens).float(), dim=-1)
    logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def classification_loss(model, images, labels):
    """Sum over the factors of the cross entropy of a linear layer each on the image features."""
    features = model.encode_image(images)
    return sum(F.cross_entropy(head(features).float(), y) for head, y in zip(model.heads, labels.T, strict=True))


def make_optimizer(model, config):
    """AdamW on what is trained; only matrices decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": config.weight_decay},
                              {"params": vectors, "weight_decay": 0.0}], lr=config.lr, betas=(0.9, 0.98),
                             fused=trained[0].is_cuda)


def save_state(path, config, step, model, optimizer, log, seconds):
    with atomic_write(path, "wb") as file:
        torch.save({"recipe": asdict(config), "step": step, "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(), "log": log, "seconds": seconds}, file)


def load_state(path, config):
    """The saved state, or None; an error where it was made by another recipe (`steps` may grow, see `PretrainConfig`)."""
    if not path.exists():
        return None
    state = torch.load(path, weights_only=True)
    saved = PretrainConfig(**state["recipe"])
    same = asdict(saved) | {"steps": config.steps} == asdict(config)
    if not same or (saved.steps != config.steps and state["step"] > min(saved.fall, config.fall)):
        raise ClipnotesError(f"{path} belongs to another recipe ({saved}); "
                             "delete it, or give another folder, to start afresh.")
    return state


def configure(model, steps=None, seed=0, objective="captions", foreign=captions.P_FOREIGN):
    """The `PretrainConfig` of a model and an objective; ClipnotesError for one that does not exist."""
    for name, value, known in (("pocket model", model, VISION), ("objective", objective, STEPS)):
        if value not in known:
            raise ClipnotesError(f"Unknown {name} {value!r}; choose one of {', '.join(known)}.")
    steps = steps or STEPS[objective]
    if objective == "labels":
        return PretrainConfig(model, steps, seed, warmup=100, easy_until=100, hard_from=800, objective=objective)
    return PretrainConfig(model, steps, seed, foreign=foreign, objective=objective)


def untrained(config, device):
    """The network of a training at its start, from the seed; of objective "text" with the shipped image tower, frozen."""
    torch.manual_seed(config.seed)
    net = build(config.model)
    if config.objective == "labels":
        net.heads = torch.nn.ModuleList(torch.nn.Linear(EMBED_DIM, n) for n in LABELS.values())
    if config.objective == "text":
        net.visual.load_state_dict(load(config.model)[0].visual.state_dict())
        net.visual.requires_grad_(False)
    net = net.to(device, memory_format=torch.channels_last).train()
    if config.objective == "text":
        net.visual.eval()
    return net


def pretrain(model, out, steps=None, seed=0, device="auto", resume=True, save_every=200, objective="captions",
             foreign=captions.P_FOREIGN, workers=0):
    """Pre-train a pocket backbone; the state is saved every `save_every` steps and a killed run goes on from there.

    model: "pocket-vit" or "pocket-rn"; out: folder for checkpoint.pt, stable.pt, NAME.safetensors and NAME.json.
    objective: "captions"; "labels" for an image tower that knows no text, as ImageNet networks do: NAME-classifier; or
    "text" for a text tower alone against the image tower that ships (locked-image tuning, Zhai et al. 2022): NAME-text.
    foreign: share of captions that stand among foreign words, 0 for tidy captions: NAME-tidy.
    workers: processes that draw the batches; on a GPU that is what the training waits for.
    On a CPU the batches of a seed are the same everywhere, the weights only on the same machine and torch version.
    Returns the path of the weights. Raises ClipnotesError for an unknown model or a checkpoint of another recipe.
    """
    from tqdm.auto import tqdm

    config = configure(model, steps, seed, objective, foreign)
    device, out = choose_device(device), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    net = untrained(config, device)
    optimizer = make_optimizer(net, config)
    step, log, seconds = 0, [], 0.0
    state = load_state(out / "checkpoint.pt", config) if resume else None
    if state:
        net.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, log, seconds = state["step"], state["log"], state["seconds"]

    started, losses = time.monotonic() - seconds, []
    with tqdm(total=config.steps, initial=step, desc=f"pre-training {model}", unit="step") as progress:
        for images, targets in batches(config, step, workers):
            losses.append(train_step(net, optimizer, config, step, images.to(device), targets.to(device)))
            step += 1
            progress.update()
            if step % 50 == 0:
                log.append([step, torch.stack(losses).mean().item()])
                progress.set_postfix(loss=f"{log[-1][1]:.3f}", scale=f"{net.logit_scale.exp().item():.1f}")
                losses = []
            if step % save_every == 0 or step in (config.fall, config.steps):
                for name in ["checkpoint.pt"] + ["stable.pt"] * (step == config.fall):
                    save_state(out / name, config, step, net, optimizer, log, time.monotonic() - started)
    return export(net, config, log, time.monotonic() - started, out)


def train_step(net, optimizer, config, step, images, targets):
    """One step of the training, in place; returns its loss, a tensor, so that a GPU need not be waited for."""
    compute_loss = classification_loss if config.objective == "labels" else contrastive_loss
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate(step)
    # for sequences as short as these the plain attention is much quicker on a CPU than the flash kernel
    attention = sdpa_kernel(SDPBackend.MATH) if images.device.type == "cpu" else contextlib.nullcontext()
    with torch.autocast(images.device.type, torch.bfloat16), attention:
        loss = compute_loss(net, images.contiguous(memory_format=torch.channels_last), targets)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        net.logit_scale.clamp_(0, math.log(100))
    return loss.detach()


@torch.no_grad()
def calibrate(net, model):
    """Set the logit scale so that zero-shot's cross entropy on pocket-generic's validation pictures is least, in place.

    Temperature scaling (Guo et al. 2017). Captions that are vague, wrong or right for several pictures of a batch teach the
    scale more doubt than there is about the classes of a data set. Returns the scale as it was and as it is.
    """
    from scipy.optimize import minimize_scalar

    net = net.cpu().eval()
    images = prepare(datasets.draw("pocket-generic", "val"), model)
    prompts = [f"a photo of a {name}." for name in datasets.SETS["pocket-generic"].classes]
    image, text = net.encode_image(images, normalize=True), net.encode_text(tokenizer()(prompts), normalize=True)
    cosines, y = image @ text.T, torch.from_numpy(datasets.labels("pocket-generic", "val"))
    before = net.logit_scale.item()
    net.logit_scale.fill_(minimize_scalar(lambda log: F.cross_entropy(math.exp(log) * cosines, y).item(),
                                          bounds=(0, math.log(100)), method="bounded").x)
    return [round(math.exp(before), 2), round(net.logit_scale.exp().item(), 2)]


def variant_name(config):
    """The name that weights of this training go by: pocket-vit, pocket-vit-tidy, pocket-vit-classifier, pocket-vit-text ..."""
    if config.objective == "labels":
        return f"{config.model}-classifier"
    return config.model + "-text" * (config.objective == "text") + "-tidy" * (not config.foreign)


def export(net, config, log, seconds, out):
    """Write NAME.safetensors (fp16) and NAME.json (recipe, pairs seen, minutes, loss curve, logit scale) into `out`."""
    from safetensors.torch import save

    classifier = config.objective == "labels"  # of which the image tower alone is of use
    on_gpu = next(net.parameters()).is_cuda
    machine = torch.cuda.get_device_name() if on_gpu else f"CPU, threads: {torch.get_num_threads()}"
    scales = {} if classifier else {"logit_scale": calibrate(net, config.model)}  # as trained, as fitted
    target = Path(out) / f"{variant_name(config)}.safetensors"
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in net.cpu().state_dict().items()
               if k.startswith("visual.") or not classifier}
    with atomic_write(target, "wb") as file:
        file.write(save({k: v.contiguous() for k, v in tensors.items()}))
    record = {"recipe": asdict(config), "pairs": config.steps * config.batch, "minutes": round(seconds / 60, 1),
              "machine": machine, "torch": torch.__version__, **scales, "loss": log}
    with atomic_write(target.with_suffix(".json"), "w") as file:
        json.dump(record, file)
    return target

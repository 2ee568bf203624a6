"""A training step of prompt tuning against the published way of doing it, on the same weights and images.

    python tests/benchmarks/bench_prompts.py [model] [n_context] [repeats]

The published step runs all 77 tokens of every class through the text transformer and the images through the image
encoder, every time. Ours encodes the prompts as a tree and takes image features from a cache. Random weights: time and
memory do not depend on them. 100 classes (the names of CIFAR-100), batch 32, cross entropy, one thread, float32; then the
1,000 names of ImageNet, ours alone, with the states of the text encoder kept or computed again. Every
case runs in a process of its own, after a step with two classes that loads libraries; peak memory is the growth of that
process above what it holds then, so neither weights nor the library count.
"""

import multiprocessing
import sys

import numpy as np
import torch
import torch.nn.functional as F
from bench_caches import timed
from open_clip import IMAGENET_CLASSNAMES

from clipnotes.backbone import load_clip
from clipnotes.methods.prompts import PromptTuning

NAMES = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest
fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon
ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()


def published_text(clip, names, context):
    """Text features [C, d]: every prompt whole, with all its padding."""
    model, n = clip.model, len(context)
    tokens = clip.tokenizer([" ".join(["x"] * n + [name.replace("_", " ") + "."]) for name in names])
    x = model.token_embedding(tokens)
    x = torch.cat([x[:, :1], context.expand(len(names), -1, -1), x[:, 1 + n:]], dim=1) + model.positional_embedding
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
    return x[torch.arange(len(names)), tokens.argmax(1)] @ model.text_projection


def step(encode, features, labels, logit_scale, context):
    """Loss and gradient of one step of SGD on the context."""
    context = context.clone().requires_grad_()
    logits = logit_scale * F.normalize(features(), dim=-1) @ F.normalize(encode(context), dim=-1).T
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    torch.optim.SGD([context], lr=0.002).step()
    return loss.item(), context.grad


def measure(name, n_context, kind, with_images, all_names=NAMES, recompute=False):
    """(loss, gradient, seconds, MB at the peak) of one step; kind "ours" or "published"."""
    torch.set_num_threads(1)
    clip = load_clip(name, "random", device="cpu")
    generator = torch.Generator().manual_seed(0)  # the same cached features in every process
    cached, labels = torch.randn(32, clip.dim, generator=generator), torch.arange(32)
    images = torch.randn(32, 3, clip.image_size, clip.image_size)

    def run(names, n_images):
        model = PromptTuning(clip, names, n_context=n_context, recompute=recompute).start()
        encode = {"ours": lambda context: model.layout_.encoder(context[None])[0],
                  "published": lambda context: published_text(clip, names, context)}[kind]

        def features():
            if with_images and kind == "published":
                clip.model.encode_image(images[:n_images])  # for its cost; the loss takes the cached features in all cases
            return cached[:n_images]

        return timed(lambda: step(encode, features, labels[:n_images] % len(names), clip.logit_scale, model.context_))

    run(all_names[:2], 1)
    (loss, gradient), seconds, memory = run(all_names, 32)
    return loss, gradient.numpy(), seconds, memory


def main(name="RN50", n_context=16):
    clip = load_clip(name, "random", device="cpu")
    nodes = sum(len(tree.ids) for tree in PromptTuning(clip, NAMES, n_context=n_context).start().layout_.encoder.trees)
    print(f"{name}, one thread, {len(NAMES)} classes, {n_context} context tokens, batch 32: "
          f"{nodes} nodes in place of {len(NAMES) * clip.model.context_length} tokens", flush=True)
    del clip
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for case, with_images in (("text side", False), ("whole step", True)):
            (loss, gradient, quick, lean), (plain_loss, plain, slow, memory) = (
                pool.apply(measure, (name, n_context, kind, with_images)) for kind in ("ours", "published"))
            difference = np.linalg.norm(gradient - plain) / np.linalg.norm(plain)
            print(f"{case:10}: published {slow:7.2f} s, +{memory:5.0f} MB; ours {quick:6.3f} s, +{lean:4.0f} MB; "
                  f"{slow / quick:5.1f} times faster, memory 1/{memory / lean:.1f}; losses differ by "
                  f"{abs(loss - plain_loss):.1e}, gradients by {difference:.1e} of their norm", flush=True)
        for recompute in (False, True):  # ImageNet's names: what the published step needs tens of GB for
            _, _, seconds, memory = pool.apply(measure, (name, n_context, "ours", False, IMAGENET_CLASSNAMES, recompute))
            print(f"{len(IMAGENET_CLASSNAMES):,} classes, text side, recompute={recompute}: {seconds:.2f} s, +{memory:.0f} MB",
                  flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))

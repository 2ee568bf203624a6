"""What the papers' settings cost on a CPU: seconds and memory of every kind of work, and of whole notebooks from them.

    python tests/benchmarks/bench_paper_scale.py [threads]

Random weights: time and memory do not depend on them. Float32, batches as in the papers. Every case runs in a process of its
own; memory is the peak of that process, weights and libraries included. The second table multiplies the measured seconds with
the numbers of images and steps that notebooks/presets/paper_NN.yaml ask for, so it is an estimate, for this machine; reading
and resizing image files comes on top. GPU times were not measured.
"""

import multiprocessing
import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import IMAGENET_CLASSNAMES
from torchvision.models import resnet50

from clipnotes.backbone import attach, load_clip
from clipnotes.data import load_manifest
from clipnotes.methods.encoder_tuning import ImageEncoderFineTuning, TextEncoderTuning
from clipnotes.methods.prompts import PromptTuning
from clipnotes.methods.prompts_training import fit_many
from clipnotes.methods.sgd import SGDConfig
from clipnotes.paths import notebooks_dir
from clipnotes.series.parameters import read_values

MODELS = ["RN50", "ViT-B-32", "ViT-B-16", "ViT-L-14"]
CLASSES = [47, 100, 397, 1000]
BATCH = 32  # of paper B
GENERIC = 40_000  # images that adapters learn from: how many paper A has is not known
HOUR = 3600


# --- one step of each kind ----------------------------------------------------------------------------------------


def images_of(clip, n):
    return torch.randn(n, 3, clip.image_size, clip.image_size).contiguous(memory_format=torch.channels_last)


def encoding(name, n=16):
    """A call that encodes n images, and n."""
    clip = load_clip(name, "random", device="cpu")
    images = images_of(clip, n)

    @torch.inference_mode()
    def run():
        clip.model.encode_image(images)

    return run, n


def adapter_step(name, batch):
    """A step of supervised training of adapters, forward and backward; paper A's batch of 128 takes more memory than most."""
    clip = load_clip(name, "random", device="cpu")
    adapted, images = attach(clip), images_of(clip, batch)
    head = torch.nn.Linear(clip.dim, 200)
    adapted.adapters.train()
    return lambda: F.cross_entropy(head(adapted.forward(images)), torch.arange(batch) % 200).backward(), 1


def features(clip, n_classes):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, clip.dim, generator=generator), torch.arange(BATCH) % n_classes


def prompt_step(name, n_classes, recompute=False, n_prompts=1):
    """A step of prompt tuning, of n_prompts together: 16 vectors of context, shared, image features given."""
    clip = load_clip(name, "random", device="cpu")
    prompts = [PromptTuning(clip, IMAGENET_CLASSNAMES[:n_classes], recompute=recompute, sgd=SGDConfig(epochs=1))
               for _ in range(n_prompts)]
    data = [features(clip, n_classes)] * n_prompts
    return lambda: fit_many(prompts, data, progress=False), n_prompts


def text_tower_step(name, n_classes):
    """A step of fine-tuning the whole text tower, the copy and SGD included."""
    clip = load_clip(name, "random", device="cpu")
    tuning = TextEncoderTuning(clip, IMAGENET_CLASSNAMES[:n_classes], sgd=SGDConfig(epochs=1))
    x, y = features(clip, n_classes)
    return lambda: tuning.fit(x, y, progress=False), 1


def image_encoder_step(name):
    """A step of fine-tuning torchvision's ResNet-50, images in memory."""
    clip = load_clip(name, "random", device="cpu")
    tuning = ImageEncoderFineTuning(resnet50(), clip.preprocess, device="cpu", sgd=SGDConfig(epochs=1))
    images = np.zeros((BATCH, 224, 224, 3), np.uint8)
    return lambda: tuning.fit(images, torch.arange(BATCH), progress=False), 1


CASES = ([("image", encoding, (name,)) for name in MODELS]
         + [("prompt step", prompt_step, ("RN50", n)) for n in CLASSES]
         + [("prompt step, recompute=True", prompt_step, ("RN50", 1000, True)),
            ("prompt step of one of 16", prompt_step, ("RN50", 100, False, 16)),
            ("prompt step", prompt_step, ("ViT-B-32", 100))]
         + [("TEnc-FT step", text_tower_step, ("RN50", n)) for n in (47, 100)]
         + [("image fine-tuning step", image_encoder_step, ("RN50",))]
         + [("adapter step", adapter_step, ("ViT-B-16", batch)) for batch in (16, 32)])


def measure(case, arguments, threads):
    """(seconds for one image or step, GB at the peak): the quicker of two calls after one that loads libraries.

    With one thread, processor time: the same on a quiet machine, and nearly so beside other work.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    torch.set_num_threads(threads)
    run, units = case(*arguments)
    seconds = []
    for _ in range(3):
        begin = clock()
        run()
        seconds.append(clock() - begin)
    return min(seconds[1:]) / units, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# --- whole notebooks ----------------------------------------------------------------------------------------------


def estimates(seconds, left_out=()):
    """[(notebook, what is counted, hours)] of the papers' settings; seconds: {(label, arguments): of one image or step}."""
    def image(model):
        return seconds["image", (model,)]

    def per_class(label):
        """Seconds a step and class: steps grow in proportion to the classes."""
        return np.mean([value / arguments[1] for (name, arguments), value in seconds.items() if name == label])

    def preset(number, key):
        return [name for name in read_values(notebooks_dir() / f"presets/paper_{number}.yaml")[key] if name not in left_out]

    def splits(names, views=1):
        counts = [load_manifest(name).counts for name in dict.fromkeys(names)]
        return sum(views * count["train"] + count["val"] + count["test"] for count in counts)

    def work(names):
        """Sum over data sets of steps x classes of one training run: 50 epochs of C / 2 steps, 16 shots in batches of 32."""
        classes = [load_manifest(name).n_classes for name in names]
        return sum(50 * (16 * c // BATCH) * c for c in classes)

    all14, table3, four = preset("02", "datasets"), preset("07", "datasets"), preset("07", "four")
    prompts = per_class("prompt step")
    rest = [name for name in table3 if name not in four]
    fitted = 16 * (2 * work(four) + work(rest) + work(table3))  # 4 rates x 4 seeds; CE and GCE on the four; two backbones
    tuned = 16 * 50 * sum(16 * load_manifest(name).n_classes // BATCH for name in preset("07", "closely"))
    kinds = 16 * (3 + 4) + 8  # Tables 1 and 2 and four further lengths at 4 rates x 4 seeds; GCE at 2 rates x 4 seeds
    return [
        ("02", f"{splits(all14):,} images with ViT-B/16", splits(all14) * image("ViT-B-16")),
        ("04", f"{2 * splits(all14):,} images with ViT-B/16 (plain and adapted)", 2 * splits(all14) * image("ViT-B-16")),
        ("04", f"{GENERIC:,} generic images to train adapters on",
         GENERIC / 32 * seconds["adapter step", ("ViT-B-16", 32)]),
        ("07", f"{splits(table3, 16):,} images (16 views) with RN50 and with ViT-B/32",
         splits(table3, 16) * (image("RN50") + image("ViT-B-32"))),
        ("07", f"prompts: {fitted:,} steps x classes", fitted * prompts),
        ("07", f"image fine-tuning: {tuned:,} steps", tuned * seconds["image fine-tuning step", ("RN50",)]),
        ("08", f"{splits(four, 16):,} images (16 views) with RN50", splits(four, 16) * image("RN50")),
        ("08", f"prompts: {kinds * work(four):,} steps x classes", kinds * work(four) * prompts),
        ("08", f"TEnc-FT: {16 * work(four):,} steps x classes", 16 * work(four) * per_class("TEnc-FT step")),
    ]


def main(threads=1):
    seconds = {}
    print(f"torch {torch.__version__}, {threads} thread(s), float32\n")
    print("| work | of | seconds | peak memory, GB |\n|---|---|---|---|", flush=True)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for label, case, arguments in CASES:
            seconds[label, arguments], memory = pool.apply(measure, (case, arguments, threads))
            of = ", ".join(map(str, arguments))
            print(f"| {label} | {of} | {seconds[label, arguments]:.3f} | {memory:.1f} |", flush=True)
    print("\n| notebook | work | hours | without ImageNet |\n|---|---|---|---|")
    for whole, part in zip(estimates(seconds), estimates(seconds, ["imagenet"]), strict=True):
        print(f"| {whole[0]} | {whole[1]} | {whole[2] / HOUR:,.0f} | {part[2] / HOUR:,.0f} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

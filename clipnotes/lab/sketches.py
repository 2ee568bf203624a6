"""Diagrams of what is trained and what is frozen: the structures of paper B's Fig. 3 and the pipeline of its Fig. 7."""

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

FACE = {"frozen": "#E6E6E6", "trained": "#F6C58F", "data": "#FFFFFF", "loss": "#DCE9F5"}
EDGE = {"frozen": "0.55", "trained": "#B35A00", "data": "0.7", "loss": "#4C7FB0"}


def box(ax, x, y, text, kind="frozen", width=3.6, height=1.0, fontsize=9):
    """A rounded box around (x, y)."""
    ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.02,rounding_size=0.2",
                                facecolor=FACE[kind], edgecolor=EDGE[kind], linewidth=2 if kind == "trained" else 1))
    ax.text(x, y, text, ha="center", va="center", fontsize=fontsize)


def arrow(ax, start, end, dashed=False):
    """An arrow between two points."""
    ax.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": "0.3", "linewidth": 1.2, "shrinkA": 0,
                                                      "shrinkB": 0, "linestyle": "--" if dashed else "-"})


def draw_variant(ax, title, context=None, names=None, text_encoder="frozen", linear=False, starts_from_text=False):
    """One way to adapt CLIP, in a panel of 10 x 7.6 units. The image side is frozen in all of them.

    context, names: "frozen" or "trained" of the two parts of a prompt, None where there is no text. linear: a trained linear
    layer in place of the class texts, which starts_from_text or not.
    """
    ax.set(xlim=(0, 10), ylim=(0, 7.7))
    ax.axis("off")
    ax.set_title(title, fontsize=10.5)
    box(ax, 2.3, 0.7, "image", "data", width=4.3)
    box(ax, 2.3, 2.7, "image encoder", width=4.3)
    arrow(ax, (2.3, 1.2), (2.3, 2.2))
    if context:
        box(ax, 6.1, 0.7, "context" if context == "trained" else "a photo\nof a", context, width=2.1, fontsize=8.5)
        box(ax, 8.6, 0.7, "class\nname", names, width=2.1, fontsize=8.5)
        box(ax, 7.35, 2.7, "text encoder", text_encoder, width=4.4)
        arrow(ax, (7.35, 1.2), (7.35, 2.2))
    top = 5.0
    if linear:
        box(ax, 2.3, top, "linear layer", "trained", width=4.3)
        arrow(ax, (2.3, 3.2), (2.3, top - 0.5))
        if starts_from_text:
            arrow(ax, (7.35, 3.2), (4.55, top), dashed=True)
            ax.text(6.9, 4.5, "start", fontsize=9, ha="center")
    else:
        box(ax, 4.85, top, "cosines", "data")
        arrow(ax, (2.3, 3.2), (3.9, top - 0.5))
        arrow(ax, (7.35, 3.2), (5.8, top - 0.5))
    centre = 2.3 if linear else 4.85
    box(ax, centre, 6.9, "loss on labels", "loss", width=4.3)
    arrow(ax, (centre, top + 0.5), (centre, 6.4))


VARIANTS = {
    "Classifier-R": {"linear": True},
    "Classifier-C": {"linear": True, "starts_from_text": True, "context": "frozen", "names": "frozen"},
    "TEnc-FT": {"context": "frozen", "names": "frozen", "text_encoder": "trained"},
    "Prompt Tuning": {"context": "trained", "names": "frozen"},
    "Full Prompt Tuning": {"context": "trained", "names": "trained"},
    "CLS Tuning": {"context": "frozen", "names": "trained"},
}


def draw_variants():
    """A figure of all six structures of paper B's Fig. 3: trained parts in orange, frozen ones in grey."""
    figure, axes = plt.subplots(2, 3, figsize=(7.6, 5.2))
    for letter, ax, (name, parts) in zip("abcdef", axes.flat, VARIANTS.items(), strict=True):
        draw_variant(ax, f"({letter}) {name}", **parts)
    return figure


def draw_pipeline():
    """A figure of unsupervised prompt tuning: pseudo-labels from zero-shot CLIP, a choice among them, a robust loss."""
    figure, ax = plt.subplots(figsize=(7.6, 2.9))
    ax.set(xlim=(0, 25.4), ylim=(0, 6.2))
    ax.axis("off")
    box(ax, 2.4, 3.0, "images\nwithout labels", "data", width=4.2, height=1.9)
    box(ax, 8.2, 3.0, "zero-shot CLIP:\nmost likely class\nand its probability", width=5.2, height=2.4)
    box(ax, 14.6, 4.6, "16 a class, the most\nconfident (UPL)", "data", width=5.4, height=1.8)
    box(ax, 14.6, 1.4, "16 a class at random\n(robust UPL)", "data", width=5.4, height=1.8)
    box(ax, 22.2, 4.6, "prompt tuning\nwith CE", "trained", width=5.0, height=1.8)
    box(ax, 22.2, 1.4, "prompt tuning\nwith CE or GCE", "trained", width=5.0, height=1.8)
    arrow(ax, (4.6, 3.0), (5.5, 3.0))
    for y in (4.6, 1.4):
        arrow(ax, (10.9, 3.0 + 0.25 * (y - 3)), (11.8, y))
        arrow(ax, (17.4, y), (19.6, y))
    return figure

"""Diagrams drawn with matplotlib, so that they share the study's style and need no other tool."""

import matplotlib.pyplot as plt

from clipnotes.lab.figures import PALETTE

TRAINED = PALETTE["image"]
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
BOXES = {"frozen": ("0.88", "0.55", "black"), "trained": (TRAINED, TRAINED, "white"), "fixed": ("white", TRAINED, TRAINED),
         "data": ("white", "0.65", "black")}


def adapter_block(width: float = 7.4) -> plt.Figure:
    """A figure of one transformer block with paper A's adapter: frozen parts grey, trained parts coloured."""
    figure, ax = plt.subplots(figsize=(width, 0.43 * width), layout="none")
    figure.subplots_adjust(0, 0, 1, 1)
    ax.set(xlim=(0, 100), ylim=(0, 43))
    ax.axis("off")
    top, middle, low = 36, 24, 9
    _path(ax, (2, top), (31, top))  # the residual stream, from left to right
    _path(ax, (35, top), (87, top))
    _path(ax, (91, top), (98, top))
    _path(ax, (6, top), (6, middle), (33, middle), (33, top - 2))
    _path(ax, (47, top), (47, middle), (89, middle), (89, top - 2))
    _path(ax, (43, top), (43, low), (96, low), (96, 29), (90.6, top - 1.3), colour=TRAINED)
    for x in (33, 89):
        ax.add_patch(plt.Circle((x, top), 2, facecolor="white", edgecolor="0.25", linewidth=1.4, zorder=3))
        ax.text(x, top - 0.2, "+", ha="center", va="center", fontsize=13, zorder=4)
    for x, text in ((13, "LN₁"), (25, "MHSA"), (58, "LN₂"), (76, "MLP")):
        _box(ax, x, middle, text, "frozen")
    for x, text, kind in ((51, "Down", "trained"), (64, "ReLU", "fixed"), (77, "Up", "trained"), (89, "× s", "fixed")):
        _box(ax, x, low, text, kind)
    for x, y, text in ((2, top + 1.5, "x"), (38, top + 1.5, "h"), (94, top + 1.5, "x′")):
        ax.text(x, y, text, fontsize=13, style="italic")
    for y, kind in ((13, "frozen"), (5.5, "trained")):
        _box(ax, 9, y, kind, kind, wide=14, high=5)
    return figure


def _box(ax, x, y, text, kind, wide=9, high=7, fontsize=12):
    face, edge, ink = BOXES[kind]
    corner = (x - wide / 2, y - high / 2)
    ax.add_patch(plt.Rectangle(corner, wide, high, facecolor=face, edgecolor=edge, linewidth=1.4, zorder=3))
    ax.text(x, y, text, ha="center", va="center", color=ink, fontsize=fontsize, zorder=4)


def _path(ax, *points, colour="0.25", style="-"):
    """A line through the points, with an arrow's head at the last one."""
    ax.plot(*zip(*points[:-1], strict=True), color=colour, linewidth=1.4, solid_joinstyle="miter")
    ax.annotate("", points[-1], points[-2], arrowprops={
        "arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "linestyle": style, "shrinkA": 0, "shrinkB": 0,
        "mutation_scale": 14})


def prompt_tree(names: list[list[str]], n_context: int, length: int, width: float = 7.4) -> plt.Figure:
    """A figure of prompts [SOS, context, name, ".", EOT] as plain rows of `length` tokens and, below, as a tree.

    names: the words (tokens) of every class name, a list a class. n_context: context vectors that all classes share.
    In the rows, tokens that an earlier row has already with the same history are grey, and so is the padding.
    """
    context = [f"p{i}".translate(SUBSCRIPTS) for i in range(1, n_context + 1)]
    sequences = [["SOS", *context, *words, ".", "EOT"] for words in names]
    n_leaves = len(names)
    figure, (rows, tree) = plt.subplots(2, 1, figsize=(width, 1.5 + 0.85 * n_leaves), layout="none",
                                        height_ratios=[1 + 0.8 * n_leaves, 1.6 * n_leaves])
    figure.subplots_adjust(0.005, 0, 0.995, 0.93, hspace=0.36)
    _token_rows(rows, sequences, context, length)
    if n_context > 4:  # most of the context as one box of dots
        sequences = [[*sequence[:3], "...", *sequence[n_context:]] for sequence in sequences]
    _token_tree(tree, sequences, context)
    return figure


def _token_kind(token, context):
    return "trained" if token in context or token == "..." else "fixed" if token in ("SOS", ".", "EOT") else "name"


def _token_rows(ax, sequences, context, length):
    fills = {"trained": TRAINED, "name": PALETTE["text"], "fixed": "white", "again": "0.72", "padding": "0.93"}
    seen = set()
    for i, sequence in enumerate(sequences):
        for j in range(length):
            history = tuple(sequence[:j + 1])
            kind = "padding" if j >= len(sequence) else "again" if history in seen else _token_kind(sequence[j], context)
            seen.add(history)
            ax.add_patch(plt.Rectangle((j + 0.06, i + 0.1), 0.88, 0.8, facecolor=fills[kind], edgecolor="0.4", linewidth=0.8))
    labels = {"trained": "learnt context", "name": "class name", "fixed": "SOS, full stop, EOT", "again": "the same again",
              "padding": "padding"}
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor=fills[kind], edgecolor="0.4", linewidth=0.8) for kind in labels]
    ax.legend(handles, labels.values(), ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.02), columnspacing=1.1,
              handlelength=1, handleheight=1, handletextpad=0.4, fontsize=11)
    n = len(sequences)
    ax.set(xlim=(0, length), ylim=(n, 0), title=f"plain: {n} x {length} = {n * length} tokens")
    ax.axis("off")


def _token_tree(ax, sequences, context):
    colours = {"trained": (TRAINED, TRAINED, "white"), "fixed": ("white", "0.3", "black"),
               "name": (PALETTE["text"], PALETTE["text"], "white")}
    places = {}  # history: rows of the leaves below it
    for row, sequence in enumerate(sequences):
        for j in range(len(sequence)):
            places.setdefault(tuple(sequence[:j + 1]), []).append(row)
    where = {history: (len(history) - 1, sum(rows) / len(rows)) for history, rows in places.items()}
    for history, (x, y) in where.items():
        if len(history) > 1:
            px, py = where[history[:-1]]
            ax.plot([px + 0.4, px + 0.5, px + 0.5, x], [py, py, y, y], color="0.4", linewidth=1.3, zorder=1)
        face, edge, ink = colours[_token_kind(history[-1], context)]
        ax.add_patch(plt.Rectangle((x - 0.41, y - 0.3), 0.82, 0.6, facecolor=face, edgecolor=edge, linewidth=1.3, zorder=2))
        ax.text(x, y, history[-1], ha="center", va="center", color=ink, fontsize=11, zorder=3)
    hidden = len(context) - 3 if len(context) > 4 else 0
    nodes = len(places) + max(0, hidden - 1)
    deepest = max(map(len, sequences))
    ax.set(xlim=(-0.5, deepest - 0.5), ylim=(len(sequences) - 0.55, -0.6), title=f"as a tree: {nodes} tokens")
    ax.axis("off")


# What is trained in the six methods of paper B's Fig. 3; arguments of `_method`.
METHODS = {
    "Classifier-R": {"linear": True},
    "Classifier-C": {"linear": True, "context": "frozen", "names": "frozen"},
    "TEnc-FT": {"context": "frozen", "names": "frozen", "text_encoder": "trained"},
    "Prompt Tuning": {"context": "trained", "names": "frozen"},
    "Full Prompt Tuning": {"context": "trained", "names": "trained"},
    "CLS Tuning": {"context": "frozen", "names": "trained"},
}


def method_sketches(width: float = 7.6) -> plt.Figure:
    """A figure of the six structures of paper B's Fig. 3: frozen parts grey, trained parts coloured."""
    figure, axes = plt.subplots(2, 3, figsize=(width, 0.68 * width))
    for letter, ax, (name, parts) in zip("abcdef", axes.flat, METHODS.items(), strict=True):
        ax.set_title(f"({letter}) {name}", fontsize=11)
        _method(ax, **parts)
    return figure


def _method(ax, context=None, names=None, text_encoder="frozen", linear=False):
    """One structure. context, names: "frozen" or "trained", None where there is no text. linear: a trained linear layer in
    place of the class texts, which starts from them where there is text."""
    ax.set(xlim=(0, 10), ylim=(0, 7.7))
    ax.axis("off")
    size = {"high": 1, "fontsize": 9}
    _box(ax, 2.3, 0.7, "image", "data", 4.3, **size)
    _box(ax, 2.3, 2.7, "image encoder", "frozen", 4.3, **size)
    _path(ax, (2.3, 1.2), (2.3, 2.2))
    if context:
        _box(ax, 6.1, 0.7, "context" if context == "trained" else "a photo\nof a", context, 2.2, **size)
        _box(ax, 8.6, 0.7, "class\nname", names, 2.2, **size)
        _box(ax, 7.35, 2.7, "text encoder", text_encoder, 4.7, **size)
        _path(ax, (7.35, 1.2), (7.35, 2.2))
    if linear:
        _box(ax, 2.3, 5, "linear layer", "trained", 4.3, **size)
        _path(ax, (2.3, 3.2), (2.3, 4.5))
        if context:
            _path(ax, (7.35, 3.2), (4.5, 5), style="--")
            ax.text(6.9, 4.4, "start", fontsize=9, ha="center")
    else:
        _box(ax, 4.85, 5, "cosines", "data", 4.3, **size)
        _path(ax, (2.3, 3.2), (3.9, 4.5))
        _path(ax, (7.35, 3.2), (5.8, 4.5))
    centre = 2.3 if linear else 4.85
    _box(ax, centre, 6.9, "loss on labels", "data", 4.3, **size)
    _path(ax, (centre, 5.5), (centre, 6.4))


def pseudo_label_pipeline(width: float = 7.6) -> plt.Figure:
    """A figure of unsupervised prompt tuning: pseudo-labels from zero-shot CLIP, a choice among them, a robust loss."""
    figure, ax = plt.subplots(figsize=(width, 0.38 * width))
    ax.set(xlim=(0, 25.4), ylim=(0, 6.2))
    ax.axis("off")
    _box(ax, 2.4, 3.0, "images\nwithout labels", "data", 4.2, 1.9, fontsize=9)
    _box(ax, 8.2, 3.0, "zero-shot CLIP:\nmost likely class\nand its probability", "frozen", 5.2, 2.4, fontsize=9)
    _path(ax, (4.6, 3.0), (5.5, 3.0))
    for y, choice, training in ((4.7, "16 a class, the most\nconfident (UPL)", "prompt tuning\nwith CE"),
                                (1.3, "16 a class at random\n(robust UPL)", "prompt tuning\nwith CE or GCE")):
        _box(ax, 14.6, y, choice, "data", 5.6, 1.9, fontsize=9)
        _box(ax, 22.2, y, training, "trained", 5.0, 1.9, fontsize=9)
        _path(ax, (10.9, 3.0 + 0.25 * (y - 3)), (11.7, y))
        _path(ax, (17.5, y), (19.6, y))
    return figure

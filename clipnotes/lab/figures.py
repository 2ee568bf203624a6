"""One figure style for the whole study, and a figure's way to disk."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.scale import LogScale, SymmetricalLogScale, register_scale
from matplotlib.ticker import LogFormatterSciNotation
from PIL import Image

from clipnotes.files import atomic_write
from clipnotes.progress import in_kernel

# Fixed roles keep their colour in every notebook. Each has a contrast of at least 3:1 on white, and the two
# of a pair differ in lightness or along blue-orange, which the common forms of colour blindness leave apart.
PALETTE = {
    "paired": "#0072B2",
    "unpaired": "#D55E00",
    "image": "#00745B",
    "text": "#B0559A",
    "clean": "#404040",
    "noisy": "#A67C00",
}

LARGE = 100_000  # bytes


class _PlainTicks(LogFormatterSciNotation):
    """Ticks of a logarithmic axis as plain numbers, 0.01 or 1000: text in figures is no formula."""

    def __call__(self, x, pos=None):
        return f"{x:g}" if super().__call__(x, pos) else ""


class _PlainLog(LogScale):
    def set_default_locators_and_formatters(self, axis):
        super().set_default_locators_and_formatters(axis)
        axis.set_major_formatter(_PlainTicks(self.base))
        axis.set_minor_formatter(_PlainTicks(self.base, labelOnlyBase=self.subs is not None))


class _PlainSymlog(SymmetricalLogScale):
    def set_default_locators_and_formatters(self, axis):
        super().set_default_locators_and_formatters(axis)
        axis.set_major_formatter(_PlainTicks(self.base))


def use_style() -> None:
    """Apply the style sheet, in which no text is a formula, and nothing of a user's own matplotlibrc; seaborn's drawings follow
    it too. A backend that cannot be had here, such as one with windows where no screen is, gives way to pictures."""
    plt.style.use(["default", Path(__file__).with_name("clipnotes.mplstyle")])
    try:
        plt.switch_backend(plt.get_backend())
    except ImportError:
        plt.switch_backend("module://matplotlib_inline.backend_inline" if in_kernel() else "agg")
    for scale in (_PlainLog, _PlainSymlog):  # they keep their names, "log" and "symlog"
        register_scale(scale)


def save_figure(figure: plt.Figure, folder: Path, name: str) -> bytes:
    """Write folder/name.png and .svg atomically, equal figures as equal bytes; return the PNG's bytes."""
    images = {"png": _small_png(figure), "svg": io.BytesIO()}
    figure.set_layout_engine("none")  # the layout is found, and is a third of the work
    figure.savefig(images["svg"], format="svg", metadata={"Date": None})
    for kind, buffer in images.items():
        with atomic_write(folder / f"{name}.{kind}", "wb") as stream:
            stream.write(buffer.getvalue())
    return images["png"].getvalue()


def _small_png(figure):
    """A PNG, of at most 256 colours if it is large: executed notebooks must stay light in a repository."""
    drawn, reduced = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    if drawn.tell() <= LARGE:
        return drawn
    picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(reduced, format="png", optimize=True)
    return reduced

"""The one exception for mistakes that a user can mend, and how its sentences quote a value."""


class ClipnotesError(ValueError):
    """Bad input, said in one sentence: what was wrong, its value, what is allowed, what to do.

    The command line prints the sentence alone, without a traceback; so does a notebook, in place of the code on the way.
    """

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows."""
        return [f"{type(self).__name__}: {self}"]


def shown(value: object, most: int = 200) -> str:
    """`value` as a sentence quotes it: as code on one line, the middle left out where it is longer than `most`; an array by its
    shape."""
    if getattr(value, "ndim", None) == 0:  # numpy writes its numbers as np.float64(0.5)
        value = value.item()
    if hasattr(value, "shape"):
        kind = str(getattr(value, "dtype", "")).removeprefix("torch.")
        return f"{type(value).__name__} {list(value.shape)}{kind and f' of {kind}'}"
    text = repr(value)
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= most else f"{text[:most // 2]} ... {text[-most // 4:]}"


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of what a library says went wrong, at most so many letters; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]


def in_words(error: BaseException) -> str:
    """One sentence on what the operating system or the interpreter refuses: an OSError, UnicodeError, RecursionError or
    MemoryError. A ClipnotesError is one already."""
    if isinstance(error, ClipnotesError):
        return str(error)
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return f"{shown(str(error.filename))[1:-1]}: {reason}." if error.filename is not None else f"{reason}."
    if isinstance(error, UnicodeDecodeError):
        return f"A file or name is no UTF-8 text (byte 0x{error.object[error.start]:02x} at {error.start}): save it as UTF-8."
    if isinstance(error, UnicodeEncodeError):
        return f"The text {shown(error.object)} has characters that cannot be written as {error.encoding}: leave them out."
    if isinstance(error, RecursionError):
        return "What was read is nested too deep: flatten it."
    if isinstance(error, MemoryError):
        return "There is not enough memory for this: ask for less, or use a machine with more."
    return f"{type(error).__name__}: {error}"

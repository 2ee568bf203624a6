"""The one exception for mistakes that a user can mend, and how its sentences quote a value."""


class ClipnotesError(ValueError):
    """Bad input, said in one sentence: what was wrong, its value, what is allowed, what to do.

    The command line prints the sentence alone, without a traceback.
    """


def shown(value: object, most: int = 200) -> str:
    """`value` as a sentence quotes it: its repr on one line, the middle left out where it is longer than `most`."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most // 2]} ... {text[-most // 4:]}"

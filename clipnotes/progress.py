"""How far a long work is: a bar in a terminal, one line of text in a notebook, gone when the work is done."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(*arguments: Any, **settings: Any) -> tqdm:
    """A tqdm bar with its arguments and settings. In a notebook's kernel it is a line such as "prompt tuning 4/32".

    No widgets there: they would stand in a saved notebook as errors. A bar within another one is left out, since a line can be
    written anew only where it is the last.
    """
    if in_kernel():
        within = bool(getattr(tqdm, "_instances", ()))
        settings |= {"bar_format": "{desc} {n_fmt}/{total_fmt}", "leave": False, "mininterval": 0.5,
                     "disable": bool(settings.get("disable")) or within}
    return tqdm(*arguments, **settings)


def in_kernel() -> bool:
    """Whether this runs in the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None

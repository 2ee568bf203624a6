"""What an exercise's starter cell calls: has it been tried, does it hold, and what is off."""

from collections.abc import Callable
from html import escape
from typing import Any

from clipnotes.lab.display import show


def exercise(number: str, answer: Any, check: Callable[[Any], str | None]) -> None:
    """Say whether `answer` to the exercise `number` of this notebook holds.

    answer: `...` while it has not been tried. check(answer): None if it holds, else a sentence on what is off. An error
    inside the check is told as what is off, too, since a wrong answer may have any form.
    """
    if answer is ...:
        say(f"Exercise {number}: not tried yet. Put your answer in place of the three dots and run the cell again.")
        return
    try:
        off = check(answer)
    except Exception as error:
        off = f"The check stopped with {type(error).__name__}: {error}"
    say(f"Exercise {number}: not yet. {off}" if off else f"Exercise {number}: right.")


def say(text: str) -> None:
    show(text, html=f"<p><strong>{escape(text)}</strong></p>")

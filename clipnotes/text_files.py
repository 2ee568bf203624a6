"""Text, JSON and CSV files of anybody's making: read whole or, but for CSV, refused in one sentence that says what they are."""
from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipnotes.errors import ClipnotesError, shown
from clipnotes.file_kinds import format_of

if TYPE_CHECKING:
    import pandas as pd

MB = 1_000_000


def read_text(path: str | Path, what: str, limit: int = 200 * MB) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    what: begins the sentences, such as "Grid fig1.yaml". limit: bytes.
    ClipnotesError: the file is missing, cannot be opened, is larger, or holds no UTF-8 text.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(limit + 1)  # not the file's size, which a device or a pipe does not tell
    except (OSError, ValueError) as error:
        raise ClipnotesError(f"{what} cannot be read from {shown(str(path))}: {getattr(error, 'strerror', None) or error}."
                             ) from None
    if len(content) > limit:
        raise ClipnotesError(f"{what} in {path} has more than {limit // MB} MB, the most that is read: make it smaller.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text, place = None, error.start
    if text is not None and "\0" not in text:
        return text
    kind = format_of(content)
    if not kind:
        kind = f"no UTF-8 text, since byte {place + 1} is 0x{content[place]:02x}" if b"\0" not in content else "a binary file"
    raise ClipnotesError(f"{what} in {path} is {kind}: give a text file that is saved as UTF-8.")


def read_json(path: str | Path, what: str, limit: int = 200 * MB) -> Any:
    """The value of a JSON file; what, limit and ClipnotesError as for `read_text`, and where it is no JSON."""
    text = read_text(path, what, limit)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}: {error.msg}"
    except ValueError as error:  # a number of more digits than Python reads
        reason = str(error).split(";")[0]
    except RecursionError:
        reason = "it is nested too deep"
    raise ClipnotesError(f"{what} in {path} is no valid JSON ({reason}): restore it or make it anew.")


def read_csv(source: Any, text: bool = False, **options: Any) -> pd.DataFrame:
    """A CSV table, in which nothing is missing but empty cells: NA, null and nan may be names.

    source, options: those of pandas.read_csv. text: take every cell as the text that is written, "" where it is empty.
    Raises what pandas raises.
    """
    import pandas as pd

    kind = {"dtype": str} if text else {"na_values": [""], "low_memory": False}  # else types vary within a column
    return pd.read_csv(source, keep_default_na=False, **kind, **options)

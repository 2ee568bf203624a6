"""What a file is by its first bytes, for those that are not what their name says."""
from __future__ import annotations

import os
import pickle
from pathlib import Path

from clipnotes.errors import first_line

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
STARTS = {  # first bytes, and what begins with them
    b"%PDF-": "a PDF file",
    b"\x93NUMPY": "a NumPy array (.npy)",
    b"PK\x03\x04": "a zip archive (.zip, .npz, or PyTorch's .pt)",
    b"PK\x05\x06": "an empty zip archive",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x89HDF": "an HDF5 file", b"PAR1": "a Parquet table", b"\xff\xfe": "text in UTF-16", b"\xfe\xff": "text in UTF-16",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x80\x02": "a Python pickle", b"\x80\x03": "a Python pickle", b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
}
HTML = (b"<!doctype html", b"<html", b"<head")


def stand_in(path: str | Path) -> str | None:
    """What stands in the place of a file that was never fetched, in words that go on "PATH is ..."; else None.

    A web page, a pointer of Git LFS, an empty file: never what a file of data should be. OSError where it cannot be read.
    """
    start = first_bytes(path)
    if not start:
        return "an empty file"
    if start.startswith(LFS_POINTER):
        return "a pointer of Git LFS; the large file that it points to was not fetched"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(HTML):
        return "a web page (HTML), such as a server's answer in the file's place"
    return None


def kind_of(path: str | Path) -> str | None:
    """What a file is, as `stand_in` says it, or which common format; None for other content. OSError as there."""
    return stand_in(path) or format_of(first_bytes(path))


def format_of(content: bytes) -> str | None:
    """The common format of what begins with these bytes, in words."""
    return next((kind for first, kind in STARTS.items() if content.startswith(first)), None)


def why_unreadable(path: str | Path, error: BaseException) -> str:
    """Why a library failed to read a file, in words on one line: what stands in its place, else the library's own reason.

    Where a file holds objects, libraries tell how to load them all the same, which would run what they hold; that is left out.
    """
    if os.path.isfile(path) and os.access(path, os.R_OK) and (instead := stand_in(path)):
        return f"it is {instead}"
    if isinstance(error, pickle.UnpicklingError) or "pickle" in str(error) or "weights_only" in str(error):
        return "it is damaged or holds objects besides arrays of numbers and texts"
    return first_line(error)


def first_bytes(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(1024)

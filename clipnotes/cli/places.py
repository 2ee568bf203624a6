"""Where a command may write: looked at before its work, which may take hours."""

import os
from pathlib import Path

import click

from clipnotes.errors import ClipnotesError, shown


class Place(click.Path):
    """A file or folder that a command will write, as click's Path takes it, and refused where that is bound to fail."""

    def convert(self, value, param, ctx):
        if value == "":
            raise ClipnotesError(f"{'/'.join(param.opts)} is empty: give the path of a {self.kind}, or leave the option out.")
        value = os.path.expanduser(value)  # shells do so after a blank, but not after the = of --out=~/runs
        check_place(value)
        return super().convert(value, param, ctx)

    @property
    def kind(self) -> str:
        return "file" if self.file_okay else "folder"


FILE, FOLDER = Place(dir_okay=False), Place(file_okay=False)


def check_place(path: str | Path):
    """Whether `path`, or the nearest folder above it that exists, can be written; nothing is made.

    ClipnotesError: a file where a folder must be, a name that the file system does not take, no permission.
    """
    path = Path(path).absolute()
    try:
        longest = max(len(part.encode()) for part in path.parts)
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, UnicodeError) as error:  # it is too long, or no text
        reason = getattr(error, "strerror", "it is no text in UTF-8")
        raise ClipnotesError(f"{shown(str(path))[1:-1]} cannot be written: {reason}.") from None
    if longest > 255:
        raise ClipnotesError(f"{shown(str(path))[1:-1]} cannot be written: a part of it has {longest} bytes, more than the 255 "
                             "that a file system takes.")
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not there.exists():
        raise ClipnotesError(f"{path} cannot be written, since the link {there} leads nowhere: choose another place.")
    if there != path and not there.is_dir():
        raise ClipnotesError(f"{path} cannot be written, since {there} is a file and no folder: choose another place.")
    if not os.access(there, os.W_OK):
        raise ClipnotesError(f"{path} cannot be written, since {there} is read-only for you: choose another place.")

"""Files that several runs share: written whole or not at all, and by one of them at a time."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Yield a file open for writing that becomes `path` only when the block ends without an error.

    mode: "w" (UTF-8 text, line ends as written) or "wb". Missing parent folders are made. The temporary
    file lies in the same folder, since a rename is atomic only within one file system, and keeps the suffix
    of `path`, since writers such as numpy.savez look at it. On an error it is removed, and whatever `path`
    held before is left untouched.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f'mode is {mode!r}, but atomic_write only writes whole files: use "w" or "wb".')
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = {} if mode == "wb" else {"encoding": "utf-8", "newline": ""}
    # tempfile makes private files, and not every file system lets their mode be changed
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    stream = open(temporary, mode.replace("w", "x"), **text)
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Let one process at a time into the block for `path`; the others wait. A process that dies lets the next one in.

    For work whose result goes to `path`: who waited finds it there and need not do it again. The lock is a file beside it.
    Where none can be written, or the file system has no locks, there is no waiting.
    """
    beside = Path(path).with_name(f".{Path(path).name}.lock")
    held = FileLock(beside)
    with suppress(OSError):
        beside.parent.mkdir(parents=True, exist_ok=True)
        if not lacks_locks(beside):
            held.acquire()
    try:
        yield
    finally:
        held.release()


def lacks_locks(path: str | Path) -> str:
    """Why the lock file `path`, which is made where it is missing, cannot be locked: what the system says; "" if it can.

    Some network and container file systems have no locks. Of their answers filelock knows one, and then takes the mere
    presence of the file for a lock, which a process that dies would leave behind. OSError: the file cannot be written.
    """
    with open(path, "a") as file:
        try:
            import fcntl
        except ImportError:  # Windows has another way of locking
            return ""
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        except OSError as error:
            return error.strerror or str(error)
    return ""


def clear_place(path: str | Path) -> None:
    """Rename a folder that stands where a cache's file belongs to PATH.folder, which is as good as gone; files and links,
    dangling ones too, are replaced by writing. OSError where that is not possible."""
    if os.path.isdir(path) and not os.path.islink(path):
        os.rename(path, f"{path}.folder")

"""Files that several runs share: written whole or not at all, and by one of them at a time."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    try:
        with os.fdopen(handle, mode, **text) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files; results are ordinary ones
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Let one process at a time into the block for `path`; the others wait. A process that dies lets the next one in.

    For work whose result goes to `path`: who waited finds it there and need not do it again. The lock is a file beside it.
    Where none can be written, there is no waiting.
    """
    beside = Path(path).with_name(f".{Path(path).name}.lock")
    held = FileLock(beside)
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        open(beside, "a").close()  # filelock itself would wait for ever
        held.acquire()
    except (OSError, NotImplementedError):  # the latter: a file system without locks
        yield
        return
    try:
        yield
    finally:
        held.release()


def clear_place(path: str | Path) -> None:
    """Rename a folder that stands where a cache's file belongs to PATH.folder, which is as good as gone; files and links,
    dangling ones too, are replaced by writing. OSError where that is not possible."""
    if os.path.isdir(path) and not os.path.islink(path):
        os.rename(path, f"{path}.folder")


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Atomic writes: a killed run leaves no half-written file that a later run would take for whole."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path, mode="w"):
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


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask

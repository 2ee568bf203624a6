"""Archives: unpacked inside their folder, whole or not at all, with nothing in them that is more than a file or a folder."""
from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import IO

from clipnotes.downloads.download import check_room, refusals
from clipnotes.errors import ClipnotesError
from clipnotes.file_kinds import kind_of, stand_in
from clipnotes.progress import progress_bar

PIECE = 1 << 20        # bytes copied at a time
GROWTH = 20            # an archive may hold this many times its own size (images hardly shrink, lists do), ...
SMALL = 100_000_000    # ... or this many bytes, where that is more
NAME, PATH = 255, 1000  # bytes that a name, and a path, may have
OPENERS: dict[bytes, Callable[[Path], IO[bytes]]] = {  # by a file's first bytes
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def unpack(archive: str | Path, folder: str | Path, progress: bool = True, most: int | None = None) -> Path:
    """Unpack a zip or tar file (plain, gz, bz2 or xz) into `folder`; returns the folder.

    Everything is unpacked aside first, read to its end so that checksums count, and then moved in place: folders that are
    there already are merged, files replaced. most: bytes that the content may have; by default `GROWTH` times the archive's
    size or `SMALL`. Links, devices and names that leave the folder are refused, and so are links in the way of what is
    moved in place.
    Raises ClipnotesError for a file of another kind, a damaged one, and one that breaks these rules; DownloadError for what
    the operating system refuses. Nothing of the archive remains then.
    """
    archive, folder = Path(archive), Path(folder)
    aside = folder / f".{archive.name}.unpacking"
    with refusals(folder):
        if what := stand_in(archive):
            raise ClipnotesError(f"{archive} is {what}; remove it and fetch it again.")
        most = max(SMALL, GROWTH * archive.stat().st_size) if most is None else most
        shutil.rmtree(aside, ignore_errors=True)  # of a killed run
        aside.mkdir(parents=True)
        try:
            fill(Unpacking(archive, aside, most), progress)
            check_way(archive, aside, folder)
            move_into(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def fill(unpacking: Unpacking, progress: bool) -> None:
    """All entries of the archive, whichever its kind is; ClipnotesError where it is damaged."""
    archive = unpacking.archive
    try:
        with open(archive, "rb") as file:
            start = file.read(512)
        if start.startswith(b"PK"):
            fill_from_zip(unpacking, progress)
            return
        opener = next((opener for first, opener in OPENERS.items() if start.startswith(first)), open)
        with opener(archive, "rb") as stream:
            fill_from_tar(unpacking, stream, progress)
    except ClipnotesError:
        raise
    except Exception as error:  # the readers of archives raise anything for damaged ones
        if isinstance(error, OSError) and error.errno:  # the operating system's
            raise
        if isinstance(error, tarfile.ReadError) and not unpacking.entries:
            what = f" but {kind_of(archive)}" if kind_of(archive) else ""
            raise ClipnotesError(f"{archive} is neither a zip nor a tar archive{what}; remove it and fetch it again."
                                 ) from error
        raise ClipnotesError(f"Archive {archive} cannot be unpacked ({error}); it is damaged: remove it and fetch it "
                             "again.") from error


def fill_from_zip(unpacking: Unpacking, progress: bool) -> None:
    with zipfile.ZipFile(unpacking.archive) as file:
        entries = file.infolist()
        total = sum(entry.file_size for entry in entries)
        unpacking.check_total(total)
        check_room(unpacking.folder, total, unpacking.archive)
        for entry in progress_bar(entries, desc=f"unpacking {unpacking.archive.name}", leave=False, disable=not progress):
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise unpacking.refused(entry.filename, "is a link or a device")
            if entry.is_dir():
                unpacking.add_folder(entry.filename)
            else:
                with file.open(entry) as content:
                    unpacking.add_file(entry.filename, content, entry.file_size)


def fill_from_tar(unpacking: Unpacking, stream: IO[bytes], progress: bool) -> None:
    """Entries of a tar archive from its bytes, which are read to the end: there stands the checksum of what packs them."""
    bounded = Bounded(stream, unpacking)
    with tarfile.open(fileobj=bounded, mode="r|", tarinfo=StrictTarInfo) as file:
        for entry in progress_bar(file, desc=f"unpacking {unpacking.archive.name}", leave=False, disable=not progress):
            if not (entry.isreg() or entry.isdir()):
                raise unpacking.refused(entry.name, "is a link or a device")
            if entry.isdir():
                unpacking.add_folder(entry.name)
            else:
                unpacking.add_file(entry.name, file.extractfile(entry), entry.size)
    while bounded.read(PIECE):
        pass


class StrictTarInfo(tarfile.TarInfo):
    """An entry of a tar archive; a damaged one is an error, where Python's own reader takes it for the archive's end."""

    @classmethod
    def fromtarfile(cls, file: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(file)
        except tarfile.EOFHeaderError:  # the mark of the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"entry at byte {file.offset}: {error}") from error


class Bounded:
    """A stream that may not bring more bytes than an archive's content may have."""

    def __init__(self, stream: IO[bytes], unpacking: Unpacking) -> None:
        self.stream, self.unpacking, self.total = stream, unpacking, 0

    def read(self, n: int) -> bytes:
        piece = self.stream.read(n)
        self.total += len(piece)
        self.unpacking.check_total(self.total)
        return piece


class Unpacking:
    """A folder that entries of an archive are written into, as long as they keep to the rules."""

    def __init__(self, archive: Path, folder: Path, most: int) -> None:
        self.archive, self.folder, self.most = archive, folder, most
        self.entries = self.written = 0

    def refused(self, name: str, why: str) -> ClipnotesError:
        shown = name if len(name) <= 80 else f"{name[:80]}..."
        return ClipnotesError(f"Archive {self.archive}: entry {shown!r} {why}, so nothing was unpacked; get the archive from a "
                              "source that you trust.")

    def check_total(self, n_bytes: int) -> None:
        """ClipnotesError where the content is larger than it may be."""
        if n_bytes > self.most:
            size = self.archive.stat().st_size
            raise ClipnotesError(f"Archive {self.archive} of {size / 1e6:,.1f} MB would become more than {self.most / 1e6:,.1f}"
                                 " MB, which no archive of images does, so nothing was unpacked; get it from a source that you "
                                 "trust, or unpack it by hand.")

    def path(self, name: str) -> Path:
        """Where an entry goes, by the letters of its name alone; both kinds of slashes part folders, on any system."""
        path = PureWindowsPath(name)
        if path.drive or path.root or ".." in path.parts or "\0" in name:
            raise self.refused(name, "would leave the folder")
        sizes = [len(os.fsencode(part)) for part in path.parts]
        if max(sizes, default=0) > NAME or sum(sizes) + len(sizes) > PATH:
            raise self.refused(name, f"has a name of more than {NAME} bytes or a path of more than {PATH}")
        return self.folder.joinpath(*path.parts)

    def add_folder(self, name: str) -> None:
        self.entries += 1
        self.path(name).mkdir(parents=True, exist_ok=True)

    def add_file(self, name: str, content: IO[bytes], size: int) -> None:
        """Write an entry of the size that the archive announces, which must be true."""
        self.entries += 1
        self.written += size
        self.check_total(self.written)
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            shutil.copyfileobj(content, file, PIECE)
            if file.tell() != size:
                raise tarfile.ReadError(f"entry {name!r} has {file.tell()} bytes, not {size}")


def check_way(archive: Path, source: Path, folder: Path) -> None:
    """ClipnotesError where something in `folder` is in the way of what `source` holds: a link, or a file for a folder."""
    for entry in source.rglob("*"):
        target = folder / entry.relative_to(source)
        if entry.is_dir() and (target.is_symlink() or target.exists() and not target.is_dir()) \
                or not entry.is_dir() and target.is_dir() and not target.is_symlink():
            kind = "a link" if target.is_symlink() else "a folder" if target.is_dir() else "a file"
            raise ClipnotesError(f"{target} is {kind} and in the way of what archive {archive} holds, so nothing was unpacked; "
                                 "move it elsewhere.")


def move_into(source: Path, folder: Path) -> None:
    """Move what a folder holds into another one; links in the place of files are replaced, never followed."""
    for entry in source.iterdir():
        target = folder / entry.name
        if entry.is_dir() and target.is_dir():
            move_into(entry, target)
        else:
            os.replace(entry, target)

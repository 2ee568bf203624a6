"""Archives: unpacked inside their folder, whole or not at all."""
from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

from tqdm.auto import tqdm

from clipnotes.errors import ClipnotesError


def unpack(archive, folder, progress=True):
    """Unpack a zip or tar file (plain, gz, bz2 or xz) into `folder`; returns the folder.

    Everything is unpacked aside first and then moved in place: folders that are there already are merged, files replaced.
    Raises ClipnotesError for a file of another kind, a damaged one, and entries that would leave the folder or are neither
    file nor folder nor link inside it.
    """
    archive, folder = Path(archive), Path(folder)
    aside = folder / f".{archive.name}.unpacking"
    shutil.rmtree(aside, ignore_errors=True)  # of a killed run
    aside.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            unpack_zip(archive, aside, progress)
        elif tarfile.is_tarfile(archive):
            unpack_tar(archive, aside, progress)
        else:
            raise ClipnotesError(f"{archive} is neither a zip nor a tar archive; remove it and fetch it again")
        move_into(aside, folder)
    except tarfile.FilterError as error:
        raise refused(archive, error.tarinfo.name, "would leave the folder or is no plain file") from error
    except (OSError, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise ClipnotesError(f"archive {archive} cannot be unpacked in {folder} ({error}); if the disk is not full, remove the "
                             "archive and fetch it again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def unpack_zip(archive, folder, progress):
    with zipfile.ZipFile(archive) as file:
        entries = file.infolist()
        for entry in entries:
            check_name(archive, entry.filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise refused(archive, entry.filename, "is a link or a device")
        for entry in tqdm(entries, desc=f"unpacking {archive.name}", leave=False, disable=not progress):
            file.extract(entry, folder)


def unpack_tar(archive, folder, progress):
    def inside(member, path):
        check_name(archive, member.name)  # the filter itself would make an absolute path relative
        return tarfile.data_filter(member, path)

    with tarfile.open(archive) as file:
        for member in tqdm(file, desc=f"unpacking {archive.name}", leave=False, disable=not progress):
            file.extract(member, folder, filter=inside)


def check_name(archive, name):
    """ClipnotesError for the name of an entry that is absolute or goes up, in the notation of any system."""
    path = PureWindowsPath(name)  # it takes both kinds of slashes
    if path.drive or path.root or ".." in path.parts:
        raise refused(archive, name, "would leave the folder")


def refused(archive, name, why):
    return ClipnotesError(f"archive {archive}: entry {name!r} {why}, so nothing was unpacked; get the archive from a source "
                          "that you trust")


def move_into(source, folder):
    """Move what a folder holds into another one."""
    for entry in source.iterdir():
        target = folder / entry.name
        if target.is_dir() and entry.is_dir() and not entry.is_symlink():
            move_into(entry, target)
        else:
            os.replace(entry, target)

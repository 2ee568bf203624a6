"""Getting a data set by its manifest: torchvision's download, archives, and what is left to do by hand."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clipnotes.data.manifests import load_manifest
from clipnotes.downloads.archives import unpack
from clipnotes.downloads.download import DownloadError, check_room, download, refusals
from clipnotes.errors import ClipnotesError
from clipnotes.files import lock

UNPACKED = 2.1  # disk space that an archive of images takes together with its content, in sizes of the archive


def fetch(name: str, data_root: str | Path = "data", report: Callable[[str], object] = print, progress: bool = True) -> None:
    """Get a data set into the data root, by the manifest's fields torchvision and archives; tells `report` what it does.

    What is there already is neither fetched nor unpacked again, and what was broken off goes on: until all is done, a file
    DATA_ROOT/.NAME.fetching says so. Of a data set that came by another way, only the plain files of the manifest that are
    missing are fetched, such as its split file. `check_dataset` says whether the images are whole.
    Raises ClipnotesError for an unknown data set and one that only a person can get, with the steps; DownloadError where
    something failed or steps for a person remain.
    """
    manifest, data_root = load_manifest(name), Path(data_root)
    by_hand = (manifest.manual or manifest.obtain or f"see {manifest.homepage or manifest.path}").rstrip(".")
    begun = data_root / f".{manifest.name}.fetching"
    here = manifest.status(data_root) != "missing" and not begun.is_file()
    archives = [archive for archive in manifest.archives
                if not (here if "folder" in archive else (data_root / archive["file"]).is_file())]
    if here and not archives:
        where = "built in" if manifest.built_in else f"here, in {data_root}"
        report(f"{manifest.name} is {where}; nothing to fetch.")
        return
    if not (manifest.torchvision or manifest.archives):
        raise ClipnotesError(f"{manifest.name} cannot be fetched by a command: {by_hand}.")
    with refusals(data_root), lock(data_root / manifest.name):
        if not here:
            begun.touch()
        if manifest.torchvision and not here:
            fetch_torchvision(manifest.torchvision, data_root, by_hand, report)
        for archive in archives:
            fetch_archive(archive, data_root, report, progress)
        begun.unlink(missing_ok=True)
    if manifest.status(data_root) == "missing":
        raise DownloadError(f"{manifest.name} is not complete yet, this remains to do by hand: {by_hand}.")
    report(f"{manifest.name} is here; `clipnotes data check {name}` opens every image of it.")
    if manifest.manual:
        report(f"By hand: {manifest.manual}")


def fetch_torchvision(spec: dict, data_root: Path, by_hand: str, report: Callable[[str], object] = print) -> None:
    """Let a class of torchvision.datasets download, check and unpack a data set under its root."""
    from torchvision import datasets

    root = data_root / spec.get("root", "")
    root.mkdir(parents=True, exist_ok=True)
    report(f"torchvision's {spec['class']} goes to {root}")
    check_room(root, UNPACKED * spec.get("size", 0), f"torchvision's {spec['class']}")
    try:
        getattr(datasets, spec["class"])(root=str(root), download=True, **spec.get("args", {}))
    except Exception as error:  # each of its downloads has errors of its own
        raise DownloadError(f"Torchvision could not get {spec['class']} ({error}); try again, or do it by hand: "
                            f"{by_hand}.") from error


def fetch_archive(archive: dict, data_root: Path, report: Callable[[str], object] = print, progress: bool = True) -> None:
    """Download one file of a manifest's archives and, where it names a folder, unpack it there, once."""
    path = data_root / archive["file"]
    folder = archive.get("folder")
    done = None if folder is None else data_root / folder / f".{path.name}.unpacked"
    if done and done.is_file():
        report(f"{path} was unpacked before")
        return
    report(f"{archive['url']} goes to {path}")
    download(archive["url"], path, archive.get("size"), archive.get("sha256"), archive.get("md5"),
             room=UNPACKED if done else 1.0, progress=progress)
    if done:
        unpack(path, done.parent, progress)
        done.touch()
        report(f"{path} is unpacked in {done.parent} and may be deleted")

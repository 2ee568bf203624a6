"""Downloads from a server on this machine: resumed, verified, refused; archives; whole data sets by their manifest."""

import errno
import hashlib
import io
import json
import re
import shutil
import socket
import stat
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from clipnotes.cli.main import main
from clipnotes.data import load_task
from clipnotes.downloads import archives
from clipnotes.downloads.archives import unpack
from clipnotes.downloads.download import DownloadError, UnreachableError, download
from clipnotes.downloads.fetch import fetch
from clipnotes.errors import ClipnotesError

BODY = np.random.default_rng(0).bytes(400_000)
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()


def says(message, kind=ClipnotesError):
    return pytest.raises(kind, match=message)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def closed_port():
    """An address on which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


# --- one file -----------------------------------------------------------------------------------------------------


def test_a_file_arrives_whole_and_is_not_fetched_twice(web, tmp_path):
    web.files["/a.bin"] = BODY
    for _ in range(2):
        path = download(f"{web.address}/a.bin", tmp_path / "deep" / "a.bin", len(BODY), SHA256, MD5, progress=False)
        assert path.read_bytes() == BODY and names(path.parent) == ["a.bin"]
    assert len(web.requests) == 1


@pytest.mark.parametrize("ranges, etag", [(True, '"1"'), (False, '"1"'), (True, None), (True, 'W/"1"')])
def test_a_dropped_connection_is_taken_up_where_the_server_allows_it(web, tmp_path, ranges, etag):
    web.files["/a.bin"], web.drop_after, web.ranges, web.etag = BODY, 300_000, ranges, etag
    path = download(f"{web.address}/a.bin", tmp_path / "a.bin", sha256=SHA256, progress=False)
    assert path.read_bytes() == BODY and names(tmp_path) == ["a.bin"]
    (_, first), (_, second) = web.requests
    assert first is None
    if etag == '"1"':  # a weak validator, or none, cannot say that the bytes are the same
        assert 0 < int(re.fullmatch(r"bytes=(\d+)-", second)[1]) <= 300_000
    else:
        assert second is None


def broken_off(web, path):
    """Leave what a download has when it is killed on its way."""
    web.files["/a.bin"], web.drop_after = BODY, 300_000
    with says("cannot be fetched", UnreachableError):
        download(f"{web.address}/a.bin", path, attempts=1, progress=False)
    assert not path.exists() and 0 < path.with_name("a.bin.part").stat().st_size <= 300_000


def test_a_later_run_goes_on(web, tmp_path):
    broken_off(web, tmp_path / "a.bin")
    arrived = (tmp_path / "a.bin.part").stat().st_size
    assert download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == BODY
    assert web.requests[1] == ("/a.bin", f"bytes={arrived}-")


def test_a_file_that_has_changed_meanwhile_is_fetched_anew(web, tmp_path):
    broken_off(web, tmp_path / "a.bin")
    web.files["/a.bin"], web.etag = BODY[::-1], '"2"'
    assert download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == BODY[::-1]


def test_a_part_of_another_address_is_not_taken_up(web, tmp_path):
    broken_off(web, tmp_path / "a.bin")
    web.files["/mirror/a.bin"] = BODY[::-1]
    assert download(f"{web.address}/mirror/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == BODY[::-1]


def test_a_run_killed_before_the_last_step_needs_no_further_byte(web, tmp_path):
    web.files["/a.bin"], url = BODY, f"{web.address}/a.bin"
    (tmp_path / "a.bin.part").write_bytes(BODY)
    (tmp_path / "a.bin.part.json").write_text(json.dumps({"url": url, "validator": web.etag}))
    assert download(url, tmp_path / "a.bin", sha256=SHA256, progress=False).read_bytes() == BODY
    assert web.requests == [("/a.bin", f"bytes={len(BODY)}-")]


def test_a_part_that_is_too_long_is_thrown_away(web, tmp_path):
    web.files["/a.bin"], url = BODY, f"{web.address}/a.bin"
    (tmp_path / "a.bin.part").write_bytes(BODY + b"x")
    (tmp_path / "a.bin.part.json").write_text(json.dumps({"url": url, "validator": web.etag}))
    assert download(url, tmp_path / "a.bin", progress=False).read_bytes() == BODY


def test_a_busy_server_is_asked_again_but_not_for_ever(web, tmp_path):
    web.files["/a.bin"], web.statuses = BODY, [503, 429, 500]
    assert download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == BODY
    web.statuses = [503] * 9
    with says(r"cannot be fetched \(HTTP 503 .*, 3 attempts\); check the network .* put it at .*b.bin$", UnreachableError):
        download(f"{web.address}/a.bin", tmp_path / "b.bin", attempts=3, progress=False)
    assert len(web.statuses) == 6 and names(tmp_path) == ["a.bin"]


def test_without_a_network_it_says_where_to_put_the_file(tmp_path, web):
    with says(r"^http://127.0.0.1:\d+/a.zip cannot be fetched \(ConnectionError, 2 attempts\); .* put it at .*a.zip$",
              UnreachableError):
        download(f"{closed_port()}/a.zip", tmp_path / "a.zip", attempts=2, progress=False)
    assert names(tmp_path) == []


def test_a_missing_file_is_not_asked_for_again(web, tmp_path):
    with says(r"/gone.tar.gz cannot be fetched \(HTTP 404 Not Found\); .* moved. .*/gone.tar.gz$", DownloadError):
        download(f"{web.address}/gone.tar.gz", tmp_path / "gone.tar.gz", progress=False)
    assert len(web.requests) == 1 and names(tmp_path) == []


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_leaves_nothing(web, tmp_path, kind):
    web.files["/a.bin"] = BODY
    found, wanted = hashlib.new(kind, BODY).hexdigest(), hashlib.new(kind, b"").hexdigest()
    with says(f"a.bin has {kind} {found}, but {wanted} was expected; it was removed. .* put it at .*a.bin$", DownloadError):
        download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False, **{kind: wanted})
    assert names(tmp_path) == []


def test_a_file_of_another_size_is_not_even_begun(web, tmp_path):
    web.files["/a.bin"] = BODY
    with says("has 400000 bytes, but 7 were expected", DownloadError):
        download(f"{web.address}/a.bin", tmp_path / "a.bin", size=7, progress=False)
    assert names(tmp_path) == []


def test_a_file_put_there_by_hand_is_checked_but_never_removed(web, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"other")
    with says("a.bin has 5 bytes, but 400000 were expected; remove it, and it is fetched again", DownloadError):
        download(f"{web.address}/a.bin", tmp_path / "a.bin", size=len(BODY), progress=False)
    assert (tmp_path / "a.bin").read_bytes() == b"other" and not web.requests


def test_room_on_the_disk_is_asked_for_first(web, tmp_path, monkeypatch):
    web.files["/a.bin"] = BODY
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1.5 * len(BODY)))
    with says(f"a.bin needs 0.0 GB in {tmp_path}, but only 0.0 GB are free; free some space", DownloadError):
        download(f"{web.address}/a.bin", tmp_path / "a.bin", room=2.0, progress=False)
    assert names(tmp_path) == []
    download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False)


def test_a_full_disk_keeps_what_has_arrived(web, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    web.files["/a.bin"] = BODY
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with says(f"the disk of {tmp_path} is full; free some space and try again", DownloadError):
            download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False)
    assert not (tmp_path / "a.bin").exists()
    assert download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == BODY
    assert web.requests[1][1] == f"bytes={len(BODY)}-"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a.b/c", "a.zip", ""])
def test_only_web_addresses_are_fetched(url, tmp_path):
    with says(f"^address '{url}' cannot be fetched; it must begin with http:// or https://$"):
        download(url, tmp_path / "a.zip")


# --- archives -----------------------------------------------------------------------------------------------------

FILES = {"pets/images/a.txt": b"A", "pets/images/b/c.txt": b"C" * 5000, "pets/empty.txt": b""}


def make_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def make_tar(path, files, change=None):
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as file:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if change:
                change(member)
            file.addfile(member, io.BytesIO(content))
    return path


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_archives_are_unpacked_and_merged(tmp_path, name):
    archive = (make_zip if name == "a.zip" else make_tar)(tmp_path / name, FILES)
    folder = tmp_path / "data"
    (folder / "pets" / "images").mkdir(parents=True)
    (folder / "pets" / "images" / "mine.txt").write_bytes(b"M")
    (folder / "pets" / "empty.txt").write_bytes(b"old")
    assert unpack(archive, folder, progress=False) == folder
    assert contents(folder) == FILES | {"pets/images/mine.txt": b"M"}
    assert names(folder) == ["pets"]


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "C:\\evil.txt", "..\\evil.txt"])
@pytest.mark.parametrize("make, file", [(make_zip, "a.zip"), (make_tar, "a.tar.gz")])
def test_an_entry_that_leaves_the_folder_is_refused(tmp_path, name, make, file):
    archive = make(tmp_path / file, {"good.txt": b"1", name: b"2"})
    shown = re.escape(repr(name))
    with says(f"^archive .*{file}: entry {shown} would leave the folder, so nothing was unpacked"):
        unpack(archive, tmp_path / "data", progress=False)
    assert names(tmp_path / "data") == [] and names(tmp_path) == [file, "data"]


def link_to(target, kind=tarfile.SYMTYPE):
    def change(member):
        member.type, member.linkname, member.size = kind, target, 0

    return change


@pytest.mark.parametrize(
    "change",
    [link_to("/etc/passwd"), link_to("../../x"), link_to("../x", tarfile.LNKTYPE), link_to("", tarfile.CHRTYPE),
     link_to("", tarfile.FIFOTYPE)],
)
def test_links_out_of_the_folder_and_devices_are_refused(tmp_path, change):
    archive = make_tar(tmp_path / "a.tar", {"x/evil": b""}, change)
    with says("entry 'x/evil' would leave the folder or is no plain file, so nothing was unpacked"):
        unpack(archive, tmp_path / "data", progress=False)
    assert names(tmp_path / "data") == []


def test_a_link_in_a_zip_is_refused(tmp_path):
    entry = zipfile.ZipInfo("evil")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(entry, "/etc/passwd")
    with says("entry 'evil' is a link or a device, so nothing was unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "data", progress=False)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.xz"])
def test_a_damaged_archive_leaves_nothing(tmp_path, name):
    files = {f"{i}.bin": np.random.default_rng(i).bytes(20_000) for i in range(5)}
    archive = (make_zip if name == "a.zip" else make_tar)(tmp_path / name, files)
    whole = archive.read_bytes()
    archive.write_bytes(whole[:40_000] + bytes(100) + whole[40_100:] if name == "a.zip" else whole[:70_000])
    with says(f"^archive .*{name} cannot be unpacked in .*; if the disk is not full, remove the archive and fetch it again$"):
        unpack(archive, tmp_path / "data", progress=False)
    assert names(tmp_path / "data") == []


def test_what_is_no_archive_is_said(tmp_path):
    (tmp_path / "a.zip").write_text("<html>Sorry</html>")
    with says("a.zip is neither a zip nor a tar archive; remove it and fetch it again"):
        unpack(tmp_path / "a.zip", tmp_path / "data")


def test_what_a_killed_unpacking_left_is_cleared_away(tmp_path):
    (tmp_path / ".a.zip.unpacking" / "half").mkdir(parents=True)
    unpack(make_zip(tmp_path / "a.zip", {"x.txt": b"X"}), tmp_path, progress=False)
    assert names(tmp_path) == ["a.zip", "x.txt"]


# --- data sets ----------------------------------------------------------------------------------------------------


def picture():
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "JPEG")
    return stream.getvalue()


def pets(web, folder, **change):
    """The path of a manifest of two pictures that lie on the server, as an archive and a split file."""
    rows = [["cat/1.jpg", 0, "cat"], ["dog/2.jpg", 1, "dog"]]
    split = {"train": rows, "val": [], "test": rows[1:] + rows[:1]}
    archive = make_zip(folder / "served.zip", {"images/cat/1.jpg": picture(), "images/dog/2.jpg": picture()}).read_bytes()
    web.files = {"/pets.zip": archive, "/split.json": json.dumps(split).encode()}
    manifest = {
        "name": "pets", "title": "Pets", "task": "cats and dogs", "licence": "CC0", "classes": ["cat", "dog"],
        "templates": ["a photo of a {}."], "counts": {"train": 2, "val": 0, "test": 2},
        "source": {"kind": "split-file", "images": "pets/images", "file": "pets/split.json"},
        "archives": [
            {"url": f"{web.address}/pets.zip", "file": "pets.zip", "folder": "pets", "size": len(archive),
             "md5": hashlib.md5(archive).hexdigest()},
            {"url": f"{web.address}/split.json", "file": "pets/split.json"},
        ],
        "obtain": "Write to the authors.",
    } | change
    path = folder / "pets.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in manifest.items() if value is not None}))
    return str(path)


def cli(capsys, *arguments):
    """(exit code, stdout, stderr) of `clipnotes data ARGUMENTS`."""
    with pytest.raises(SystemExit) as caught:
        main(["data", *map(str, arguments)])
    output = capsys.readouterr()
    return caught.value.code, output.out, output.err


def test_a_data_set_is_fetched_once(web, tmp_path, capsys):
    manifest, root = pets(web, tmp_path), tmp_path / "data"
    code, out, _ = cli(capsys, "fetch", manifest, "--data-root", root)
    assert code == 0 and "/pets.zip goes to" in out and "is unpacked in" in out and "pets is here; `clipnotes data check" in out
    assert len(load_task(manifest, data_root=root).train.images) == 2
    assert cli(capsys, "check", manifest, "--data-root", root)[0] == 0
    code, out, _ = cli(capsys, "fetch", manifest, "--data-root", root)
    assert (code, out) == (0, f"pets is here, in {root}; nothing to fetch.\n") and len(web.requests) == 2


def test_a_fetch_goes_on_after_a_failure_and_unpacks_once(web, tmp_path, capsys, monkeypatch):
    manifest, root = pets(web, tmp_path), tmp_path / "data"
    split = web.files.pop("/split.json")
    code, _, err = cli(capsys, "fetch", manifest, "--data-root", root)
    assert code == 1 and "split.json cannot be fetched (HTTP 404 Not Found)" in err and err.count("\n") == 1
    (root / "pets.zip").unlink()  # what is unpacked is needed no more
    web.files["/split.json"] = split
    code, out, _ = cli(capsys, "fetch", manifest, "--data-root", root)
    assert code == 0 and "pets.zip was unpacked before" in out
    assert [path for path, _ in web.requests] == ["/pets.zip", "/split.json", "/split.json"]
    shutil.rmtree(root / "pets")  # who removes the folder gets it back
    assert cli(capsys, "fetch", manifest, "--data-root", root)[0] == 0


def test_images_put_there_by_hand_are_kept_and_only_the_split_file_is_fetched(web, tmp_path):
    source = {"kind": "class-folders", "images": "pets/images", "file": "pets/split.json", "split": {"train": 0.5, "val": 0.2}}
    manifest, root = pets(web, tmp_path, source=source, manual="Sign the form."), tmp_path / "data"
    unpack(tmp_path / "served.zip", root / "pets", progress=False)
    for _ in range(2):
        lines = []
        fetch(manifest, root, report=lines.append, progress=False)
        assert [path for path, _ in web.requests] == ["/split.json"]
    assert "nothing to fetch" in lines[-1] and names(root) == [".pets.lock", "pets"]


def test_a_fetch_broken_off_after_the_images_were_there_is_not_done(web, tmp_path):
    source = {"kind": "class-folders", "images": "pets/images", "file": "pets/split.json", "split": {"train": 0.5, "val": 0.2}}
    manifest, root = pets(web, tmp_path, source=source), tmp_path / "data"
    (root / "pets" / "images" / "cat").mkdir(parents=True)  # as a kill while its first images are written leaves it
    (root / ".pets.fetching").touch()
    fetch(manifest, root, report=lambda line: None, progress=False)
    assert all(path.is_file() for path in load_task(manifest, data_root=root).train.images)
    assert not (root / ".pets.fetching").exists()


def test_an_archive_needs_room_for_its_content_too(web, tmp_path, monkeypatch):
    manifest = pets(web, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * len(web.files["/pets.zip"])))
    with says("pets.zip needs .* are free", DownloadError):
        fetch(manifest, tmp_path / "data", report=lambda line: None, progress=False)


def test_what_only_a_person_can_get_comes_with_the_steps(web, tmp_path, capsys):
    manifest = pets(web, tmp_path, archives=None, manual="Sign the form.")
    code, _, err = cli(capsys, "fetch", manifest, "--data-root", tmp_path / "data")
    assert (code, err) == (2, "Error: pets cannot be fetched by a command: Sign the form.\n")
    assert cli(capsys, "fetch", "no-such-set")[0] == 2
    code, out, _ = cli(capsys, "fetch", "digits")
    assert (code, out) == (0, "digits is built in; nothing to fetch.\n")


def test_what_remains_for_a_person_is_a_failure(web, tmp_path):
    path = pets(web, tmp_path, manual="Put split.json there.",
                archives=[{"url": f"{web.address}/pets.zip", "file": "pets.zip", "folder": "pets"}])
    with says("^pets is not complete yet, this remains to do by hand: Put split.json there.$", DownloadError):
        fetch(path, tmp_path / "data", report=lambda line: None, progress=False)


def test_torchvision_downloads_its_own_sets(web, tmp_path, monkeypatch):
    from torchvision import datasets

    calls = []

    def toy(root, download, **settings):
        calls.append((root, download, settings))
        if len(calls) == 1:
            raise RuntimeError("File not found or corrupted.")
        make_zip(tmp_path / "own.zip", {"images/cat/1.jpg": picture(), "images/dog/2.jpg": picture()})
        archives.unpack(tmp_path / "own.zip", tmp_path / "data" / "pets", progress=False)

    monkeypatch.setattr(datasets, "Toy", toy, raising=False)
    manifest = pets(web, tmp_path, torchvision={"class": "Toy", "args": {"split": "test"}, "root": "pets"},
                    archives=[{"url": f"{web.address}/split.json", "file": "pets/split.json"}])
    with says(r"torchvision could not get Toy \(File not found or corrupted.\); try again, or do it by hand: Write to the"):
        fetch(manifest, tmp_path / "data", report=lambda line: None, progress=False)
    fetch(manifest, tmp_path / "data", report=lambda line: None, progress=False)
    assert calls[1] == (str(tmp_path / "data" / "pets"), True, {"split": "test"})
    assert len(load_task(manifest, data_root=tmp_path / "data").test.images) == 2

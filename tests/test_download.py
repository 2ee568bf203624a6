"""Downloads from a server on this machine: resumed, verified, refused; archives; whole data sets by their manifest."""

import bz2
import errno
import gzip
import hashlib
import io
import json
import lzma
import re
import shutil
import socket
import stat
import tarfile
import tempfile
import threading
import time
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import says
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipnotes.cli.main import main
from clipnotes.data import load_manifest, load_task
from clipnotes.downloads import archives, size_in_words
from clipnotes.downloads.archives import unpack
from clipnotes.downloads.download import DownloadError, UnreachableError, download
from clipnotes.downloads.fetch import fetch
from clipnotes.errors import ClipnotesError
from clipnotes.paths import manifests_dir

BODY = np.random.default_rng(0).bytes(400_000)
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()


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
    with says(r"cannot be fetched \(HTTP 503 .*, 3 attempts\); check the network .* put it at .*b.bin.$", UnreachableError):
        download(f"{web.address}/a.bin", tmp_path / "b.bin", attempts=3, progress=False)
    assert len(web.statuses) == 6 and names(tmp_path) == ["a.bin"]


def test_without_a_network_it_says_where_to_put_the_file(tmp_path, web):
    with says(r"^http://127.0.0.1:\d+/a.zip cannot be fetched \(ConnectionError, 2 attempts\); .* put it at .*a.zip.$",
              UnreachableError):
        download(f"{closed_port()}/a.zip", tmp_path / "a.zip", attempts=2, progress=False)
    assert names(tmp_path) == []


def test_a_missing_file_is_not_asked_for_again(web, tmp_path):
    with says(r"/gone.tar.gz cannot be fetched \(HTTP 404 Not Found\); .* moved. .*/gone.tar.gz.$", DownloadError):
        download(f"{web.address}/gone.tar.gz", tmp_path / "gone.tar.gz", progress=False)
    assert len(web.requests) == 1 and names(tmp_path) == []


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_leaves_nothing(web, tmp_path, kind):
    web.files["/a.bin"] = BODY
    found, wanted = hashlib.new(kind, BODY).hexdigest(), hashlib.new(kind, b"").hexdigest()
    with says(f"a.bin has {kind} {found}, but {wanted} was expected; it was removed. .* put it at .*a.bin.$", DownloadError):
        download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False, **{kind: wanted})
    assert names(tmp_path) == []


def test_a_server_that_drips_is_left(web, tmp_path, monkeypatch):
    """Every single read is in time, the whole never."""
    monkeypatch.setattr("clipnotes.downloads.download.PATIENCE", 0.5)
    web.files["/a.bin"], web.drip = BODY[:1000], 0.3
    since = time.monotonic()
    with says(r"/a.bin cannot be fetched \(fewer than 64 kB in 0.5 seconds, 2 attempts\); check the network", UnreachableError):
        download(f"{web.address}/a.bin", tmp_path / "a.bin", attempts=2, progress=False)
    assert time.monotonic() - since < 60 and len(web.requests) == 2
    web.drip = 0
    assert download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == BODY[:1000]


def test_a_slow_server_is_waited_for_as_long_as_pieces_come(web, tmp_path, monkeypatch):
    monkeypatch.setattr("clipnotes.downloads.download.PATIENCE", 1.0)
    web.files["/a.bin"], web.drip = BODY, 0.2  # two seconds for all, less than one for a piece
    assert download(f"{web.address}/a.bin", tmp_path / "a.bin", sha256=SHA256, progress=False).read_bytes() == BODY
    assert len(web.requests) == 1


def test_headers_that_drip_are_left(tmp_path, monkeypatch):
    monkeypatch.setattr("clipnotes.downloads.download.PATIENCE", 0.5)

    def drip():
        client = server.accept()[0]
        with suppress(OSError):
            client.sendall(b"HTTP/1.1 200 OK\r\n")
            while not over.wait(0.1):
                client.sendall(b"X: 1\r\n")

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, daemon=True).start()
        with says(r"cannot be fetched \(fewer than 64 kB in 0.5 seconds, 1 attempts\)", UnreachableError):
            download(f"http://127.0.0.1:{server.getsockname()[1]}/a", tmp_path / "a", attempts=1, progress=False)
        over.set()
    assert not list(tmp_path.iterdir())


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
        with says(f"The disk of {tmp_path} is full; free some space and try again", DownloadError):
            download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False)
    assert not (tmp_path / "a.bin").exists()
    assert download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == BODY
    assert web.requests[1][1] == f"bytes={len(BODY)}-"


# --- a server whose answers do not fit what it announces ----------------------------------------------------------


def part_of_it(first, last, total, body, **headers):
    """(status, body, headers) of a 206 answer."""
    return 206, body, {"Content-Range": f"bytes {first}-{last}/{total}", "ETag": '"1"'} | headers


N = len(BODY)
ASTRAY = {  # answers to a request for the rest after 1000 bytes, and what is said of them
    "another place": (part_of_it(2000, N - 1, N, BODY[2000:]), "Content-Range bytes 2000-399999/400000"),
    "an earlier place": (part_of_it(0, N - 1, N, BODY), "Content-Range bytes 0-399999/400000"),
    "not to the end": (part_of_it(1000, 1999, N, BODY[1000:2000]), "Content-Range bytes 1000-1999/400000"),
    "another total": (part_of_it(1000, N, N + 1, BODY[1000:] + b"x"), "of 400000 were asked for"),
    "no total": ((206, BODY[1000:], {"Content-Range": f"bytes 1000-{N - 1}/*", "ETag": '"1"'}), "bytes 1000-399999/\\*"),
    "no range at all": ((206, BODY[1000:], {"ETag": '"1"'}), "Content-Range none"),
    "a length that is not the range's": (part_of_it(1000, N - 1, N, BODY[1000:2000]), "Content-Length 1000"),
    "416 and another length": ((416, b"", {"Content-Range": "bytes */999"}), "HTTP 416 .* bytes \\*/999, when 400000 bytes"),
    "416 for a part of what was announced": ((416, b"", {"Content-Range": "bytes */1000"}), "when 400000 bytes"),
}


def half_way(folder, url):
    """What a killed download leaves after 1000 bytes."""
    (folder / "a.bin.part").write_bytes(BODY[:1000])
    (folder / "a.bin.part.json").write_text(json.dumps({"url": url, "validator": '"1"', "total": N}))


@pytest.mark.parametrize("case", ASTRAY)
def test_a_range_that_was_not_asked_for_is_never_kept(web, tmp_path, case):
    (answer, message), url = ASTRAY[case], f"{web.address}/a.bin"
    half_way(tmp_path, url)
    web.answers = [answer] * 3
    with says(rf"a.bin cannot be fetched \(.*{message}.*; get the file elsewhere", DownloadError):
        download(url, tmp_path / "a.bin", attempts=1, progress=False)
    assert not (tmp_path / "a.bin").exists() and not (tmp_path / "a.bin.part").exists()
    half_way(tmp_path, url)
    web.answers, web.files["/a.bin"] = [answer], BODY  # a server that comes to its senses
    assert download(url, tmp_path / "a.bin", attempts=2, progress=False).read_bytes() == BODY


def test_a_range_that_nobody_asked_for_is_an_error(web, tmp_path):
    web.answers = [part_of_it(0, N - 1, N, BODY)] * 2
    with says("a part of the file with Content-Range bytes 0-399999/400000", DownloadError):
        download(f"{web.address}/a.bin", tmp_path / "a.bin", attempts=2, progress=False)
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("headers", [{}, {"Transfer-Encoding": "identity"}])
def test_a_body_shorter_than_announced_is_never_kept(web, tmp_path, headers):
    web.answers = [(200, BODY[:1000], {"Content-Length": N} | headers)] * 9
    with says("a.bin cannot be fetched .* 2 attempts", DownloadError):
        download(f"{web.address}/a.bin", tmp_path / "a.bin", attempts=2, progress=False)
    assert not (tmp_path / "a.bin").exists()


def test_a_client_library_that_counts_nothing_is_not_relied_on(web, tmp_path, monkeypatch):
    monkeypatch.setattr("requests.Response.iter_content", lambda self, size: iter([BODY[:1000]]))
    web.files["/a.bin"] = BODY
    with says("1000 bytes came where the server announced 400000", DownloadError):
        download(f"{web.address}/a.bin", tmp_path / "a.bin", attempts=1, progress=False)
    assert not (tmp_path / "a.bin").exists()


def test_a_body_whose_end_nothing_tells_needs_a_size_or_a_checksum(web, tmp_path):
    web.answers = [(200, BODY, {"Content-Length": None})] * 2
    with says("a.bin does not say how long it is, so that a part of it would pass for the whole", DownloadError):
        download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False)
    assert names(tmp_path) == []
    assert download(f"{web.address}/a.bin", tmp_path / "a.bin", size=N, progress=False).read_bytes() == BODY


RANGE = st.one_of(st.none(), st.tuples(st.sampled_from([0, 500, 1000, 1001, N - 1]), st.sampled_from([999, 2000, N - 2, N - 1]),
                                       st.sampled_from([N, N - 1, N + 5, "*"])))
ANSWER = st.tuples(st.sampled_from([200, 200, 206, 206, 206, 416, 404, 429, 503]), RANGE,
                   st.sampled_from([None, N, N - 1000, 1000, "many", "true"]), st.sampled_from([1.0, 0.5, 0.0]),
                   st.sampled_from([None, '"1"', '"2"', 'W/"1"']), st.sampled_from([None, None, "gzip", "identity"]))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(answers=st.lists(ANSWER, min_size=1, max_size=4), begun=st.booleans(), then=st.booleans())
def test_whatever_a_server_answers_the_file_is_whole_or_is_not_there(web, answers, begun, then):
    """Random answers, each of true bytes from where its range says, but for lies about ranges, totals, lengths and ends.

    then: whether the server comes to its senses. The only lie that nobody could see, another file of its own length, is left
    out: answers of the whole file announce its true length or none.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder, url = Path(folder), f"{web.address}/a.bin"
        web.files = {"/a.bin": BODY} if then else {}
        web.answers = []
        for status, byte_range, length, share, etag, packing in answers:
            first, last, total = byte_range or (0, N - 1, None)
            body = (BODY if status == 200 else BODY[first:last + 1]) if status < 300 else b""
            body = body[:int(share * len(body))]
            length = len(body) if length == "true" else length
            if status == 200 and length != N:
                length = "many" if length == "many" else None
            content_range = f"bytes {first}-{last}/{total}" if byte_range else None
            content_range = f"bytes */{total or N}" if status == 416 else content_range
            web.answers.append((status, body, {"Content-Length": length, "Content-Range": content_range, "ETag": etag,
                                               "Content-Encoding": packing}))
        if begun:
            half_way(folder, url)
        try:
            assert download(url, folder / "a.bin", attempts=3, progress=False).read_bytes() == BODY
        except DownloadError as error:
            assert not (folder / "a.bin").exists() and "\n" not in str(error)


def chunked(body, end=b"0\r\n\r\n"):
    return f"{len(body):x}\r\n".encode() + body + b"\r\n" + end


def test_a_body_in_chunks_is_whole_with_its_last_chunk(web, tmp_path):
    headers = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    web.answers = [(200, chunked(BODY[:5000], end=b""), headers)] * 2
    with says("a.bin cannot be fetched", DownloadError):
        download(f"{web.address}/a.bin", tmp_path / "a.bin", attempts=2, progress=False)
    assert not (tmp_path / "a.bin").exists()
    web.answers = [(200, chunked(BODY), headers)]
    assert download(f"{web.address}/a.bin", tmp_path / "a.bin", progress=False).read_bytes() == BODY


@pytest.mark.parametrize("length", ["many", "-5", "1e3", "", "9" * 40])
def test_lengths_that_are_none(web, tmp_path, length):
    web.answers = [(200, BODY, {"Content-Length": length})] * 2
    with pytest.raises(DownloadError):
        download(f"{web.address}/a.bin", tmp_path / "a.bin", attempts=1, progress=False)
    assert not (tmp_path / "a.bin").exists()


def test_files_packed_on_the_way_are_refused_and_packed_files_stay_packed(web, tmp_path):
    packed = gzip.compress(BODY)
    for name in ("a.json", "a.tar.gz"):
        web.answers = [(200, packed, {"Content-Encoding": "x-gzip"})]
        if name == "a.json":
            with says("a.json comes packed as x-gzip, though it was asked for as it is", DownloadError):
                download(f"{web.address}/{name}", tmp_path / name, progress=False)
        else:
            assert download(f"{web.address}/{name}", tmp_path / name, progress=False).read_bytes() == packed
    assert names(tmp_path) == ["a.tar.gz"]


@pytest.mark.parametrize("content", ["[]", "null", "{", '{"url": 1}', '{"url": "URL", "validator": 5, "total": "x"}', "\0"])
def test_notes_beside_a_part_that_are_none_start_it_afresh(web, tmp_path, content):
    web.files["/a.bin"], url = BODY, f"{web.address}/a.bin"
    (tmp_path / "a.bin.part").write_bytes(b"else")
    (tmp_path / "a.bin.part.json").write_text(content.replace("URL", url))
    assert download(url, tmp_path / "a.bin", progress=False).read_bytes() == BODY


PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.mark.parametrize("body, words", [(PAGE, "is a web page"), (POINTER, "is a pointer of Git LFS"), (b"", "is an empty")])
def test_a_page_in_a_files_place_is_not_kept(web, tmp_path, body, words):
    web.files["/a.json"] = body
    with says(f"What came from http://.*/a.json {words}.*; it was removed. Try again, or get a.json elsewhere", DownloadError):
        download(f"{web.address}/a.json", tmp_path / "a.json", progress=False)
    assert names(tmp_path) == []
    (tmp_path / "a.json").write_bytes(body)  # saved by hand
    with says(f"a.json {words}.*; remove it, and it is fetched again from http", DownloadError):
        download(f"{web.address}/a.json", tmp_path / "a.json", progress=False)
    download(f"{web.address}/a.json", tmp_path / "b.json", sha256=hashlib.sha256(body).hexdigest(), progress=False)


def test_a_web_page_that_is_meant_is_kept(web, tmp_path):
    web.files["/a.html"] = PAGE
    assert download(f"{web.address}/a.html", tmp_path / "a.html", progress=False).read_bytes() == PAGE


# --- what the operating system refuses ----------------------------------------------------------------------------


def test_whatever_the_system_refuses_is_one_sentence(web, tmp_path):
    web.files["/a.bin"], url = BODY, f"{web.address}/a.bin"
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a.bin.part").mkdir()
    for path, message in ((tmp_path / "file" / "a.bin", "/file/?.*: (Not a directory|File exists)"),
                          (tmp_path / ("x" * 300), "x{30}.*: File name too long"),
                          (tmp_path / "loop" / "a.bin", "loop.*: (Too many levels|File exists)"),
                          (tmp_path / "a.bin", "a.bin.part: Is a directory")):
        with says(message, DownloadError) as caught:
            download(url, path, attempts=1, progress=False)
        assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://", "http://[", "http://a b.c/d", "http://" + "x" * 300 + "/", "http://\u2603\u0000/a",
                                 "http://127.0.0.1:99999/a"])
def test_addresses_that_are_none(url, tmp_path):
    with pytest.raises(DownloadError):
        download(url, tmp_path / "a.bin", attempts=1, progress=False)
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a.b/c", "a.zip", ""])
def test_only_web_addresses_are_fetched(url, tmp_path):
    with says(f"^Address '{url}' cannot be fetched; it must begin with http:// or https://.$"):
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
    with says(f"^Archive .*{file}: entry {shown} would leave the folder, so nothing was unpacked"):
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
    with says("entry 'x/evil' is a link or a device, so nothing was unpacked"):
        unpack(archive, tmp_path / "data", progress=False)
    assert names(tmp_path / "data") == []


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_long_chains_of_links_lead_nowhere(tmp_path, suffix):
    """The way around Python's own filter: a chain whose resolved path is too long for the system to resolve it."""
    def entry(name, kind=tarfile.REGTYPE, target="", content=b""):
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, target, len(content)
        return member, io.BytesIO(content)

    long, deep = "d" * 247, ""
    with tarfile.open(tmp_path / f"a{suffix}", f"w:{'gz' if 'gz' in suffix else ''}") as file:
        file.addfile(*entry("good.txt", content=b"1"))
        for step in "abcdefghijklmnop":
            file.addfile(*entry(f"{deep}{long}", tarfile.DIRTYPE))
            file.addfile(*entry(f"{deep}{step}", tarfile.SYMTYPE, long))
            deep += f"{step}/"
        file.addfile(*entry(f"{deep}{'l' * 254}", tarfile.SYMTYPE, "../" * 16))
        file.addfile(*entry("escape", tarfile.SYMTYPE, f"{deep}{'l' * 254}/../../victim"))
        file.addfile(*entry("hard", tarfile.LNKTYPE, "escape"))
        file.addfile(*entry("hard", content=b"overwritten"))
    (tmp_path / "victim").write_bytes(b"mine")
    with says("so nothing was unpacked; get the archive from a source that you trust"):
        unpack(tmp_path / f"a{suffix}", tmp_path / "deep" / "data", progress=False)
    assert (tmp_path / "victim").read_bytes() == b"mine" and names(tmp_path / "deep" / "data") == []


PARTS = st.sampled_from(["a", "b", "c.txt", "..", ".", "", "C:", "\\", "..\\..", "é", "x" * 300, "y" * 240, "~", " "])
NAMES = st.lists(PARTS, min_size=1, max_size=7).map("/".join)
ENTRIES = st.lists(st.tuples(NAMES, st.sampled_from(["file"] * 8 + ["folder", "folder", "link", "hard link"]), NAMES),
                   min_size=1, max_size=6)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(entries=ENTRIES, kind=st.sampled_from(["zip", "tar", "tar.gz"]), there=st.booleans())
def test_whatever_an_archive_holds_nothing_changes_outside_and_all_or_nothing_inside(entries, kind, there):
    types = {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE}
    with tempfile.TemporaryDirectory() as place:
        outside, archive, data = Path(place) / "outside", Path(place) / f"a.{kind}", Path(place) / "deep" / "data"
        outside.mkdir()
        (outside / "c.txt").write_bytes(b"mine")
        data.mkdir(parents=True)
        if there:
            (data / "a").symlink_to(outside)
        if kind == "zip":
            with zipfile.ZipFile(archive, "w") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a name twice
                for name, what, target in entries:
                    entry = zipfile.ZipInfo(name + "/" * (what == "folder"))
                    entry.external_attr = (stat.S_IFLNK | 0o777) << 16 if "link" in what else 0
                    file.writestr(entry, target if "link" in what else b"" if what == "folder" else b"theirs")
        else:
            with tarfile.open(archive, "w:gz" if kind == "tar.gz" else "w") as file:
                for name, what, target in entries:
                    member = tarfile.TarInfo(name)
                    member.type, member.linkname, member.size = types[what], target, 6 * (what == "file")
                    file.addfile(member, io.BytesIO(b"theirs"))
        before = contents(outside)
        try:
            unpack(archive, data, progress=False)
            assert not any("link" in what or ".." in name.replace("\\", "/").split("/") for name, what, _ in entries)
            assert not [path for path in data.rglob("*") if path.is_symlink() and path != data / "a"]
            assert set(contents(data).values()) <= {b"theirs", b"mine"}
        except ClipnotesError as error:
            assert names(data) == (["a"] if there else []) and "\n" not in str(error)
        assert contents(outside) == before and names(Path(place)) == sorted([archive.name, "deep", "outside"])


def test_a_link_in_the_way_of_a_folder_is_refused_and_one_in_a_files_place_replaced(tmp_path):
    (tmp_path / "elsewhere" / "images").mkdir(parents=True)
    (tmp_path / "elsewhere" / "mine.txt").write_bytes(b"mine")
    data = tmp_path / "data"
    (data / "pets").mkdir(parents=True)
    archive = make_zip(tmp_path / "a.zip", FILES)
    (data / "pets" / "images").symlink_to(tmp_path / "elsewhere")
    with says("pets/images is a link and in the way of what archive .*a.zip holds, so nothing was unpacked; move it elsewhere"):
        unpack(archive, data, progress=False)
    assert contents(tmp_path / "elsewhere") == {"mine.txt": b"mine"} and names(data / "pets") == ["images"]
    (data / "pets" / "images").unlink()
    (data / "pets" / "empty.txt").symlink_to(tmp_path / "elsewhere" / "mine.txt")
    unpack(archive, data, progress=False)
    assert contents(tmp_path / "elsewhere") == {"mine.txt": b"mine"} and contents(data) == FILES


def test_a_file_where_a_folder_belongs_is_left_alone(tmp_path):
    data = tmp_path / "data"
    (data / "pets").mkdir(parents=True)
    (data / "pets" / "images").write_bytes(b"mine")
    with says("pets/images is a file and in the way"):
        unpack(make_zip(tmp_path / "a.zip", FILES), data, progress=False)
    assert contents(data) == {"pets/images": b"mine"}


@pytest.mark.parametrize("name", ["x" * 256, "/".join(["y" * 200] * 6), "é" * 128])
@pytest.mark.parametrize("make, file", [(make_zip, "a.zip"), (make_tar, "a.tar")])
def test_names_too_long_for_a_file_system_are_refused(tmp_path, name, make, file):
    with says("has a name of more than 255 bytes or a path of more than 1000, so nothing was unpacked") as caught:
        unpack(make(tmp_path / file, {"good.txt": b"1", name: b"2"}), tmp_path / "data", progress=False)
    assert names(tmp_path / "data") == [] and len(str(caught.value)) < 500


def test_backslashes_part_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        entry = zipfile.ZipInfo("x")
        entry.filename = "pets\\b.txt"
        file.writestr(entry, b"B")
    unpack(tmp_path / "a.zip", tmp_path / "data", progress=False)
    assert contents(tmp_path / "data") == {"pets/b.txt": b"B"}


def bomb(path):
    """An archive of few bytes that would become 20 MB."""
    zeros = bytes(100_000)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for i in range(200):
                file.writestr(f"{i}.bin", zeros)
    else:
        opener = {".gz": lambda p: gzip.open(p, "wb", 1), ".bz2": lambda p: bz2.open(p, "wb"),
                  ".xz": lambda p: lzma.open(p, "wb", preset=0)}[path.suffix]
        with opener(path) as stream, tarfile.open(fileobj=stream, mode="w|") as file:
            for i in range(200):
                member = tarfile.TarInfo(f"{i}.bin")
                member.size = len(zeros)
                file.addfile(member, io.BytesIO(zeros))
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_an_archive_that_would_become_far_larger_is_refused(tmp_path, monkeypatch, name):
    assert archives.SMALL == 100_000_000
    monkeypatch.setattr(archives, "SMALL", 10_000_000)
    archive = bomb(tmp_path / name)
    assert archive.stat().st_size < 200_000
    with says(rf"{name} of 0\.\d MB would become more than 10.0 MB, which no archive of images does"):
        unpack(archive, tmp_path / "data", progress=False)
    assert names(tmp_path / "data") == []
    with says("would become more than 3.0 MB"):
        unpack(archive, tmp_path / "data", progress=False, most=3_000_000)


def test_headers_of_a_tar_cannot_fill_the_memory_either(tmp_path):
    with gzip.open(tmp_path / "a.tar.gz", "wb", 1) as stream:
        header = tarfile.TarInfo("long")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, 150_000_000
        stream.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(150):
            stream.write(b"x" * 1_000_000)
    with says("would become more than 100.0 MB"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "data", progress=False)


def test_a_sparse_entry_counts_as_what_it_becomes(tmp_path):
    header = tarfile.TarInfo("hole")
    header.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "hole",
                          "GNU.sparse.size": str(10**12), "GNU.sparse.map": "0,0"}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as file:
        file.addfile(header)
    with says("would become more than 100.0 MB"):
        unpack(tmp_path / "a.tar", tmp_path / "data", progress=False)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_no_flipped_bit_goes_unseen(tmp_path, name):
    """A bit anywhere: the archive is refused, or, in a field that says nothing of the content, it is unpacked all the same."""
    files = {f"{i}.bin": np.random.default_rng(i).bytes(300) for i in range(5)}
    archive = (make_zip if name == "a.zip" else make_tar)(tmp_path / name, files)
    whole, refused = archive.read_bytes(), 0
    for at in np.random.default_rng(0).integers(0, 8 * len(whole), 60).tolist():
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        archive.write_bytes(flipped)
        try:
            unpack(archive, tmp_path / "data", progress=False)
            found = contents(tmp_path / "data")
            assert name == "a.zip" and sorted(found.values()) == sorted(files.values()) or found == files, at
            shutil.rmtree(tmp_path / "data")
        except ClipnotesError:
            assert names(tmp_path / "data") == []
            refused += 1
    assert refused >= 40


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_tar_that_ends_early_is_damaged_also_between_two_entries(tmp_path, kept):
    files = {f"{i}.bin": bytes(512) for i in range(10)}
    archive = make_tar(tmp_path / "a.tar", files)
    archive.write_bytes(archive.read_bytes()[:int(10 * kept) * 1024])
    with says("a.tar cannot be unpacked .*it is damaged: remove it and fetch it again"):
        unpack(archive, tmp_path / "data", progress=False)
    archive = make_tar(tmp_path / "a.tar", files)
    content = bytearray(archive.read_bytes())
    content[3 * 1024] ^= 1  # in the name of the fourth entry, whose header has a checksum
    archive.write_bytes(content)
    with says("a.tar cannot be unpacked .entry at byte 3072: bad checksum.*; it is damaged"):
        unpack(archive, tmp_path / "data", progress=False)
    assert names(tmp_path / "data") == []


@pytest.mark.parametrize(
    "content, message",
    [
        (b"<!doctype html><html>Sorry</html>", "a.zip is a web page .HTML.*; remove it and fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a.zip is a pointer of Git LFS"),
        (b"", "a.zip is an empty file; remove it"),
        (b"%PDF-1.7" + bytes(600), "a.zip is neither a zip nor a tar archive but a PDF file"),
        (b"\x1f\x8bno", "a.zip cannot be unpacked .*; it is damaged"),
        (gzip.compress(b"one file", mtime=0), "a.zip is neither a zip nor a tar archive but a gzip file"),
        (b"PK\x03\x04" + bytes(100), "a.zip cannot be unpacked .*; it is damaged"),
    ],
)
def test_what_is_no_archive_is_named(tmp_path, content, message):
    (tmp_path / "a.zip").write_bytes(content)
    with says(message):
        unpack(tmp_path / "a.zip", tmp_path / "data")
    assert not (tmp_path / "data").exists() or names(tmp_path / "data") == []


def test_a_full_disk_or_a_file_in_the_way_is_said_while_unpacking(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", FILES)
    (tmp_path / "file").touch()
    with says("file/?.*: (Not a directory|File exists)", DownloadError):
        unpack(archive, tmp_path / "file", progress=False)
    with says("b.zip: No such file", DownloadError):
        unpack(tmp_path / "b.zip", tmp_path / "data", progress=False)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with says(f"The disk of {tmp_path / 'data'} is full; free some space and try again", DownloadError):
            unpack(archive, tmp_path / "data", progress=False)
    assert names(tmp_path / "data") == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4000))
    with says("a.zip needs 0.0 GB in .*, but only 0.0 GB are free", DownloadError):
        unpack(archive, tmp_path / "data", progress=False)


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
    with says(f"^Archive .*{name} cannot be unpacked .*; it is damaged: remove it and fetch it again.$"):
        unpack(archive, tmp_path / "data", progress=False)
    assert names(tmp_path / "data") == []


def test_what_a_killed_unpacking_left_is_cleared_away(tmp_path):
    (tmp_path / ".a.zip.unpacking" / "half").mkdir(parents=True)
    unpack(make_zip(tmp_path / "a.zip", {"x.txt": b"X"}), tmp_path, progress=False)
    assert names(tmp_path) == ["a.zip", "x.txt"]


# --- data sets ----------------------------------------------------------------------------------------------------


def picture():
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "JPEG")
    return stream.getvalue()


PICTURES = ["images/cat/1.jpg", "images/dog/2.jpg", "images/dog/3.jpg", "images/cat/4.jpg"]


def pets(web, folder, **change):
    """The path of a manifest of four pictures that lie on the server, as an archive and a split file."""
    split = {"train": [["cat/1.jpg", 0, "cat"], ["dog/2.jpg", 1, "dog"]], "val": [],
             "test": [["dog/3.jpg", 1, "dog"], ["cat/4.jpg", 0, "cat"]]}
    archive = make_zip(folder / "served.zip", dict.fromkeys(PICTURES, picture())).read_bytes()
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


def test_what_stands_in_an_images_place_is_said_by_the_check(web, tmp_path, capsys):
    manifest, root = pets(web, tmp_path), tmp_path / "data"
    assert cli(capsys, "fetch", manifest, "--data-root", root)[0] == 0
    (root / "pets" / "images" / "cat" / "1.jpg").write_bytes(POINTER)
    (root / "pets" / "images" / "dog" / "2.jpg").write_bytes(PAGE)
    code, _, err = cli(capsys, "check", manifest, "--data-root", root)
    assert code == 1 and "train: Image" in err and "1.jpg is a pointer of Git LFS; the large file" in err
    assert "2.jpg is a web page (HTML)" in err


def test_links_that_lead_nowhere_are_counted_and_checked(web, tmp_path, capsys):
    manifest, root = pets(web, tmp_path), tmp_path / "data"
    fetch(manifest, root, report=lambda line: None, progress=False)
    image = root / "pets" / "images" / "cat" / "1.jpg"
    image.unlink()
    for target in ("gone", "1.jpg"):  # the second is a loop
        image.symlink_to(target)
        assert "on disk" in size_in_words(load_manifest(manifest), root)
        code, _, err = cli(capsys, "check", manifest, "--data-root", root)
        assert code == 1 and "1.jpg" in err and "Traceback" not in err
        image.unlink()


def test_a_fetch_into_an_impossible_place_is_one_sentence(web, tmp_path, capsys):
    manifest = pets(web, tmp_path)
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        code, _, err = cli(capsys, "fetch", manifest, "--data-root", root)
        assert code == 1 and err.count("\n") == 1 and ("file" in err or "xxx" in err), err


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
        make_zip(tmp_path / "own.zip", dict.fromkeys(PICTURES, picture()))
        archives.unpack(tmp_path / "own.zip", tmp_path / "data" / "pets", progress=False)

    monkeypatch.setattr(datasets, "Toy", toy, raising=False)
    manifest = pets(web, tmp_path, torchvision={"class": "Toy", "args": {"split": "test"}, "root": "pets"},
                    archives=[{"url": f"{web.address}/split.json", "file": "pets/split.json"}])
    with says(r"Torchvision could not get Toy \(File not found or corrupted.\); try again, or do it by hand: Write to the"):
        fetch(manifest, tmp_path / "data", report=lambda line: None, progress=False)
    fetch(manifest, tmp_path / "data", report=lambda line: None, progress=False)
    assert calls[1] == (str(tmp_path / "data" / "pets"), True, {"split": "test"})
    assert len(load_task(manifest, data_root=tmp_path / "data").test.images) == 2


# --- what the manifests say of downloads --------------------------------------------------------------------------


def test_downloads_of_the_manifests_have_a_size_or_a_checksum():
    """But two whose authors publish neither; see the notes beside them in the manifests."""
    known = {"size", "sha256", "md5"}
    manifests = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in manifests_dir().glob("*.yaml")]
    bare = [archive["url"] for manifest in manifests for archive in manifest.get("archives", []) if not known & set(archive)]
    assert sorted(url.rpartition("/")[2] for url in bare) == ["CIFAR-10_human.pt", "imagenetv2-matched-frequency.tar.gz"]

"""Downloads: a URL as a file, whole and verified or not at all; one that was broken off goes on where it was."""
from __future__ import annotations

import errno
import hashlib
import json
import os
import queue
import re
import shutil
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import requests

from clipnotes.errors import ClipnotesError, in_words
from clipnotes.file_kinds import stand_in
from clipnotes.progress import progress_bar

PIECE = 1 << 16   # bytes read at a time
TIMEOUT = 30      # seconds without an answer or a further byte
PATIENCE = 120    # seconds in which an answer, and every further piece of it, must be there whole: some servers drip
HTML = ("html", "htm")
PAUSE = 1.0       # seconds before the second attempt; doubled for each further one


class DownloadError(ClipnotesError):
    """A download that failed though it was asked for properly: refused, damaged, no room."""


class UnreachableError(DownloadError):
    """No answer, or none but server errors, in all attempts."""


@contextmanager
def refusals(path: str | Path) -> Iterator[None]:
    """DownloadError in place of whatever the operating system refuses around `path`, with the path and its reason."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DownloadError(f"The disk of {path} is full; free some space and try again, which goes on where it "
                                "was.") from error
        error.filename = path if error.filename is None else error.filename
        raise DownloadError(in_words(error)) from error


def download(url: str, path: str | Path, size: int | None = None, sha256: str | None = None, md5: str | None = None,
             room: float = 1.0, attempts: int = 5, progress: bool = True) -> Path:
    """Fetch `url` (http or https) as the file `path`; returns the path.

    size (bytes) and checksums (hex digits) are checked where given, and always what the server announces: length, range
    and total. A file that is there and fits what is given is kept.
    room: free disk space to ask for, as a multiple of the file's size. attempts: how often to ask in a row without getting
    further, with growing pauses. What has arrived waits as PATH.part; the server is asked for the rest only if it says
    that the file is still the same.

    Raises ClipnotesError for other addresses, and DownloadError, of which UnreachableError is one: the sentence names the
    address and where the file belongs.
    """
    path = Path(path)
    if not str(url).startswith(("http://", "https://")):
        raise ClipnotesError(f"Address {str(url)!r} cannot be fetched; it must begin with http:// or https://.")
    expected = {"size": size, "sha256": sha256, "md5": md5}
    with refusals(path.parent):
        if path.is_file():
            if problem := mismatch(path, expected):
                raise DownloadError(f"{path} {problem}; remove it, and it is fetched again from {url}.")
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        receive_all(url, part, expected, room, attempts, progress)
        validator_file(part).unlink(missing_ok=True)
        if problem := mismatch(part, expected):
            part.unlink()
            raise DownloadError(f"What came from {url} {problem}; it was removed. Try again, or get {path.name} elsewhere and "
                                f"put it at {path}.")
        os.replace(part, path)
    return path


def receive_all(url: str, part: Path, expected: dict, room: float, attempts: int, progress: bool) -> None:
    """Ask for what `part` lacks until it is whole, or nothing more has come in `attempts` attempts."""
    path, most, failures = part.with_suffix(""), 0, 0
    while True:
        try:
            return receive(url, part, expected, room, progress)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, ServerBusy,
                Astray) as error:
            arrived = part.stat().st_size if part.is_file() else 0
            further = arrived > most and not isinstance(error, Stalled)
            most, failures = max(most, arrived), 1 if further else failures + 1
            if failures >= attempts:
                if isinstance(error, Astray):
                    raise DownloadError(f"{url} cannot be fetched ({error}, {attempts} attempts); get the file elsewhere and "
                                        f"put it at {path}.") from error
                reason = str(error) if isinstance(error, ServerBusy) else type(error).__name__
                raise UnreachableError(f"{url} cannot be fetched ({reason}, {attempts} attempts); check the network and try "
                                       f"again, or fetch the file elsewhere and put it at {path}.") from error
            time.sleep(PAUSE * 2 ** (failures - 1))
        except ClipnotesError:
            raise
        except (requests.RequestException, ValueError) as error:  # a malformed address, endless redirects
            raise DownloadError(f"{url} cannot be fetched ({error}); fetch the file by hand and put it at {path}.") from error


class ServerBusy(Exception):
    """An answer that asks to come back later (HTTP 429, 5xx)."""


class Stalled(ServerBusy):
    """An answer that comes too slowly to be waited for."""


class Astray(Exception):
    """An answer that is not what was asked for, or not what the server itself announced."""


def receive(url: str, part: Path, expected: dict, room: float, progress: bool) -> None:
    """One attempt to get what the file `part` lacks; returns when it is whole."""
    start, known, headers = resume_point(url, part)
    path = part.with_suffix("")
    with closing(in_time(answer_of(url, headers), PATIENCE)) as answer:
        response = next(answer)
        status = f"HTTP {response.status_code} {response.reason}"
        if response.status_code == 416:  # asked for nothing: the part is whole, or longer than what the server has
            if start and response.headers.get("Content-Range") == f"bytes */{start}" and known in (None, start):
                return
            part.unlink(missing_ok=True)
            raise Astray(f"{status}, Content-Range {response.headers.get('Content-Range')}, when {known or start} bytes were "
                         "announced before")
        if response.status_code == 429 or response.status_code >= 500:
            raise ServerBusy(status)
        if not response.ok:
            raise DownloadError(f"{url} cannot be fetched ({status}); the file may have moved. Get it elsewhere and put it at "
                                f"{path}.")
        try:
            start, total = announced(response, start, known)
        except Astray:
            part.unlink(missing_ok=True)
            raise
        check_announced(response, url, path, total, expected)
        check_room(part.parent, (total or 0) * room - start, url)
        with open(part, "ab" if start else "wb") as file:
            if not start:
                note_validator(part, url, response, total)
            with progress_bar(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=not progress,
                      leave=False) as bar:
                for piece in answer:
                    file.write(piece)
                    bar.update(len(piece))
            file.flush()
            os.fsync(file.fileno())
            arrived = file.tell()
    if total is not None and arrived != total:
        if arrived > total:
            part.unlink()
        raise Astray(f"{arrived} bytes came where the server announced {total}")


def answer_of(url: str, headers: dict) -> Generator:
    """The response of a server, then its body in pieces."""
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        yield response
        yield from response.iter_content(PIECE)


def in_time(items: Generator, seconds: float) -> Generator:
    """What a generator yields, each item made when it is asked for, but in a thread that can be left alone.

    A socket's own timeout begins anew with every byte. `Stalled` where an item takes longer than `seconds`.
    """
    asked, made, left = threading.Semaphore(0), queue.SimpleQueue(), threading.Event()

    def work():
        with closing(items):
            while asked.acquire() and not left.is_set():
                try:
                    made.put((next(items), None))
                except BaseException as error:  # StopIteration, too
                    made.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            asked.release()
            try:
                item, error = made.get(timeout=seconds)
            except queue.Empty:
                raise Stalled(f"fewer than {PIECE // 1024} kB in {seconds:g} seconds") from None
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        left.set()
        asked.release()


def announced(response: requests.Response, start: int, known: int | None) -> tuple[int, int | None]:
    """(first byte of an answer's body, bytes of the whole file or None where the server does not say).

    start, known: what was asked for, and the total that an earlier answer announced. `Astray` where the answer's range is
    another one, or the file has another size by now.
    """
    length = response.headers.get("Content-Length", "")
    length = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
    if response.status_code != 206:  # all of it
        return 0, length
    content_range = response.headers.get("Content-Range", "none")
    match = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", content_range)
    first, last, total = map(int, match.groups()) if match else (None, None, None)
    if not start or first != start or last != total - 1 or known not in (None, total) or length not in (None, total - first):
        raise Astray(f"a part of the file with Content-Range {content_range} and Content-Length {length}, where bytes {start}- "
                     f"of {known or 'all'} were asked for")
    return start, total


def check_announced(response: requests.Response, url: str, path: Path, total: int | None, expected: dict) -> None:
    """DownloadError for an answer of another size than expected, one whose end nothing tells, and one packed on the way."""
    if expected["size"] and total not in (None, expected["size"]):
        raise DownloadError(f"{url} has {total} bytes, but {expected['size']} were expected; the file has changed. Get the "
                            f"right one elsewhere and put it at {path}.")
    chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
    if total is None and not chunked and not any(expected.values()):
        raise DownloadError(f"{url} does not say how long it is, so that a part of it would pass for the whole; get the file "
                            f"elsewhere and put it at {path}.")
    packing = response.headers.get("Content-Encoding", "identity").lower()
    if packing == "identity":
        return
    if packing.removeprefix("x-") != "gzip" or path.suffix not in (".gz", ".tgz"):
        raise DownloadError(f"{url} comes packed as {packing}, though it was asked for as it is; get the file elsewhere and "
                            f"put it at {path}.")
    response.raw.headers.pop("Content-Encoding")  # it names the file's own packing, which must stay


def note_validator(part: Path, url: str, response: requests.Response, total: int | None) -> None:
    """Write beside `part` which file it is of, for a later attempt to go on."""
    validator = response.headers.get("ETag", "")
    if not validator.startswith('"'):  # a weak one says nothing of bytes
        validator = response.headers.get("Last-Modified", "")
    validator_file(part).write_text(json.dumps({"url": url, "validator": validator, "total": total}), encoding="utf-8")


def validator_file(part: Path) -> Path:
    """The file beside a part that says what it is a part of."""
    return part.with_name(part.name + ".json")


def resume_point(url: str, part: Path) -> tuple[int, int | None, dict]:
    """(bytes that `part` holds of this URL, bytes of all of it if known, headers that ask for the rest if it is the same)."""
    headers = {"Accept-Encoding": "identity"}  # bytes as they are stored, so that they can be counted
    try:
        known, start = json.loads(validator_file(part).read_text(encoding="utf-8")), part.stat().st_size
        same, validator, total = known["url"] == url, known["validator"], known.get("total")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0, None, headers
    if not (start and same and isinstance(validator, str) and validator):
        return 0, None, headers
    return start, total, headers | {"Range": f"bytes={start}-", "If-Range": validator}


def mismatch(path: Path, expected: dict) -> str | None:
    """What is wrong with a file, in words; None where size and checksums are the expected ones (None: any).

    Without a checksum, a web page in its place (servers answer with one where they ask for a login) is wrong, too.
    """
    if expected["size"] is not None and path.stat().st_size != expected["size"]:
        return f"has {path.stat().st_size} bytes, but {expected['size']} were expected"
    for kind in ("sha256", "md5"):
        if expected[kind]:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != expected[kind].lower():
                return f"has {kind} {found}, but {expected[kind]} was expected"
    unchecked = not (expected["sha256"] or expected["md5"]) and path.name.removesuffix(".part").rpartition(".")[2] not in HTML
    if unchecked and (instead := stand_in(path)):
        return f"is {instead}"
    return None


def check_room(folder: Path, needed: float, what: object) -> None:
    """DownloadError where the disk of `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(f"{what} needs {needed / 1e9:.1f} GB in {folder}, but only {free / 1e9:.1f} GB are free; "
                            "free some space or choose another folder.")

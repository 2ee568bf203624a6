"""Downloads: a URL as a file, whole and verified or not at all; one that was broken off goes on where it was."""
from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import requests
from tqdm.auto import tqdm

from clipnotes.errors import ClipnotesError

PIECE = 1 << 16   # bytes read at a time
TIMEOUT = 30      # seconds without an answer or a further byte
PAUSE = 1.0       # seconds before the second attempt; doubled for each further one


class DownloadError(ClipnotesError):
    """A download that failed though it was asked for properly: refused, damaged, no room."""


class UnreachableError(DownloadError):
    """No answer, or none but server errors, in all attempts."""


def download(url, path, size=None, sha256=None, md5=None, room=1.0, attempts=5, progress=True):
    """Fetch `url` (http or https) as the file `path`; returns the path.

    size (bytes) and checksums (hex digits) are checked where given; a file that is there and fits them is kept.
    room: free disk space to ask for, as a multiple of the file's size. attempts: how often to ask in a row without getting
    further, with growing pauses. What has arrived waits as PATH.part; the server is asked for the rest only if it says
    that the file is still the same.

    Raises ClipnotesError for other addresses, and DownloadError, of which UnreachableError is one: the sentence names the
    address and where the file belongs.
    """
    path = Path(path)
    if not str(url).startswith(("http://", "https://")):
        raise ClipnotesError(f"address {str(url)!r} cannot be fetched; it must begin with http:// or https://")
    expected = {"size": size, "sha256": sha256, "md5": md5}
    if path.is_file():
        if problem := mismatch(path, expected):
            raise DownloadError(f"{path} {problem}; remove it, and it is fetched again from {url}")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    most, failures = 0, 0
    while True:
        try:
            receive(url, part, size, room, progress)
            break
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, ServerBusy) as error:
            arrived = part.stat().st_size if part.is_file() else 0
            most, failures = max(most, arrived), 1 if arrived > most else failures + 1
            if failures >= attempts:
                reason = str(error) if isinstance(error, ServerBusy) else type(error).__name__
                raise UnreachableError(f"{url} cannot be fetched ({reason}, {attempts} attempts); check the network and try "
                                       f"again, or fetch the file elsewhere and put it at {path}") from error
            time.sleep(PAUSE * 2 ** (failures - 1))
        except requests.RequestException as error:  # a malformed address, endless redirects
            raise DownloadError(f"{url} cannot be fetched ({error}); fetch the file by hand and put it at {path}") from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise DownloadError(f"the disk of {path.parent} is full; free some space and try again, the download of {url} goes "
                                "on where it was") from error
    problem = mismatch(part, expected)
    validator_file(part).unlink(missing_ok=True)
    if problem:
        part.unlink()
        raise DownloadError(f"what came from {url} {problem}; it was removed. Try again, or get {path.name} elsewhere and put "
                            f"it at {path}")
    os.replace(part, path)
    return path


class ServerBusy(Exception):
    """An answer that asks to come back later (HTTP 429, 5xx)."""


def receive(url, part, size, room, progress):
    """One attempt to get what the file `part` lacks; returns when it is whole."""
    start, headers = resume_point(url, part)
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = f"HTTP {response.status_code} {response.reason}"
        if response.status_code == 416:  # asked for nothing: the part is whole, or longer than what the server has
            if response.headers.get("Content-Range") == f"bytes */{start}":
                return
            part.unlink()
            raise ServerBusy(status)
        if response.status_code == 429 or response.status_code >= 500:
            raise ServerBusy(status)
        if not response.ok:
            raise DownloadError(f"{url} cannot be fetched ({status}); the file may have moved. Get it elsewhere and put it at "
                                f"{part.with_suffix('')}")
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0  # the server sends all of it
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else size
        if size and total != size:
            raise DownloadError(f"{url} has {total} bytes, but {size} were expected; the file has changed. Get the right one "
                                f"elsewhere and put it at {part.with_suffix('')}")
        check_room(part.parent, (total or 0) * room - start, url)
        with open(part, "ab" if start else "wb") as file:
            if not start:
                validator = response.headers.get("ETag", "")
                if not validator.startswith('"'):  # a weak one says nothing of bytes
                    validator = response.headers.get("Last-Modified", "")
                validator_file(part).write_text(json.dumps({"url": url, "validator": validator}))
            with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=not progress,
                      leave=False) as bar:
                for piece in response.iter_content(PIECE):
                    file.write(piece)
                    bar.update(len(piece))
            file.flush()
            os.fsync(file.fileno())


def validator_file(part):
    """The file beside a part that says what it is a part of."""
    return part.with_name(part.name + ".json")


def resume_point(url, part):
    """(bytes that `part` holds of this URL, headers that ask for the rest if the file is the same)."""
    headers = {"Accept-Encoding": "identity"}  # bytes as they are stored, so that they can be counted
    try:
        known, start = json.loads(validator_file(part).read_text()), part.stat().st_size
    except (OSError, ValueError):
        return 0, headers
    if not start or known["url"] != url or not known["validator"]:
        return 0, headers
    return start, headers | {"Range": f"bytes={start}-", "If-Range": known["validator"]}


def mismatch(path, expected):
    """What is wrong with a file, in words; None where size and checksums are the expected ones (None: any)."""
    if expected["size"] is not None and path.stat().st_size != expected["size"]:
        return f"has {path.stat().st_size} bytes, but {expected['size']} were expected"
    for kind in ("sha256", "md5"):
        if expected[kind]:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != expected[kind].lower():
                return f"has {kind} {found}, but {expected[kind]} was expected"
    return None


def check_room(folder, needed, what):
    """DownloadError where the disk of `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(f"{what} needs {needed / 1e9:.1f} GB in {folder}, but only {free / 1e9:.1f} GB are free; "
                            "free some space or choose another folder")

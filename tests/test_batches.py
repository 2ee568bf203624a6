"""Reading images beside the encoder: where the machine has no place for it, the same batches come without a hang."""

import ctypes
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings

import pytest
import torch

from clipnotes.backbone import batches
from clipnotes.backbone.batches import batches_of
from clipnotes.errors import ClipnotesError

ROWS = [[0, 1], [2, 3], [4, 5], [6]]


class Numbers(torch.utils.data.Dataset):
    """Row i is i, of `size` floats; what `fault` says happens at row 4, in worker processes or everywhere."""

    def __init__(self, size=1, fault=None, everywhere=False):
        self.size, self.fault, self.everywhere = size, fault, everywhere

    def __getitem__(self, row):
        if row == 4 and self.fault and (self.everywhere or torch.utils.data.get_worker_info()):
            self.fault()
        return torch.full((self.size,), float(row))


def refuse():
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def die():
    os._exit(9)


def unpicklable():
    raise AttributeError("Can't pickle local object")


def unreadable():
    raise ClipnotesError("image 4.png cannot be read")


def read(data, workers):
    return [batch[:, 0].tolist() for batch in batches_of(data, ROWS, workers)]


def test_workers_change_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(Numbers(), 0) == read(Numbers(), 1) == ROWS


def read_after(prepare, data, pipe):
    """In a process of its own: send what is read, or why `prepare` could not be done, and the warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        failed = prepare()
        pipe.send((failed or read(data, 1), " ".join(str(each.message) for each in said)))


def read_elsewhere(prepare, data):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=read_after, args=(prepare, data, sender))
    process.start()
    assert receiver.poll(60), "it hangs"
    found, said = receiver.recv()
    process.join()
    if isinstance(found, str):
        pytest.skip(found)
    return found, said


def test_a_temporary_folder_too_long_for_sockets(tmp_path):
    """As some clusters name it."""
    def move():
        tempfile.tempdir = str(tmp_path / ("job." + "x" * 110))
        os.mkdir(tempfile.tempdir)
        multiprocessing.current_process()._config.pop("tempdir", None)

    found, said = read_elsewhere(move, Numbers())
    assert found == ROWS
    assert "images are read without worker processes, which is slower, since those fail here (AF_UNIX path too long)" in said


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of /dev/shm")
@pytest.mark.parametrize("options, reason", [("size=1m", "unable to allocate shared memory|exited unexpectedly"),
                                             ("ro", "Read-only file system")])
def test_shared_memory_as_small_as_a_container_s(options, reason):
    """Two rows of 1 MB each do not fit into the 1 MB of shared memory that this process sees."""
    def mount():
        failed = ctypes.CDLL(None, use_errno=True).unshare(0x20000)  # CLONE_NEWNS: mounts of its own
        commands = ["mount --make-rprivate /", f"mount -t tmpfs -o {options} tmpfs /dev/shm"]
        return "no mounting here" if failed or any(subprocess.call(each.split()) for each in commands) else None

    found, said = read_elsewhere(mount, Numbers(250_000))
    assert found == ROWS and re.search(reason, said) and "--shm-size" in said


@pytest.mark.parametrize("fault, reason", [(refuse, "No space left on device"), (unpicklable, "Can't pickle"),
                                           (die, "exited unexpectedly|reset by peer|EOFError")])
def test_what_workers_cannot_do_is_done_without_them(fault, reason):
    with pytest.warns(UserWarning, match=f"without worker processes.*{reason}"):
        assert read(Numbers(fault=fault), 1) == ROWS


def test_a_worker_that_dies_while_the_encoder_is_busy_does_not_stop_it():
    """torch raises in whatever line is being run: the work on a batch that came whole was lost, and the rest with it."""
    read(Numbers(), 1)  # torch sets up its watch over workers at the first of them
    found, watch = [], signal.getsignal(signal.SIGCHLD)
    with pytest.warns(UserWarning, match="without worker processes"):
        for batch in batches_of(Numbers(fault=die), ROWS, 1):
            time.sleep(0.3)  # the encoder's work
            found.append(batch[:, 0].tolist())
    assert found == ROWS and signal.getsignal(signal.SIGCHLD) == watch


def test_a_fault_without_words_is_named(monkeypatch):
    def closed(*_):
        raise EOFError

    monkeypatch.setattr(batches, "leave_deaths_to_the_loader", closed)
    with pytest.warns(UserWarning, match=r"those fail here \(EOFError\)"):
        assert read(Numbers(), 1) == ROWS


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_sentence_with_and_without_workers(workers):
    with warnings.catch_warnings(), pytest.raises(ClipnotesError) as caught:
        warnings.simplefilter("error")
        read(Numbers(fault=unreadable, everywhere=True), workers)
    assert str(caught.value) == "image 4.png cannot be read"

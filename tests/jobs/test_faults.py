"""Which errors are tried again, which end a job, and what a failure says."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from cellseg1_rt.errors import InputError
from cellseg1_rt.jobs.faults import JobEndedError, as_failure, with_retries


def failing(*errors: Exception):
    left = list(errors)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call, left


def io_error(number: int) -> OSError:
    return OSError(number, "said the drive", "x.png")


def wrapped(number: int) -> InputError:
    error = InputError("cannot open this file")
    error.__cause__ = io_error(number)
    return error


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT])
@pytest.mark.parametrize("make", [io_error, wrapped])
def test_what_passes_is_tried_again(make, number):
    call, left = failing(make(number), make(number))
    assert with_retries(call, threading.Event(), (0.0, 0.0)) == "done"
    call, left = failing(make(number), make(number), make(number), make(number))
    with pytest.raises(type(make(number))):
        with_retries(call, threading.Event(), (0.0, 0.0))
    assert len(left) == 1


@pytest.mark.parametrize(
    "error",
    [
        io_error(errno.ENOENT),
        io_error(errno.EACCES),
        InputError("cut off"),
        ValueError(),
        OSError(),
    ],
    ids=["missing", "forbidden", "bad file", "a bug", "no number"],
)
def test_the_rest_is_tried_once(error):
    call, left = failing(error, error)
    with pytest.raises(type(error)):
        with_retries(call, threading.Event(), (0.0, 0.0))
    assert len(left) == 1


def test_a_stop_ends_the_waiting():
    stop = threading.Event()
    stop.set()
    call, left = failing(io_error(errno.EIO), io_error(errno.EIO))
    with pytest.raises(OSError, match="the drive"):
        with_retries(call, stop, (60.0,))
    assert len(left) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_the_job(number):
    for error in (io_error(number), wrapped(number)):
        failure = as_failure(error, Path("out/a.tif"), "cannot be written")
        assert isinstance(failure, JobEndedError)
        assert "out/a.tif: cannot be written, so the job ends here" in str(failure)
        assert "what is done is kept" in str(failure)


def test_every_other_error_is_the_images_own():
    known = InputError("cut off")
    assert as_failure(known, Path("a"), "cannot be read") is known
    told = str(as_failure(io_error(errno.EACCES), Path("a.png"), "cannot be read"))
    assert told == "x.png: cannot be read; got said the drive"
    assert "--workers" in str(as_failure(MemoryError(), Path("a.png"), "cannot be segmented"))
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        told = str(as_failure(error, Path("a.png"), "cannot be segmented"))
    assert "a.png: cannot be segmented, for a reason that was not foreseen" in told
    assert "ZeroDivisionError: by zero (test_faults.py:" in told

"""Which errors are worth another try, which end a job, and which are one image's own.

Imports the standard library.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from cellseg1_rt.errors import CellSeg1RtError, ConfigError, InputError

__all__ = ["DELAYS_S", "JobEndedError", "as_failure", "with_retries"]

Value = TypeVar("Value")

DELAYS_S = (0.5, 2.0, 8.0)
"""Waits before the second, third and fourth try."""

_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "EAGAIN", "EINTR", "EBUSY", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "ENETDOWN",
        "ENETUNREACH", "ENETRESET", "ECONNABORTED", "ECONNRESET", "ECONNREFUSED", "EHOSTDOWN",
        "EHOSTUNREACH", "ENOTCONN", "ENOBUFS", "ENFILE", "EMFILE",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""What drives and networks say when they are away for a while."""

_FOR_ALL = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS") if hasattr(errno, name)
)
"""What would stop every further image as well."""


class JobEndedError(ConfigError):
    """What ends a job before its last image."""


def with_retries(
    call: Callable[[], Value], stop: threading.Event, delays_s: tuple[float, ...] = DELAYS_S
) -> Value:
    """Call again after input/output errors that pass; not after a bad file or a missing one.

    Parameters
    ----------
    call : what to try; called once more than there are delays, at most.
    stop : ends the waiting; the last error is then raised.
    """
    for delay_s in delays_s:
        try:
            return call()
        except Exception as error:
            if _number(error) not in _PASSING or stop.wait(delay_s):
                raise
    return call()


def as_failure(error: Exception, where: str | Path, what: str) -> CellSeg1RtError:
    """An error as a line that says where and why.

    Parameters
    ----------
    where : the image or output it happened at.
    what : what could not be done.

    Returns
    -------
    ``JobEndedError`` for what would happen to every further image too, else the image's own.
    """
    number = _number(error)
    if number in _FOR_ALL:
        return JobEndedError(
            f"{what}, so the job ends here",
            where=where,
            got=os.strerror(number or 0),
            fix="make room, then run the same command again: what is done is kept",
        )
    if isinstance(error, CellSeg1RtError):
        return error
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return InputError(what, where=error.filename or where, got=reason)
    if isinstance(error, MemoryError):
        return InputError(
            f"{what}: not enough memory",
            where=where,
            got=str(error) or None,
            fix="run with fewer --workers, or on a machine with more memory",
        )
    return InputError(
        f"{what}, for a reason that was not foreseen",
        where=where,
        got=f"{type(error).__name__}: {error}{_place_of(error)}",
        fix="report this line together with the image",
    )


def _number(error: BaseException) -> int | None:
    """The number of the operating system's error that this one is or comes from."""
    return next(
        (each.errno for each in _causes(error) if isinstance(each, OSError) and each.errno), None
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__


def _place_of(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"

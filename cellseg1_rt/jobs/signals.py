"""Ctrl-C and SIGTERM: the first one finishes what is in flight, the second ends at once.

Imports the standard library.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["INTERRUPTED", "stop_on_signals"]

INTERRUPTED = 130
"""Exit code of a job that was interrupted; what is done is kept."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first signal sets. To be used in the main thread only."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            # Not SystemExit: that would wait for threads that are busy with an image.
            os.write(sys.stderr.fileno(), b"interrupted again, ending at once\n")
            os._exit(INTERRUPTED)
        stop.set()
        os.write(
            sys.stderr.fileno(),
            b"interrupted: images in flight are finished; interrupt again to end at once\n",
        )

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

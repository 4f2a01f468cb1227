"""The journal of a job: a JSON line an image, only ever added to, from which a job goes on.

The first line says what the job is: its settings. Each further line is one image, done or failed.
A line is written in one piece and flushed to the disk (fsync) before the image's outputs get their
names (``staging``), so whatever the process dies of, an output with a name has its line. A line
that was cut off is dropped on reading (``past``). Imports the standard library.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.files import sync_folder
from cellseg1_rt.jobs.past import JOURNAL_VERSION
from cellseg1_rt.jobs.records import Record

__all__ = ["Journal"]


class Journal:
    """A journal open for adding lines, held against other processes until it is closed.

    Parameters
    ----------
    path : the file; made if it is not there.
    patience_s : how long to wait for another process. Shards that start together look at each
        other's journals for a moment.

    Attributes
    ----------
    is_held : False where the file system has no locks, and nothing keeps other runs out.

    Raises
    ------
    ConfigError : if another process holds the journal.
    OSError : if the file cannot be written.
    """

    def __init__(self, path: Path, *, patience_s: float = 2.0) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self.is_held = _hold(self._handle, path, patience_s)
        except BaseException:
            os.close(self._handle)
            raise

    def start(self, settings: dict[str, Any], good_bytes: int = 0) -> None:
        """Keep the first ``good_bytes``; if there are none, begin with the job's settings."""
        os.ftruncate(self._handle, good_bytes)
        if good_bytes == 0:
            self._append({"journal": JOURNAL_VERSION, "settings": settings})
            sync_folder(self.path.parent)

    def add(self, record: Record) -> None:
        """Add a line and flush it to the disk. Any thread may call this.

        Raises
        ------
        OSError : if that failed; the line is then not in the file.
        """
        with self._lock:
            self._append(asdict(record))

    def close(self) -> None:
        """Let others have the journal."""
        os.close(self._handle)

    def _append(self, values: dict[str, Any]) -> None:
        line = json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n"
        data = line.encode("utf-8", "surrogateescape")
        size = os.fstat(self._handle).st_size
        try:
            if os.write(self._handle, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(self._handle)
        except OSError as error:
            os.ftruncate(self._handle, size)
            error.filename = str(self.path)
            raise


def _hold(handle: int, path: Path, patience_s: float) -> bool:
    if sys.platform == "win32":  # its locks would keep readers out too
        return False
    import fcntl

    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise ConfigError(
                    "another run is at work on this job",
                    where=path,
                    fix="wait for it or stop it, or choose another folder",
                ) from error
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            return False

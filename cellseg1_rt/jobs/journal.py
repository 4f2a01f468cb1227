"""The journal of a job: a JSON line an image, only ever added to, from which a job goes on.

The first line says what the job is: its settings. Each further line is one image, done or failed.
A line is written in one piece and flushed to the disk (fsync) before the image's outputs get their
names (``staging``), so whatever the process dies of, an output with a name has its line. A line
that was cut off is dropped on reading. Imports the standard library.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.files import sync_folder
from cellseg1_rt.jobs.records import Record

__all__ = [
    "JOURNAL_VERSION",
    "Journal",
    "Past",
    "read_past",
    "records_of",
]

JOURNAL_VERSION = 1


@dataclass(frozen=True)
class Past:
    """What a journal says.

    Attributes
    ----------
    path : the file.
    settings : of the job; None where the file is missing or holds no line.
    records : the last line of each image that says it is done, by name. Failures are not kept:
        they are tried again.
    good_bytes : up to where the file is whole lines.
    """

    path: Path
    settings: dict[str, Any] | None = None
    records: dict[str, Record] = field(default_factory=dict)
    good_bytes: int = 0


def read_past(path: Path) -> Past:
    """Read a journal, without what was cut off at its end.

    Raises
    ------
    ConfigError : if there is damage before the end, or the journal is of another version.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Past(path)
    good_bytes, settings, records = 0, None, {}
    parsed = [_parsed(line) for line in lines[:-1]]  # what follows the last newline was cut off
    while parsed and parsed[-1] is None:  # a power cut can leave blocks of zeros
        parsed.pop()
    for number, (line, values) in enumerate(zip(lines, parsed, strict=False), start=1):
        try:
            if number == 1:
                settings = _settings_of(values, path)
            else:
                record = Record.from_dict(values or {})
                if record.is_done:
                    records[record.name] = record
        except (KeyError, TypeError) as error:
            raise ConfigError(
                "the journal is damaged",
                where=f"{path}, line {number}",
                got=repr(line[:40].decode("utf-8", "replace")),
                expected="a line that segment wrote",
                fix="remove that line to have its image done again, or pass --overwrite",
            ) from error
        good_bytes += len(line) + 1
    return Past(path, settings, records, good_bytes)


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


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line.decode("utf-8", "surrogateescape"))
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _settings_of(values: dict[str, Any] | None, path: Path) -> dict[str, Any]:
    if values is None:
        raise TypeError("no object")
    version = values["journal"]
    if version != JOURNAL_VERSION:
        raise ConfigError(
            "a journal of another version",
            where=path,
            got=version,
            expected=JOURNAL_VERSION,
            fix="choose another folder, or pass --overwrite to start afresh",
        )
    return dict(values["settings"])


def records_of(pasts: Iterable[Past]) -> dict[str, Record]:
    """The last done line of each image in several journals, those of the shards of one job."""
    records: dict[str, Record] = {}
    for past in pasts:
        for name, record in past.records.items():
            held = records.get(name)
            if held is None or held.finished < record.finished:
                records[name] = record
    return records

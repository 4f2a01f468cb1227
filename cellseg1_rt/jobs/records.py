"""A line of a job's journal: an image's file, what was made of it, or why nothing was.

Imports the standard library.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cellseg1_rt.files import sha256_of_file

__all__ = ["InputFile", "OutputFile", "Record"]


@dataclass(frozen=True, slots=True)
class InputFile:
    """An image's file as it was read: absolute path, size, time of its last change, SHA-256."""

    path: str
    size_bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> InputFile:
        """Describe a file as it is now; reads all of it. Raises OSError if that fails."""
        status = path.stat()
        digest = sha256_of_file(path)
        return cls(os.path.abspath(path), status.st_size, status.st_mtime_ns, digest)

    def is_unchanged(self) -> bool:
        """Whether the file still has this size and this time of change. Does not read it."""
        status = os.stat(self.path)
        return (status.st_size, status.st_mtime_ns) == (self.size_bytes, self.mtime_ns)

    def is_same_as(self, path: Path) -> bool:
        """Whether ``path`` holds the same bytes. Reads it only if it is not this unchanged file.

        Raises
        ------
        OSError : if it cannot be read.
        """
        if not path.exists() or path.stat().st_size != self.size_bytes:
            return False
        if os.path.abspath(path) == self.path and self.is_unchanged():
            return True
        return sha256_of_file(path) == self.sha256


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file, or a folder, that was made of an image; ``file`` is its name in the job's folder."""

    format: str
    file: str
    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, format: str, path: Path) -> OutputFile:
        """Describe a file as it is now, or a folder: its files' names and hashes, in order."""
        if not path.is_dir():
            return cls(format, path.name, path.stat().st_size, sha256_of_file(path))
        digest, size_bytes = hashlib.sha256(), 0
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            name = file.relative_to(path).as_posix()
            digest.update(f"{name}\0{sha256_of_file(file)}\n".encode("utf-8", "surrogateescape"))
            size_bytes += file.stat().st_size
        return cls(format, path.name, size_bytes, digest.hexdigest())

    def is_intact(self, folder: Path) -> bool:
        """Whether it is in ``folder`` with the bytes it was written with."""
        path = folder / self.file
        if not path.exists() or (path.is_file() and path.stat().st_size != self.size_bytes):
            return False
        return OutputFile.of(self.format, path) == self


@dataclass(frozen=True, slots=True)
class Record:
    """One line: what became of one image.

    Attributes
    ----------
    name : the image's name without suffix.
    input : None where the file could not be read at all.
    settings : the hash of the job's settings.
    outputs : none if it failed.
    cells : number found.
    seconds : by stage: read, segment, write.
    error : why it failed, in one line; None if it did not.
    finished : when, ISO 8601, UTC.
    """

    name: str
    input: InputFile | None
    settings: str
    outputs: tuple[OutputFile, ...]
    cells: int
    seconds: dict[str, float]
    error: str | None
    finished: str

    @property
    def is_done(self) -> bool:
        """Whether the image was segmented and its outputs written."""
        return self.error is None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """A line's values. Raises KeyError or TypeError if that is not what they are."""
        told = {each.name: values[each.name] for each in fields(cls)}
        told["input"] = told["input"] and InputFile(**told["input"])
        told["outputs"] = tuple(OutputFile(**output) for output in told["outputs"])
        return cls(**told)

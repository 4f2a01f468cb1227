"""A line of a job's journal: an image's file, what was made of it, or why nothing was."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cellseg1_rt.files import sha256_of_file
from cellseg1_rt.formats.planes import PlaneAddress
from cellseg1_rt.jobs.fingerprints import Fingerprint

__all__ = ["InputFile", "OutputFile", "Record"]


@dataclass(frozen=True, slots=True)
class InputFile:
    """An image's file as it was read.

    Attributes
    ----------
    path : absolute.
    size_bytes, mtime_ns, sha256 : size, time of the last change, and hash. Of a plane in a Zarr
        folder these are the sum, the latest, and a hash over the names and bytes of the files that
        the plane is made of: its chunks, and the metadata above them.
    plane : which plane of the file, as a ``PlaneAddress`` is written; empty where it holds one.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    sha256: str
    plane: str = ""

    @classmethod
    def of(cls, path: Path, plane: PlaneAddress | None = None) -> InputFile:
        """Describe a file as it is now; reads all of it. Raises OSError if that fails.

        For the planes of one file it is read once, and again only when size or time change.
        """
        now = Fingerprint.of(path, plane)
        key = "" if plane is None else str(plane)
        return cls(os.path.abspath(path), now.size_bytes, now.mtime_ns, now.sha256(), key)

    def is_unchanged(self, plane: PlaneAddress | None = None) -> bool:
        """Whether the file still has this size and this time of change. Does not read it."""
        now = Fingerprint.of(Path(self.path), plane)
        return (now.size_bytes, now.mtime_ns) == (self.size_bytes, self.mtime_ns)

    def is_same_as(self, path: Path, plane: PlaneAddress | None = None) -> bool:
        """Whether ``path`` holds the same bytes. Reads it only if it is not this unchanged file.

        Raises
        ------
        OSError : if it cannot be read.
        """
        if not path.exists() or self.plane != ("" if plane is None else str(plane)):
            return False
        now = Fingerprint.of(path, plane)
        if now.size_bytes != self.size_bytes:
            return False
        if os.path.abspath(path) == self.path and now.mtime_ns == self.mtime_ns:
            return True
        return now.sha256() == self.sha256


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

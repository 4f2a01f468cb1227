"""What tells whether an image is still the one that was segmented: size, time of change, bytes.

Of a file these are its own. Of a plane in a Zarr folder they are those of the files that the plane
is made of, so a chunk that is written elsewhere in the folder changes no other plane. Imports the
standard library and what finds those files.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cellseg1_rt.files import sha256_of_file
from cellseg1_rt.formats.planes import PlaneAddress
from cellseg1_rt.formats.stacks import is_zarr_folder

__all__ = ["Fingerprint"]

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Fingerprint:
    """An image's file, or the files of a plane of it, as they are now.

    Attributes
    ----------
    path : the image.
    plane : which plane of it, if it holds several.
    files : what is hashed: the file itself, or below a Zarr folder the plane's own.
    size_bytes : of all files together.
    mtime_ns : of the one that was changed last.
    """

    path: Path
    plane: PlaneAddress | None
    files: tuple[Path, ...]
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, plane: PlaneAddress | None) -> Fingerprint:
        """Look at an image; its pixels are not read.

        Raises
        ------
        OSError : if it cannot be looked at.
        InputError : for a Zarr folder without that plane.
        """
        files: tuple[Path, ...] = (path,)
        if is_zarr_folder(path):
            from cellseg1_rt.formats.ngff_planes import files_of_zarr_plane

            files = tuple(files_of_zarr_plane(path, plane))
        found = [os.stat(file) for file in files]
        size_bytes = sum(each.st_size for each in found)
        return cls(path, plane, files, size_bytes, max(each.st_mtime_ns for each in found))

    def sha256(self) -> str:
        """The hash of the file, or over the names and hashes of a plane's files in a Zarr folder.

        A file of several planes is read once for all of them, as long as size and time stay.
        """
        if self.files != (self.path,):
            digest = hashlib.sha256()
            for file in self.files:
                name = file.relative_to(self.path).as_posix()
                line = f"{name}\0{sha256_of_file(file)}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
            return digest.hexdigest()
        if self.plane is None:
            return sha256_of_file(self.path)
        with _ONE_AT_A_TIME:  # or several readers would begin with the same file
            return _sha256_in_state(self.path.absolute(), self.size_bytes, self.mtime_ns)


@lru_cache(maxsize=64)
def _sha256_in_state(path: Path, size_bytes: int, mtime_ns: int) -> str:
    return sha256_of_file(path)

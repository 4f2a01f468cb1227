"""Whether a TIFF file is whole, from its directories alone.

TIFF readers stop at the first directory they cannot follow, so a file cut off between its planes
looks like a shorter, healthy one. Here the chain is followed to its end and every place it names
must lie inside the file. Imports the standard library only.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

__all__ = ["cut_off_part"]

_TYPE_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
# From here on tags are private, and some microscopes store counts of another meaning in them.
_FIRST_PRIVATE_TAG = 32768


def cut_off_part(path: Path) -> str | None:
    """What is missing at the end of the TIFF file ``path``, in words; None if nothing is.

    The strips and tiles themselves are not looked at.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        order = "<" if file.read(2) == b"II" else ">"
        big = struct.unpack(f"{order}H", file.read(2))[0] == 43
        file.seek(8 if big else 4)
        layout = _Layout(order, big)
        try:
            offset = layout.read_offset(file)
            seen: set[int] = set()
            while offset != 0 and offset not in seen:
                seen.add(offset)
                problem, offset = layout.check_directory(file, offset, size)
                if problem is not None:
                    return f"directory {len(seen)} {problem}, but the file has {size:,} bytes"
        except struct.error:
            return f"directory {len(seen)} is incomplete at the file's end, byte {size:,}"
    return None


class _Layout:
    """How numbers lie in classic TIFF and BigTIFF, in either byte order."""

    def __init__(self, order: str, big: bool) -> None:
        self._offset = struct.Struct(f"{order}{'Q' if big else 'I'}")
        self._count = struct.Struct(f"{order}{'Q' if big else 'H'}")
        self._entry = struct.Struct(f"{order}HH{'QQ' if big else 'II'}")

    def read_offset(self, file: BinaryIO) -> int:
        return int(self._offset.unpack(file.read(self._offset.size))[0])

    def check_directory(self, file: BinaryIO, offset: int, size: int) -> tuple[str | None, int]:
        """What is wrong with the directory at ``offset``, if anything, and where the next is."""
        if offset >= size:
            return f"starts at byte {offset:,}", 0
        file.seek(offset)
        (entries,) = self._count.unpack(file.read(self._count.size))
        for _ in range(entries):
            code, kind, count, value = self._entry.unpack(file.read(self._entry.size))
            n_bytes = _TYPE_BYTES.get(kind, 0) * count
            outside = n_bytes > self._offset.size and value + n_bytes > size
            if outside and code < _FIRST_PRIVATE_TAG:
                return f"has a tag ({code}) that ends at byte {value + n_bytes:,}", 0
        return None, self.read_offset(file)

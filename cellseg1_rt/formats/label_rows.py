"""Label maps larger than memory: written from the top down, read again rows at a time.

Imports numpy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["BIG_TIFF_BYTES", "LabelFile", "LabelRows", "dtype_of_labels", "row_blocks"]

BIG_TIFF_BYTES = 2**32 - 2**25
"""Of samples, from which on a TIFF file is written as BigTIFF: offsets may not fit 32 bits."""


class LabelRows(Protocol):
    """A label map that is read rows at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), px."""
        ...

    @property
    def highest(self) -> int:
        """The highest label; 0 where there is none."""
        ...

    def read(self, rows: slice, columns: slice = slice(None)) -> NDArray[np.uint32]:
        """Labels uint32 [h, w] of a window; slices have no step and are cut at the map's edge."""
        ...


class LabelFile:
    """A label map in a file without a name, which goes when it is closed. Not for several threads.

    It is read with calls and not mapped: pages of a map count as memory of the process.

    Parameters
    ----------
    width : px.
    folder : where the file is made; 4 bytes a pixel are needed there.
    """

    def __init__(self, width: int, folder: Path) -> None:
        self._width, self._height, self._highest = width, 0, 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by its owner)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of what was added."""
        return self._height, self._width

    @property
    def highest(self) -> int:
        """The highest label; 0 where there is none."""
        return self._highest

    def add(self, rows: NDArray[np.uint32]) -> None:
        """The next rows, uint32 [h, W]."""
        self._file.seek(4 * self._height * self._width)
        self._file.write(np.ascontiguousarray(rows).data)
        self._height += len(rows)
        self._highest = max(self._highest, int(rows.max(initial=0)))

    def read(self, rows: slice, columns: slice = slice(None)) -> NDArray[np.uint32]:
        """Labels uint32 [h, w] of a window."""
        top, bottom, _ = rows.indices(self._height)
        left, right, _ = columns.indices(self._width)
        found = np.empty((max(0, bottom - top), max(0, right - left)), np.uint32)
        whole_rows = found.shape[1] == self._width
        for row in range(0, len(found), max(1, len(found)) if whole_rows else 1):
            self._file.seek(4 * ((top + row) * self._width + left))
            part = found[row:] if whole_rows else found[row]
            part[...] = np.frombuffer(self._file.read(part.nbytes), np.uint32).reshape(part.shape)
        return found

    def close(self) -> None:
        """Remove it."""
        self._file.close()


def dtype_of_labels(labels: LabelRows) -> np.dtype[Any]:
    """What labels are stored as: uint16, or uint32 from label 65,536 on."""
    return np.dtype(np.uint16 if labels.highest < 2**16 else np.uint32)


def row_blocks(labels: LabelRows, rows: int) -> Iterator[NDArray[Any]]:
    """The map in blocks of that many rows, the last one of what is left, as they are stored."""
    dtype = dtype_of_labels(labels)
    for top in range(0, labels.shape[0], rows):
        yield labels.read(slice(top, top + rows)).astype(dtype, copy=False)

"""Label maps larger than memory as TIFF, OME-TIFF and PNG, a few rows at a time.

What a reader gets is what the writers of whole maps write. Imports numpy and the standard library;
tifffile inside.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from cellseg1_rt.errors import InputError
from cellseg1_rt.files import atomic_path
from cellseg1_rt.formats.label_maps import imagej_options
from cellseg1_rt.formats.label_ome import ome_options
from cellseg1_rt.formats.label_rows import (
    BIG_TIFF_BYTES,
    LabelRows,
    dtype_of_labels,
    row_blocks,
)

__all__ = ["write_label_ome_rows", "write_label_png_rows", "write_label_tiff_rows"]

_STRIP_BYTES = 2**18  # of a strip of rows, as tifffile has it
_PNG_ROWS = 256
_LEVEL = 6  # of zlib


def write_label_tiff_rows(
    path: str | PathLike[str],
    labels: LabelRows,
    pixel_size_um: tuple[float, float] | None = None,
) -> None:
    """Write a label map as ``write_label_tiff`` does; BigTIFF from 4 GB of labels on.

    Parameters
    ----------
    pixel_size_um : micrometres a pixel (y, x).
    """
    _write_strips(Path(path), labels, imagej_options(labels.highest, pixel_size_um))


def write_label_ome_rows(
    path: str | PathLike[str],
    labels: LabelRows,
    pixel_size_um: tuple[float, float] | None = None,
) -> None:
    """Write a label map as ``write_label_ome_tiff`` does; BigTIFF from 4 GB of labels on.

    Parameters
    ----------
    pixel_size_um : micrometres a pixel (y, x).
    """
    content = (block.tobytes() for block in row_blocks(labels, _PNG_ROWS))
    options = ome_options(labels.shape, dtype_of_labels(labels), pixel_size_um, content)
    _write_strips(Path(path), labels, options)


def _write_strips(path: Path, labels: LabelRows, options: dict[str, Any]) -> None:
    import tifffile

    dtype = dtype_of_labels(labels)
    rows = max(1, _STRIP_BYTES // (labels.shape[1] * dtype.itemsize))
    strips = (zlib.compress(block.tobytes(), _LEVEL) for block in row_blocks(labels, rows))
    n_bytes = labels.shape[0] * labels.shape[1] * dtype.itemsize
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            strips,
            shape=labels.shape,
            dtype=dtype,
            rowsperstrip=rows,
            bigtiff=n_bytes >= BIG_TIFF_BYTES,
            **options,
        )


def write_label_png_rows(path: str | PathLike[str], labels: LabelRows) -> None:
    """Write a label map as a 16-bit grey PNG.

    Raises
    ------
    InputError : if a label is above 65,535.
    """
    path = Path(path)
    if labels.highest >= 2**16:
        raise InputError(
            "a label that a PNG cannot hold",
            where=path,
            got=f"label {labels.highest:,}",
            expected="at most 65,535",
            fix="write .tif instead",
        )
    height, width = labels.shape
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        # Width, height, 16 bits, grey, and the only compression, filters and order there are.
        file.write(_png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)))
        for part in _compressed_rows(labels):
            file.write(_png_chunk(b"IDAT", part))
        file.write(_png_chunk(b"IEND", b""))


def _compressed_rows(labels: LabelRows) -> Iterator[bytes]:
    """The zlib stream of a PNG's rows, each after a byte that says that it is not filtered."""
    stream = zlib.compressobj(_LEVEL)
    for block in row_blocks(labels, _PNG_ROWS):
        rows = block.astype(">u2")
        yield stream.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    yield stream.flush()


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

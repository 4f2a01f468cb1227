"""Label maps as OME-Zarr 0.4: chunks, a pyramid, axes and pixel size.

0.4 (Zarr version 2) and not 0.5 (Zarr version 3), since more programs open it today: napari, and
by Bio-Formats QuPath and Fiji.

Imports numpy; zarr (extra ``zarr``) inside.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.extras import require
from cellseg1_rt.files import TEMPORARY_PREFIX, sync_folder
from cellseg1_rt.formats.label_maps import samples_from_labels
from cellseg1_rt.formats.label_rows import LabelRows, dtype_of_labels

if TYPE_CHECKING:
    import zarr

__all__ = [
    "LABELS_NAME",
    "create_label_zarr",
    "fill_pyramid",
    "write_label_zarr",
    "write_label_zarr_rows",
]

LABELS_NAME = "cells"
"""The label image's own folder below ``labels``."""

_CHUNK_PX = 512
_BLOCK_PX = 4 * _CHUNK_PX  # columns that are copied at a time, however wide a map is
# Every reader of Zarr 2 knows zlib, and its bytes do not depend on threads.
_COMPRESSOR: dict[str, Any] = {"id": "zlib", "level": 6}


def write_label_zarr(
    path: str | PathLike[str],
    labels: NDArray[Any],
    pixel_size_um: tuple[float, float] | None = None,
) -> None:
    """Write a label map as ``labels/cells`` of the folder ``path``, whole or not at all.

    A folder that is there is replaced. Equal arguments give equal files.

    Parameters
    ----------
    labels : integer [H, W], 0..4,294,967,295; stored as uint16, or uint32 from label 65,536 on.
    pixel_size_um : micrometres a pixel (y, x).

    Raises
    ------
    InputError : if ``labels`` is not such an array.
    MissingExtraError : if zarr is not installed.
    """
    path = Path(path)
    samples = samples_from_labels(labels, path)
    with _atomic_folder(path) as temporary:
        levels = create_label_zarr(temporary, samples.shape, samples.dtype, pixel_size_um)
        levels[0][...] = samples
        fill_pyramid(levels)


def write_label_zarr_rows(
    path: str | PathLike[str],
    labels: LabelRows,
    pixel_size_um: tuple[float, float] | None = None,
) -> None:
    """The same from a map that is read window by window; memory does not grow with its size."""
    with _atomic_folder(Path(path)) as temporary:
        dtype = dtype_of_labels(labels)
        levels = create_label_zarr(temporary, labels.shape, dtype, pixel_size_um)
        for rows, columns in _blocks(labels.shape):
            levels[0][rows, columns] = labels.read(rows, columns).astype(dtype, copy=False)
        fill_pyramid(levels)


def create_label_zarr(
    folder: Path,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    pixel_size_um: tuple[float, float] | None = None,
) -> list[zarr.Array[Any]]:
    """Lay out an empty label image in ``folder`` and return its levels, the full one first.

    For maps too large for memory: write into the first level block by block (best by its chunks,
    512 × 512 px), then call ``fill_pyramid``. Chunks of background only are not stored.

    Each level has half the sides of the one before, rounded up, until one chunk holds it all.

    Raises
    ------
    MissingExtraError : if zarr is not installed.
    """
    require("zarr", extra="zarr", needed_for="the format zarr")
    import zarr

    sizes = [shape]
    while max(sizes[-1]) > _CHUNK_PX:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    root = zarr.open_group(str(folder), mode="w", zarr_format=2)
    names = root.create_group("labels", attributes={"labels": [LABELS_NAME]})
    group = names.create_group(LABELS_NAME, attributes=_attributes(len(sizes), pixel_size_um))
    return [
        group.create_array(
            str(level),
            shape=size,
            dtype=dtype,
            chunks=(min(_CHUNK_PX, size[0]), min(_CHUNK_PX, size[1])),
            compressors=_COMPRESSOR,
            chunk_key_encoding={"name": "v2", "separator": "/"},
            fill_value=0,
        )
        for level, size in enumerate(sizes)
    ]


def fill_pyramid(levels: Sequence[zarr.Array[Any]]) -> None:
    """Make each level from the one before: every second pixel of every second row.

    Labels are taken, never blended. A pixel of level n is the one at 2ⁿ times its place, so a scale
    of 2ⁿ without a shift is exact. Memory does not grow with the map's size.
    """
    for finer, coarser in pairwise(levels):
        for rows, columns in _blocks(coarser.shape):
            window = (
                slice(2 * rows.start, 2 * rows.stop),
                slice(2 * columns.start, 2 * columns.stop),
            )
            coarser[rows, columns] = np.asarray(finer[window])[::2, ::2]


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Windows of whole chunks that make up a map of that shape; the last ones may be smaller."""
    height, width = shape
    for top in range(0, height, _CHUNK_PX):
        for left in range(0, width, _BLOCK_PX):
            yield (
                slice(top, min(top + _CHUNK_PX, height)),
                slice(left, min(left + _BLOCK_PX, width)),
            )


def _attributes(levels: int, pixel_size_um: tuple[float, float] | None) -> dict[str, Any]:
    """The metadata that OME-NGFF 0.4 asks of a label image."""
    unit = {} if pixel_size_um is None else {"unit": "micrometer"}
    datasets = []
    for level in range(levels):
        scale = [2**level * size for size in pixel_size_um or (1.0, 1.0)]
        transformations = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    multiscale = {
        "version": "0.4",
        "name": LABELS_NAME,
        "type": "nearest",
        "axes": [{"name": axis, "type": "space", **unit} for axis in "yx"],
        "datasets": datasets,
    }
    return {"image-label": {"version": "0.4"}, "multiscales": [multiscale]}


@contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that replaces it when the block ends without an error.

    Two folders cannot change places in one step: what stood at ``path`` is moved aside just before,
    so there is a moment at which neither is there, but none at which half a folder is.
    """
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=path.parent))
    try:
        fresh, old = temporary / "new", temporary / "old"
        fresh.mkdir()
        yield fresh
        for written in (fresh, *fresh.rglob("*")):
            if written.is_dir():
                sync_folder(written)
                continue
            with written.open("rb") as file:
                os.fsync(file.fileno())
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(path.parent)

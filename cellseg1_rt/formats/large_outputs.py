"""The files of an image too large for memory: what ``outputs`` writes, from windows and rows.

Label maps, tables and outlines are the same as those of a whole map. An overlay is made of every
n-th pixel, so that its longer side is at most ``OVERLAY_PX``. Imports numpy; libraries of a format
are imported when it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.formats.cell_windows import measure_in_windows, outlines_in_windows
from cellseg1_rt.formats.label_bands import (
    write_label_ome_rows,
    write_label_png_rows,
    write_label_tiff_rows,
)
from cellseg1_rt.formats.label_rows import LabelRows
from cellseg1_rt.formats.label_zarr import write_label_zarr_rows
from cellseg1_rt.formats.outlines import CellOutline
from cellseg1_rt.formats.outputs import OUTPUT_SUFFIXES
from cellseg1_rt.formats.overlay import write_overlay
from cellseg1_rt.formats.parquet import write_cells_parquet
from cellseg1_rt.formats.planes import PlaneSource
from cellseg1_rt.formats.qupath import write_detection_outlines
from cellseg1_rt.formats.roi_zip import write_roi_outlines
from cellseg1_rt.formats.tables import table_from_cells, write_table_csv
from cellseg1_rt.results import Cells

__all__ = ["OVERLAY_PX", "LargeResult", "write_large_output"]

OVERLAY_PX = 4096
"""Longest side of an overlay."""


@dataclass(frozen=True)
class LargeResult:
    """A segmented image that is not in memory.

    Attributes
    ----------
    labels : of the image's size; 0 is background, cells are 1..K.
    cells : the table of the K cells.
    """

    labels: LabelRows
    cells: Cells


def write_large_output(
    name: str,
    path: Path,
    source: PlaneSource,
    result: LargeResult,
    preview: Callable[[int], tuple[NDArray[np.uint8], NDArray[np.uint32]]],
) -> None:
    """Write one output of one image, whole or not at all.

    Parameters
    ----------
    name : a key of ``OUTPUT_SUFFIXES``.
    path : the file to write, for ``zarr`` the folder.
    source : the image, for intensities and the pixel size.
    preview : makes a picture uint8 [h, w, 3] and its labels whose longer side is at most so many
        px. Called for ``overlay`` only.

    Raises
    ------
    ConfigError : on an unknown name.
    InputError : if the format cannot hold the labels.
    MissingExtraError, OSError : if the format's package, or the place for the file, is missing.
    """
    labels, size = result.labels, source.pixel_size_um
    if name == "tif":
        write_label_tiff_rows(path, labels, size)
    elif name == "ome":
        write_label_ome_rows(path, labels, size)
    elif name == "zarr":
        write_label_zarr_rows(path, labels, size)
    elif name == "png":
        write_label_png_rows(path, labels)
    elif name == "roi":
        write_roi_outlines(path, _outlines(result), labels.shape)
    elif name == "geojson":
        write_detection_outlines(path, _outlines(result), _table(source, result))
    elif name == "csv":
        write_table_csv(path, _table(source, result))
    elif name == "parquet":
        write_cells_parquet(path, _table(source, result))
    elif name == "overlay":
        write_overlay(path, *preview(OVERLAY_PX))
    else:
        raise ConfigError(
            "unknown format",
            where=path,
            got=repr(name),
            expected=f"one of {', '.join(OUTPUT_SUFFIXES)}",
        )


def _outlines(result: LargeResult) -> Iterator[CellOutline]:
    return outlines_in_windows(result.labels, result.cells.box_xyxy)


def _table(source: PlaneSource, result: LargeResult) -> dict[str, NDArray[Any]]:
    size = source.pixel_size_um
    measured = measure_in_windows(result.labels, result.cells.box_xyxy, source.read, size)
    return table_from_cells(result.cells, size, measured)

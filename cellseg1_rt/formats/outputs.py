"""Which files a segmented image can become, and the one function that writes any of them.

Imports numpy. The picture under an overlay is normalised by the runtime, which formats may not
import: the caller hands over how to make it. Libraries of a format are imported when it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.extras import require
from cellseg1_rt.formats.images import Image
from cellseg1_rt.formats.label_maps import write_label_png, write_label_tiff
from cellseg1_rt.formats.label_ome import write_label_ome_tiff
from cellseg1_rt.formats.label_zarr import write_label_zarr
from cellseg1_rt.formats.measurements import measure_cells, pixels_under_labels
from cellseg1_rt.formats.overlay import write_overlay
from cellseg1_rt.formats.parquet import write_cells_parquet
from cellseg1_rt.formats.qupath import write_detections
from cellseg1_rt.formats.roi_zip import write_roi_zip
from cellseg1_rt.formats.tables import table_from_cells, write_table_csv
from cellseg1_rt.results import Result

__all__ = ["OUTPUT_SUFFIXES", "require_for_outputs", "write_output"]

OUTPUT_SUFFIXES: dict[str, str] = {
    "tif": "_labels.tif",
    "ome": "_labels.ome.tif",
    "zarr": ".ome.zarr",
    "png": "_labels.png",
    "roi": "_rois.zip",
    "geojson": "_cells.geojson",
    "csv": "_cells.csv",
    "parquet": "_cells.parquet",
    "overlay": "_overlay.png",
}
"""Values of ``--format`` and what each appends to an image's stem. ``zarr`` makes a folder."""

_EXTRAS = {"parquet": ("pyarrow", "tables"), "zarr": ("zarr", "zarr")}


def require_for_outputs(names: Iterable[str]) -> None:
    """Find out before a job whether each format's package is installed.

    Raises
    ------
    MissingExtraError : with the install line.
    """
    for name in names:
        if name in _EXTRAS:
            package, extra = _EXTRAS[name]
            require(package, extra=extra, needed_for=f"the format {name}")


def write_output(
    name: str,
    path: Path,
    image: Image,
    result: Result,
    *,
    resize: int | None,
    rgb: Callable[[], NDArray[np.uint8]],
) -> None:
    """Write one output of one image, whole or not at all.

    Label maps and tables are in pixels of the labels, outlines in pixels of the image as read: with
    ``resize`` these differ.

    Parameters
    ----------
    name : a key of ``OUTPUT_SUFFIXES``.
    path : the file to write, for ``zarr`` the folder.
    image : the image as read, before it was stretched.
    result : labels [H, W] of the image's size, or [resize, resize], and the table of cells.
    resize : px a side that the image was stretched to before it was segmented, or None.
    rgb : makes the picture under an overlay, uint8 [H, W, 3] of the labels' size. Called for
        ``overlay`` only.

    Raises
    ------
    ConfigError : on an unknown name.
    InputError : if the format cannot hold the labels.
    MissingExtraError : if the format's package is not installed.
    OSError : if the file cannot be written.
    """
    labels, scale_yx = result.labels, _image_px_per_label_px(image, resize)
    pixel_size = None
    if image.pixel_size_um is not None:
        pixel_size = (image.pixel_size_um[0] * scale_yx[0], image.pixel_size_um[1] * scale_yx[1])
    if name == "tif":
        write_label_tiff(path, labels, pixel_size)
    elif name == "ome":
        write_label_ome_tiff(path, labels, pixel_size)
    elif name == "zarr":
        write_label_zarr(path, labels, pixel_size)
    elif name == "png":
        write_label_png(path, labels)
    elif name == "roi":
        write_roi_zip(path, labels, scale_yx[::-1])
    elif name == "geojson":
        write_detections(path, labels, _table(image, result, pixel_size), scale_yx[::-1])
    elif name == "csv":
        write_table_csv(path, _table(image, result, pixel_size))
    elif name == "parquet":
        write_cells_parquet(path, _table(image, result, pixel_size))
    elif name == "overlay":
        write_overlay(path, rgb(), labels)
    else:
        raise ConfigError(
            "unknown format",
            where=path,
            got=repr(name),
            expected=f"one of {', '.join(OUTPUT_SUFFIXES)}",
        )


def _table(
    image: Image, result: Result, pixel_size: tuple[float, float] | None
) -> dict[str, NDArray[Any]]:
    pixels = pixels_under_labels(image.pixels, result.labels.shape)
    measurements = measure_cells(result.labels, pixels, pixel_size)
    return table_from_cells(result.cells, pixel_size, measurements)


def _image_px_per_label_px(image: Image, resize: int | None) -> tuple[float, float]:
    """How many pixels of the image one pixel of the labels covers (y, x)."""
    if resize is None:
        return 1.0, 1.0
    height, width = image.pixels.shape[:2]
    return height / resize, width / resize

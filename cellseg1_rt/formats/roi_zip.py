"""Cells as ImageJ regions: a zip file for the ROI Manager.

What ImageJ fills from a region are the cell's pixels: outlines run along pixel edges, and a pixel
is in if its centre is. A cell in one piece without holes is a traced outline, as ImageJ's wand
makes it; any other is one composite region. ``imagej_rois`` reads both back.

Imports numpy; roifile inside.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError
from cellseg1_rt.files import atomic_path
from cellseg1_rt.formats.outlines import CellOutline, outlines_from_labels

if TYPE_CHECKING:
    from roifile import ImagejRoi

__all__ = ["write_roi_outlines", "write_roi_zip"]

# Boxes are stored in 16 bits, of which ImageJ reads the last 5,000 values as negative.
_LARGEST_COORDINATE = 2**16 - 1 - 5000
_MOVE, _LINE, _CLOSE = 0, 1, 4


def write_roi_zip(
    path: str | PathLike[str], labels: NDArray[Any], scale_xy: tuple[float, float] = (1.0, 1.0)
) -> None:
    """Write one region a cell, named by its label, in the order of labels.

    Without cells the file is an empty zip. Equal arguments give equal bytes.

    Parameters
    ----------
    labels : integer [H, W], 0 is background.
    scale_xy : pixels of the image that one pixel of the labels covers, x and y. Regions are in
        pixels of the image; other scales than 1 give fractions, as float32.

    Raises
    ------
    InputError : if the image is larger than 60,535 px a side.
    """
    write_roi_outlines(path, outlines_from_labels(labels), labels.shape, scale_xy)


def write_roi_outlines(
    path: str | PathLike[str],
    outlines: Iterable[CellOutline],
    shape: tuple[int, ...],
    scale_xy: tuple[float, float] = (1.0, 1.0),
) -> None:
    """The same from the outlines of a label map of ``shape``, one at a time."""
    path = Path(path)
    largest = max(shape[1] * scale_xy[0], shape[0] * scale_xy[1])
    if largest > _LARGEST_COORDINATE:
        raise InputError(
            "an image too large for ImageJ regions",
            where=path,
            got=f"{largest:,.0f} px a side",
            expected=f"at most {_LARGEST_COORDINATE:,}",
            fix="write geojson instead",
        )
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for outline in outlines:
            member = zipfile.ZipInfo(f"{outline.label}.roi")  # dated 1980, not now
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 0  # else the name of the system it was made on
            archive.writestr(member, _roi_from_outline(outline, scale_xy).tobytes())


def _roi_from_outline(outline: CellOutline, scale_xy: tuple[float, float]) -> ImagejRoi:
    from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

    rings = [ring * np.array(scale_xy) for polygon in outline.polygons for ring in polygon]
    points = np.concatenate(rings)
    left, top = (int(edge) for edge in np.floor(points.min(axis=0)))
    right, bottom = (int(edge) for edge in np.ceil(points.max(axis=0)))
    roi = ImagejRoi(
        name=str(outline.label), left=left, top=top, right=right, bottom=bottom, version=227
    )
    if len(rings) > 1:
        roi.roitype = ROI_TYPE.RECT
        roi.multi_coordinates = np.concatenate([_path_from_ring(ring) for ring in rings])
        roi.shape_roi_size = len(roi.multi_coordinates)
        return roi
    roi.roitype = ROI_TYPE.TRACED
    roi.n_coordinates = len(points)
    roi.integer_coordinates = np.rint(points - (left, top)).astype(np.int32)
    if scale_xy != (1.0, 1.0):
        roi.options = ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        roi.subpixel_coordinates = points.astype(np.float32)
    return roi


def _path_from_ring(ring: NDArray[np.float64]) -> NDArray[np.float32]:
    """Move to the first point [N, 2], lines to the others, close; float32 [3 · N + 1]."""
    commands = np.full((len(ring), 1), _LINE)
    commands[0] = _MOVE
    return np.append(np.hstack([commands, ring]).ravel(), _CLOSE).astype(np.float32)

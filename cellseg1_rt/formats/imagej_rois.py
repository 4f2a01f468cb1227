"""ImageJ's regions of interest: one in a .roi file, many in the ROI Manager's .zip.

Polygons, freehand and traced outlines, rectangles (rounded ones too), ovals, ellipses and composite
regions become polygons. Points, lines, angles and text have no area: they are left out, aloud.
A fitted spline is not followed: its corner points are taken, aloud. Nothing in a file says how
large the image is.

Imports numpy and roifile.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.imagej_shapes import oval_ring, rings_from_path, rounded_rectangle_ring
from cellseg1_rt.formats.polygons import Polygon, ring_from_points, spans_from_polygons
from cellseg1_rt.formats.spans import labels_from_spans, listed

__all__ = ["labels_from_rois"]

# roifile logs what it finds odd; see the same line in ``tiff``.
logging.getLogger("roifile").addHandler(logging.NullHandler())

_OUTLINES = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)
_AREAS = (*_OUTLINES, ROI_TYPE.RECT, ROI_TYPE.OVAL)
# Text and pictures that an overlay shows: stored as rectangles.
_DECORATIONS = (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE)
_MOST_BYTES = 2**28  # unpacked; a freehand outline takes about 4 kB


def labels_from_rois(
    path: Path, shape: tuple[int, int], say: Callable[[str], None]
) -> NDArray[np.int32]:
    """Paint the regions in a .roi or .zip file, in its order, into labels int32 [H, W].

    Raises
    ------
    InputError : if the file holds no region with an area, or regions of several slices or frames.
    Exception : whatever roifile and zipfile raise on a file that is cut off or damaged.
    """
    named = _rois_in_file(path)
    _require_one_plane(named, path)
    areas = [(name, roi) for name, roi in named if _has_area(roi)]
    others = [f"{name} ({roi.roitype.name.lower()})" for name, roi in named if not _has_area(roi)]
    if not areas:
        raise InputError(
            "no cells",
            where=path,
            got=listed(others) or "no regions",
            expected="regions with an area: polygons, freehand or traced outlines, ovals",
        )
    if others:
        say(f"{path.name}: left out, no areas: {listed(others)}")
    fitted = [name for name, roi in areas if roi.options & ROI_OPTIONS.SPLINE_FIT]
    if fitted:
        say(f"{path.name}: straight lines instead of the fitted spline: {listed(fitted)}")
    cells = [[_polygon_from_roi(roi, name, path, shape)] for name, roi in areas]
    spans = spans_from_polygons(cells, shape)
    return labels_from_spans(spans, [name for name, _ in areas], shape, path, say)


def _rois_in_file(path: Path) -> list[tuple[str, ImagejRoi]]:
    data = path.read_bytes()
    if data.startswith(b"Iout"):
        roi = ImagejRoi.frombytes(data)
        return [(roi.name or path.stem, roi)]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        # macOS adds a folder of its own, with files of the same names.
        members = [
            member
            for member in archive.infolist()
            if member.filename.lower().endswith(".roi")
            and not member.filename.startswith("__MACOSX/")
        ]
        if not members:
            raise InputError(
                "a zip file without ImageJ regions",
                where=path,
                got=listed(archive.namelist()) or "an empty zip file",
                expected="files that end in .roi",
                fix="save it in ImageJ's ROI Manager: More, Save",
            )
        if sum(member.file_size for member in members) > _MOST_BYTES:
            raise InputError(
                "regions that unpack to too much",
                where=path,
                got=f"{sum(member.file_size for member in members):,} bytes",
                expected=f"at most {_MOST_BYTES:,}",
            )
        rois = [ImagejRoi.frombytes(archive.read(member)) for member in members]
    names = [PurePosixPath(member.filename).stem for member in members]
    return [(roi.name or name, roi) for roi, name in zip(rois, names, strict=True)]


def _has_area(roi: ImagejRoi) -> bool:
    return roi.roitype in _AREAS and roi.subtype not in _DECORATIONS


def _require_one_plane(named: Sequence[tuple[str, ImagejRoi]], path: Path) -> None:
    """One slice and one frame, of which 0 means any. Channels are no planes: their cells agree."""
    for field, what in (("position", "slice"), ("z_position", "slice"), ("t_position", "frame")):
        first_on: dict[int, str] = {}
        for name, roi in named:
            first_on.setdefault(getattr(roi, field), name)
        first_on.pop(0, None)
        if len(first_on) > 1:
            raise InputError(
                f"regions on several {what}s of a stack",
                where=path,
                got=listed([f"{name} on {what} {n}" for n, name in sorted(first_on.items())]),
                expected=f"regions on one {what}",
                fix="save the regions of the plane to train on as their own file",
            )


def _polygon_from_roi(roi: ImagejRoi, name: str, path: Path, shape: tuple[int, int]) -> Polygon:
    if roi.composite:
        if roi.multi_coordinates is None:
            raise ValueError("a composite region without its path")
        rings = rings_from_path(roi.multi_coordinates)
        return tuple(ring_from_points(ring, name, path) for ring in rings)
    if roi.roitype in _OUTLINES:
        return (ring_from_points(roi.coordinates(), name, path),)
    left, top, width, height = _box(roi)
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    rectangle = ring_from_points(corners, name, path)
    if width <= 0 or height <= 0:
        return ()
    if roi.roitype == ROI_TYPE.OVAL:
        return (oval_ring(left, top, width, height, image_height=shape[0]),)
    if roi.rounded_rect_arc_size > 0:
        return (rounded_rectangle_ring(left, top, width, height, roi.rounded_rect_arc_size),)
    return (rectangle,)


def _box(roi: ImagejRoi) -> tuple[float, float, float, float]:
    """Left, top, width and height in px."""
    if roi.subpixelrect:
        return roi.xd, roi.yd, roi.widthd, roi.heightd
    return roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top

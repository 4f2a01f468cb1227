"""Warnings, with numbers, about annotations that a model learns badly from.

With one training image every mistake in it is taught many times. These are the ones that can be
seen without knowing the cells: too few, cut at the edges, merged, in pieces, forgotten. The limits
below were set on hand-made annotations of ten kinds of images. NumPy, OpenCV and SciPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellseg1_rt.errors import InputError
from cellseg1_rt.train.lora_sample_settings import SampleSettings
from cellseg1_rt.train.lora_tiles import number_cells, require_pair

__all__ = ["annotation_warnings"]

FEW_CELLS = 20
CUT_SHARE = 0.4
WHOLE_IMAGE_SHARE = 0.9

MERGED_AREA, MERGED_DENT, MERGED_SPREADS = 1.5, 0.06, 2.0
"""A merged cell has this many times the median area, and its share of its convex hull lies this far
below the median one, and this many robust standard deviations: two round cells make a waist."""

CLOSE_PX = 2
"""Rims of labelled cells, drawn a little too small, are not look-alikes."""
LIKE_AREA = (0.5, 2.0)
"""A look-alike's area, in median areas of the labelled cells."""
LEAST_CONTRAST = 5.0
"""Levels of 255 between cells and background, in the channel that differs most, below which colour
does not tell them apart."""
LEAST_BACKGROUND_PX = 100
MERGED_CELLS, LIKE_CELLS, SOME_SHARE = 2, 2, 0.03
"""Warnings need this many of them and this share of the cells: one may well be right."""


@dataclass(frozen=True)
class _Cells:
    """N regions of a label map, in the order of their labels.

    Attributes
    ----------
    area_px : int64 [N].
    solidity : float64 [N], share of the convex hull's pixels, 0..1.
    pieces : int64 [N], 8-connected.
    at_edge : bool [N], touches the image's edge.
    centre_xy : float64 [N, 2], of the box, (x, y), pixels.
    """

    area_px: NDArray[np.int64]
    solidity: NDArray[np.float64]
    pieces: NDArray[np.int64]
    at_edge: NDArray[np.bool_]
    centre_xy: NDArray[np.float64]


def annotation_warnings(labels: NDArray[np.int32], image: NDArray[np.uint8]) -> list[str]:
    """One line for each thing that looks wrong about an annotation; none where all looks well.

    Parameters
    ----------
    labels : int32 [H, W], 0 is background.
    image : uint8 [H, W, 3], RGB.

    Raises
    ------
    InputError : if labels and image do not match, there is no cell, or one cell is all there is.
    """
    require_pair(image, labels, where="annotation")
    numbered = number_cells(labels)
    _require_cells(numbered)
    cells = _measured(numbered)
    found = (_few(cells), _cut(cells), _merged(cells), _pieces(cells))
    return [line for line in (*found, _look_alikes(cells, numbered, image)) if line is not None]


def _require_cells(labels: NDArray[np.int32]) -> None:
    areas = np.bincount(labels.ravel(), minlength=2)[1:]
    if not areas.any():
        raise InputError(
            "no labelled cell", where="annotation", expected="labels from 1 on", fix="label cells"
        )
    share = areas.max() / labels.size
    if share >= WHOLE_IMAGE_SHARE:
        raise InputError(
            "one cell covers everything",
            where="annotation",
            got=f"{share:.0%} of the image",
            expected=f"less than {WHOLE_IMAGE_SHARE:.0%}",
            fix="give the background label 0",
        )


def _measured(labels: NDArray[np.int32]) -> _Cells:
    boxes = ndimage.find_objects(labels)
    rows = [_region(labels[box] == label) for label, box in enumerate(boxes, start=1)]
    area, solidity, pieces = (np.array(column) for column in zip(*rows, strict=True))
    spans = np.array([[(side.start, side.stop) for side in box] for box in boxes])
    at_edge = (spans[:, :, 0] == 0) | (spans[:, :, 1] == labels.shape)
    centre_xy = (spans.sum(axis=2)[:, ::-1] - 1) / 2
    return _Cells(area, solidity, pieces, at_edge.any(axis=1), centre_xy)


def _region(mask: NDArray[np.bool_]) -> tuple[int, float, int]:
    """Area, solidity and pieces of a mask in its tight box."""
    pixels = mask.astype(np.uint8)
    area = int(pixels.sum())
    hull = cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32))
    filled: Any = cv2.fillConvexPoly(np.zeros_like(pixels), hull, 1)
    pieces = cv2.connectedComponents(pixels, connectivity=8)[0] - 1
    return area, area / int(filled.sum()), pieces


def _few(cells: _Cells) -> str | None:
    count = len(cells.area_px)
    smallest = SampleSettings.smallest_cell_px
    large = np.count_nonzero(cells.area_px > smallest)
    if large >= FEW_CELLS:
        return None
    used = "" if large == count else f", {large} of them above {smallest} px (others are not used)"
    return (
        f"few cells: {count} labelled{used}; a tile has room for {SampleSettings.most_cells}: "
        f"label {FEW_CELLS} or more"
    )


def _cut(cells: _Cells) -> str | None:
    count, cut = len(cells.at_edge), np.count_nonzero(cells.at_edge)
    if cut < CUT_SHARE * count:
        return None
    return (
        f"cut cells: {cut} of {count} ({cut / count:.0%}) touch the image's edge: "
        "choose an image that shows more whole cells"
    )


def _merged(cells: _Cells) -> str | None:
    area = cells.area_px / np.median(cells.area_px)
    usual = np.median(cells.solidity)
    spread = 1.4826 * np.median(np.abs(cells.solidity - usual))
    dented = cells.solidity < usual - max(MERGED_DENT, MERGED_SPREADS * spread)
    merged = dented & (area > MERGED_AREA) & (cells.pieces == 1)
    if not _some(merged, MERGED_CELLS, len(area)):
        return None
    return (
        f"merged cells: {np.count_nonzero(merged)} of {len(area)} are much larger than the median "
        f"({np.median(cells.area_px):.0f} px) and dented, as touching cells with one label are, "
        f"{_places(cells, merged)}: give each cell its own label"
    )


def _pieces(cells: _Cells) -> str | None:
    split = cells.pieces > 1
    if not split.any():
        return None
    return (
        f"labels in pieces: {np.count_nonzero(split)} of {len(split)} labels consist of several "
        f"separate pieces, up to {cells.pieces.max()}, {_places(cells, split)}: "
        "give each cell its own label, and erase stray pixels"
    )


def _look_alikes(cells: _Cells, labels: NDArray[np.int32], image: NDArray[np.uint8]) -> str | None:
    """Regions beside the labels with the colour, the size and the compactness of labelled cells.

    Colour is a pixel's place on the line from the background's median colour (0) to the cells'
    median colour (1). A region is where that is above ½; it is a look-alike if its median reaches
    the paler quarter of the labelled cells. Where cells have the background's colour, as in phase
    contrast, nothing can be said, and nothing is.
    """
    reach = 2 * CLOSE_PX + 1
    beside = cv2.dilate((labels > 0).astype(np.uint8), np.ones((reach, reach), np.uint8)) == 0
    if np.count_nonzero(beside) < LEAST_BACKGROUND_PX:
        return None
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)
    background = np.median(smooth[beside], axis=0)
    colours = np.array([np.median(values, axis=0) for values in _by_label(smooth, labels)])
    towards = np.median(colours, axis=0) - background
    if np.abs(towards).max() < LEAST_CONTRAST:
        return None
    likeness = (smooth - background) @ towards / (towards @ towards)
    mark = ((likeness > 0.5) & beside).astype(np.uint8)
    opened = cv2.morphologyEx(mark, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    regions = np.asarray(cv2.connectedComponents(opened, connectivity=4)[1], np.int32)
    low, high = (factor * np.median(cells.area_px) for factor in LIKE_AREA)
    regions = _of_area(regions, low, high)
    if not regions.any():
        return None
    found = _measured(regions)
    typical = np.array([np.median(values) for values in _by_label(likeness, regions)])
    paler = np.quantile((colours - background) @ towards / (towards @ towards), 0.25)
    compact = found.solidity > np.quantile(cells.solidity, 0.1) - 0.05
    alike = compact & (typical > paler)
    if not _some(alike, LIKE_CELLS, len(cells.area_px)):
        return None
    return (
        f"unlabelled look-alikes: {np.count_nonzero(alike)} regions outside the "
        f"{len(cells.area_px)} labels have the colour and size of labelled cells, "
        f"{_places(found, alike)}: label them, or they are taught to be background"
    )


def _by_label(values: NDArray[np.float32], labels: NDArray[np.int32]) -> list[NDArray[np.float32]]:
    """The values [n, ...] under each label 1..N."""
    boxes = enumerate(ndimage.find_objects(labels), start=1)
    return [values[box][labels[box] == label] for label, box in boxes]


def _of_area(regions: NDArray[np.int32], low: float, high: float) -> NDArray[np.int32]:
    """The regions with an area between the two, numbered 1..n."""
    areas = np.bincount(regions.ravel())
    kept = (areas > low) & (areas < high)
    kept[0] = False
    return number_cells(np.where(kept[regions], regions, 0).astype(np.int32))


def _some(found: NDArray[np.bool_], least: int, cells: int) -> bool:
    return int(np.count_nonzero(found)) >= max(least, SOME_SHARE * cells)


def _places(cells: _Cells, which: NDArray[np.bool_], most: int = 3) -> str:
    """Where the first of them are, for a person to look."""
    centres = cells.centre_xy[which][:most]
    words = ", ".join(f"({x:.0f}, {y:.0f})" for x, y in centres)
    return f"at (x, y) {words}" + (" and more" if np.count_nonzero(which) > most else "")

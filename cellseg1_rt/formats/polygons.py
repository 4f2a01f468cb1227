"""Polygons to pixels: a pixel is in where its centre is.

Coordinates are (x, y) in px, x to the right and y down, and pixel (0, 0) is the square from (0, 0)
to (1, 1), so its centre is (0.5, 0.5): what ImageJ, QuPath and COCO mean. The rings of a polygon
count together by the even-odd rule, so a ring inside another is a hole. A centre exactly on an
outline is in on upper and right edges and out on lower and left ones, as in ImageJ; polygons that
share an edge therefore share no pixel. For coordinates with few digits (multiples of 1/64 up to
65,536, say) all of this is exact.

Imports numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.spans import Spans

__all__ = ["Polygon", "Ring", "ring_from_points", "spans_from_polygons"]

# Beyond these, float64 no longer tells neighbouring pixels' centres from crossings.
_LARGEST_COORDINATE = 1e8

Ring = NDArray[np.float64]
"""float64 [N, 2] of finite (x, y) in px; the last point joins the first, given twice or not."""

Polygon = tuple[Ring, ...]
"""Rings that count together by the even-odd rule: an outline and its holes."""


def ring_from_points(points: Any, name: str, path: Path) -> Ring:
    """Check that ``points`` are [N, 2] or [N, 3] numbers (x, y and an ignored z) in px.

    Raises
    ------
    InputError : if they are not, or are not finite, or lie beyond 100,000,000 px.
    """
    try:
        ring = np.asarray(points)
    except ValueError:  # points of unequal lengths
        ring = np.empty(0, object)
    if ring.size == 0 and ring.dtype != object:
        return np.empty((0, 2))
    if ring.ndim != 2 or ring.shape[1] not in (2, 3) or ring.dtype.kind not in "uif":
        raise InputError(
            f"{name} has an outline that is not a list of points",
            where=path,
            got=f"{ring.dtype} {ring.shape}",
            expected="pairs of numbers, x and y",
        )
    ring = ring[:, :2].astype(np.float64)
    if not (np.isfinite(ring).all() and np.abs(ring).max() <= _LARGEST_COORDINATE):
        raise InputError(
            f"{name} has a coordinate out of range",
            where=path,
            got=f"{ring[~(np.abs(ring) <= _LARGEST_COORDINATE)][0]:g}",
            expected=f"pixels, at most {_LARGEST_COORDINATE:,.0f} either way",
        )
    return ring


def spans_from_polygons(cells: Sequence[Sequence[Polygon]], shape: tuple[int, int]) -> list[Spans]:
    """The pixels of cells, each of one or more polygons that are united.

    Every edge meets each row of centres in its reach at one crossing. Sorted by polygon, row and
    column, crossings alternate between the start and the stop of a run.

    Parameters
    ----------
    cells : for each cell its polygons. What sticks out of the image is cut off.
    shape : (height, width) in px.

    Returns
    -------
    One for each cell; without runs where no centre is inside.
    """
    height, width = shape
    polygons = [polygon for cell in cells for polygon in cell]
    owners = np.repeat(np.arange(len(cells)), [len(cell) for cell in cells])
    starts, ends, polygon_of_edge = _edges(polygons)
    edge, row, column = _crossings(starts, ends, shape)
    # One whole number a crossing: an outline closes, so each row of a polygon has an even number.
    keys = np.sort((polygon_of_edge[edge] * height + row) * (width + 1) + column)
    line, columns = np.divmod(keys.reshape(-1, 2), width + 1)
    line, columns = line[columns[:, 0] < columns[:, 1], 0], columns[columns[:, 0] < columns[:, 1]]
    runs = (line % height * width)[:, np.newaxis] + columns
    limits = np.searchsorted(owners[line // height], np.arange(len(cells) + 1))
    return [Spans(runs[first:last, 0], runs[first:last, 1]) for first, last in pairwise(limits)]


def _edges(
    polygons: Sequence[Polygon],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Upper ends [E, 2] and lower ends [E, 2] of all edges, and which polygon each belongs to."""
    rings = [ring for polygon in polygons for ring in polygon if len(ring) > 0]
    owners = [i for i, polygon in enumerate(polygons) for ring in polygon if len(ring) > 0]
    lengths = np.array([len(ring) for ring in rings], np.int64)
    points = np.concatenate([np.empty((0, 2)), *rings])
    following = np.arange(1, len(points) + 1)
    lasts = np.cumsum(lengths) - 1
    following[lasts] = lasts - lengths + 1
    others = points[following]
    down = points[:, 1] <= others[:, 1]
    upper = np.where(down[:, np.newaxis], points, others)
    lower = np.where(down[:, np.newaxis], others, points)
    return upper, lower, np.repeat(np.array(owners, np.int64), lengths)


def _crossings(
    upper: NDArray[np.float64], lower: NDArray[np.float64], shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where edges cross the rows of centres.

    Returns
    -------
    edge, row, column : int64 [X]. ``column``, 0..width, is the first whose centre lies strictly to
        the right of the crossing.
    """
    height, width = shape
    # Row r is met where upper y <= r + 0.5 < lower y.
    first, last = (
        np.clip(np.ceil(ends[:, 1] - 0.5), 0, height).astype(np.int64) for ends in (upper, lower)
    )
    counts = last - first
    edge = np.repeat(np.arange(len(upper)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    x, y = upper[edge].T
    rise = lower[edge, 1] - y
    run = lower[edge, 0] - x
    drop = row + 0.5 - y
    column = np.clip(np.floor(x + drop / rise * run + 0.5), 0, width).astype(np.int64)

    # The division may round a crossing at a centre to its left. Told without one: that centre is
    # not strictly to the right.
    column += (column < width) & ((column + 0.5 - x) * rise <= run * drop)
    return edge, row, column

"""Where the overlapping tiles of a large plane lie, and how far from their borders a box is.

A tile is a window of the plane that the model sees as one image. All numbers are pixels of the
plane. Imports numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.geometry import Crop

__all__ = ["Clearance", "TilePlan", "plan_tiles"]

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Clearance:
    """How far N boxes are from the borders of a tile, px; a side on the plane's edge is no border.

    Attributes
    ----------
    rows, columns : int64 [N], to the nearer border above or below, and left or right. Less than 0
        where the box reaches out of the tile.
    best_rows, best_columns : int64 [N], the same in the tiles of the plan in which it is largest.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    best_rows: NDArray[np.int64]
    best_columns: NDArray[np.int64]


@dataclass(frozen=True)
class TilePlan:
    """Rows and columns of tiles that cover a plane; each row crosses each column in a tile.

    Attributes
    ----------
    height, width : of the plane.
    tile_px : longer side of a tile; a plane that is narrower gives narrower tiles.
    overlap_px : that neighbours share at least.
    edge_px : a box this near a tile's border (inclusive) is cut by it.
    rows, columns : (first, end) of each, ascending; ends are exclusive.
    """

    height: int
    width: int
    tile_px: int
    overlap_px: int
    edge_px: int
    rows: Spans
    columns: Spans

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def tile_area_px(self) -> int:
        """Pixels of a tile; all are of one size."""
        return (self.rows[0][1] - self.rows[0][0]) * (self.columns[0][1] - self.columns[0][0])

    def tiles_of_row(self, row: int) -> range:
        """Numbers of the tiles of a row, from left to right."""
        return range(row * len(self.columns), (row + 1) * len(self.columns))

    def window(self, tile: int) -> Crop:
        """Where a tile lies."""
        row, column = divmod(tile, len(self.columns))
        (y0, y1), (x0, x1) = self.rows[row], self.columns[column]
        return Crop(x0, y0, x1, y1)

    def clearance(self, boxes: NDArray[Any], tile: int) -> Clearance:
        """How far boxes are from the borders of a tile.

        Parameters
        ----------
        boxes : int [N, 4], first and last pixel (x0, y0, x1, y1), both inclusive.
        tile : its number.
        """
        row, column = divmod(tile, len(self.columns))
        x0, y0, x1, y1 = np.asarray(boxes, np.int64).T
        by_row = _clearances(y0, y1, self.rows, self.height, self.height + self.width)
        by_column = _clearances(x0, x1, self.columns, self.width, self.height + self.width)
        return Clearance(
            by_row[:, row], by_column[:, column], by_row.max(axis=1), by_column.max(axis=1)
        )


def plan_tiles(shape: tuple[int, int], tile_px: int, overlap_px: int, edge_px: int) -> TilePlan:
    """Cover a plane with the fewest tiles that overlap by at least ``overlap_px``.

    They are spread evenly, so the first and the last end with the plane and all are of one size.

    Parameters
    ----------
    shape : (height, width) of the plane.
    tile_px : side of a tile, more than ``overlap_px``.
    """
    height, width = shape
    rows, columns = (_spans(length, tile_px, overlap_px) for length in shape)
    return TilePlan(height, width, tile_px, overlap_px, edge_px, rows, columns)


def _spans(length: int, tile: int, overlap: int) -> Spans:
    if length <= tile:
        return ((0, length),)
    count = math.ceil((length - overlap) / (tile - overlap))
    # In whole numbers, so that starts are the same on every machine.
    starts = [k * (length - tile) // (count - 1) for k in range(count)]
    return tuple((start, start + tile) for start in starts)


def _clearances(
    first: NDArray[np.int64], last: NDArray[np.int64], spans: Spans, length: int, far: int
) -> NDArray[np.int64]:
    """To the nearer border of each span, int64 [N, S]; ``far`` where neither end is a border.

    The end is the pixel after the last, as in the rule for crops (``candidates``).
    """
    starts, ends = np.array(spans, np.int64).T
    before = np.where(starts == 0, far, first[:, None] - starts)
    after = np.where(ends == length, far, ends - last[:, None])
    return np.minimum(before, after)

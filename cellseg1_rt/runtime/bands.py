"""Cells of a large plane painted from the top down, a band of rows at a time.

Rule 7 of CellSeg1's inference as ``paint`` has it, for planes of which no more than a band is in
memory. Imports numpy and the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.results import Cells
from cellseg1_rt.runtime.kernels.painting import measure_labels, paint_runs
from cellseg1_rt.runtime.pieces import Piece

__all__ = ["BandPainter"]


_SEEN = np.dtype(
    [
        ("score", np.float32),
        ("stability", np.float32),
        ("point_xy", np.float32, 2),
        ("area", np.int64),
        ("sum_xy", np.int64, 2),
        ("box", np.int32, 4),
    ]
)
"""What is kept of a cell: of its piece, and of the pixels that were painted of it so far."""


class _Table:
    """Rows of ``_SEEN``, to which more can be added."""

    def __init__(self) -> None:
        self._rows, self._count = np.zeros(256, _SEEN), 0

    @property
    def rows(self) -> NDArray[np.void]:
        """A view, until the next is added."""
        return self._rows[: self._count]

    def add(self, piece: Piece) -> int:
        """A row for a cell of which no pixel was seen; the number of rows, which is its number."""
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        row = self._rows[self._count]
        row["score"], row["stability"] = piece.score, piece.stability
        row["point_xy"] = piece.point_xy
        self._count += 1
        return self._count

    def grow(
        self,
        row: NDArray[np.int64],
        area: NDArray[np.int64],
        sum_xy: NDArray[np.int64],
        box: NDArray[np.int32],
    ) -> None:
        """Add pixels to K different rows: how many, the sums of their x and y, and their box."""
        seen = self.rows
        is_first = seen["area"][row] == 0
        before = np.where(is_first[:, np.newaxis], box, seen["box"][row])
        seen["box"][row, :2] = np.minimum(before[:, :2], box[:, :2])
        seen["box"][row, 2:] = np.maximum(before[:, 2:], box[:, 2:])
        seen["area"][row] += area
        seen["sum_xy"][row] += sum_xy


class BandPainter:
    """Paints the cells it is given into rows that no more cells will reach.

    The pixels are those of painting all cells at once: largest area first, smaller ones on top, the
    later tile on top of equal ones. Cells are numbered 1, 2, 3 ... in the order of the bands in
    which they are first seen, inside a band in the order of painting; there are no gaps.

    Parameters
    ----------
    width : of the plane.
    """

    def __init__(self, width: int) -> None:
        self._width, self._top = width, 0
        self._held: list[Piece] = []
        self._numbers: dict[int, int] = {}  # of the held cells that were seen, by id
        self._table = _Table()

    def add(self, cells: Sequence[Piece]) -> None:
        """Cells, none of which begins above the rows that were painted."""
        self._held += cells

    def paint_to(self, end: int) -> NDArray[np.uint32]:
        """The next rows up to ``end`` (exclusive): labels uint32 [rows, width].

        All cells that reach them must have been added.
        """
        chosen = [piece for piece in self._held if piece.box[1] < end]
        chosen.sort(key=lambda piece: (-piece.area_px, piece.tile, piece.is_cut, piece.place))
        labels = self._painted(chosen, end)
        rows = labels[self._top - self._first_row(chosen) :][: end - self._top]
        numbers = self._count(chosen, np.ascontiguousarray(rows))
        self._top = end
        self._held = [piece for piece in self._held if piece.box[3] >= end]
        held = {id(piece) for piece in self._held}
        self._numbers = {key: value for key, value in self._numbers.items() if key in held}
        return numbers[rows]

    def cells(self) -> Cells:
        """The table of all cells that were painted; it is complete after the last row."""
        seen = self._table.rows
        return Cells(
            label=np.arange(1, len(seen) + 1, dtype=np.int32),
            area_px=seen["area"].copy(),
            box_xyxy=seen["box"].copy(),
            centroid_xy=seen["sum_xy"] / seen["area"][:, np.newaxis],
            score=seen["score"].copy(),
            stability=seen["stability"].copy(),
            point_xy=seen["point_xy"].copy(),
        )

    def _first_row(self, chosen: Sequence[Piece]) -> int:
        """Where the canvas begins: cells that began in an earlier band are painted again."""
        return min([self._top, *(piece.box[1] for piece in chosen)])

    def _painted(self, chosen: Sequence[Piece], end: int) -> NDArray[np.uint32]:
        """A canvas that holds all of the chosen cells, with their places counted from 1."""
        first = self._first_row(chosen)
        last = max([end - 1, *(piece.box[3] for piece in chosen)])
        canvas = np.zeros((last + 1 - first, self._width), np.uint32)
        ends = np.cumsum([len(piece.runs) for piece in chosen], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(chosen)]
        runs = np.concatenate([np.zeros((0, 3), np.int32), *(piece.runs for piece in chosen)])
        runs -= np.array([first, 0, 0], np.int32)
        paint_runs(np.arange(len(chosen)), starts, ends, runs, canvas)
        return canvas

    def _count(self, chosen: Sequence[Piece], rows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Add the band to what was seen of each cell; the number of each place, 0 for none."""
        count = len(chosen)
        area, sums = np.zeros(count + 1, np.int64), np.zeros((count + 1, 2), np.int64)
        box = np.zeros((count + 1, 4), np.int32)
        measure_labels(rows, area, sums, box)
        box[:, [1, 3]] += self._top
        sums[:, 1] += self._top * area
        numbers = np.zeros(count + 1, np.uint32)
        places = np.flatnonzero(area)
        for place in places.tolist():
            piece = chosen[place - 1]
            if id(piece) not in self._numbers:
                self._numbers[id(piece)] = self._table.add(piece)
            numbers[place] = self._numbers[id(piece)]
        at = numbers[places].astype(np.int64) - 1
        self._table.grow(at, area[places], sums[places], box[places])
        return numbers

"""Cells of a large plane painted from the top down, a band of rows at a time.

Rule 7 of CellSeg1's inference as ``paint`` has it, for planes of which no more than a band is in
memory. Imports numpy and the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.results import Cells
from cellseg1_rt.runtime.kernels.painting import measure_labels, paint_runs
from cellseg1_rt.runtime.pieces import Piece

__all__ = ["BandPainter"]


@dataclass
class _Seen:
    """A cell without its mask, and what was painted of it so far.

    Attributes
    ----------
    score, stability, point_xy : of its piece.
    area, sum_xy, box : pixels, the sums of their x and y, and their box; empty before the first.
    """

    score: float
    stability: float
    point_xy: tuple[float, float]
    area: int = 0
    sum_xy: tuple[int, int] = (0, 0)
    box: list[int] = field(default_factory=list)


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
        self._seen: list[_Seen] = []

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
        boxes = np.array([seen.box for seen in self._seen], np.int32).reshape(-1, 4)
        area = np.array([seen.area for seen in self._seen], np.int64)
        sums = np.array([seen.sum_xy for seen in self._seen], np.int64).reshape(-1, 2)
        points = np.array([seen.point_xy for seen in self._seen], np.float32)
        return Cells(
            label=np.arange(1, len(area) + 1, dtype=np.int32),
            area_px=area,
            box_xyxy=boxes,
            centroid_xy=sums / area[:, None],
            score=np.array([seen.score for seen in self._seen], np.float32),
            stability=np.array([seen.stability for seen in self._seen], np.float32),
            point_xy=points.reshape(-1, 2),
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
        numbers = np.zeros(count + 1, np.uint32)
        for place in np.flatnonzero(area).tolist():
            piece = chosen[place - 1]
            if id(piece) not in self._numbers:
                self._seen.append(_Seen(piece.score, piece.stability, piece.point_xy))
                self._numbers[id(piece)] = len(self._seen)
            numbers[place] = self._numbers[id(piece)]
            sum_x, sum_y = sums[place].tolist()
            x0, y0, x1, y1 = box[place].tolist()
            seen = self._seen[self._numbers[id(piece)] - 1]
            seen.sum_xy = (
                seen.sum_xy[0] + sum_x,
                seen.sum_xy[1] + sum_y + self._top * int(area[place]),
            )
            seen.area += int(area[place])
            found = [x0, y0 + self._top, x1, y1 + self._top]
            seen.box = _joined(seen.box, found) if seen.box else found
        return numbers


def _joined(one: list[int], other: list[int]) -> list[int]:
    return [*map(min, one[:2], other[:2]), *map(max, one[2:], other[2:])]

"""Between tiles: which pieces become cells of the plane, decided as rows of tiles come in.

The rule. (1) A cell is taken whole from the tile in which its box is farthest from the tile's
borders: of two pieces of different tiles whose IoU is above ``crop_nms``, the one with more
clearance stays, decided greedily, best first (as the NMS over crops does with its rank). A piece
that another tile holds a little farther inside counts only where another tile has such a piece,
too: else the overlaps, which are looked at two to four times, would collect more cells than the
rest of the plane. It counts at all because boxes differ a little from tile to tile, so that in the
middle of an overlap each tile might leave a cell to the other. (2) A cell
that every tile cuts is put together: cut pieces of two tiles belong together where their IoU inside
the window that both tiles see is at least ``UNION_IOU``. The union counts only if another part
comes as near to each border that cuts one, in a tile that sees what is behind it, so that no
straight cut is left, and if its area passes the ratio; it ranks after all whole pieces.

What is decided does not depend on how much was known when: a piece waits until every tile that
could contradict it, or contradict what contradicts it, was seen. Imports numpy and the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime.kernels.run_overlaps import count_common
from cellseg1_rt.runtime.pieces import Piece
from cellseg1_rt.runtime.tiles import TilePlan
from cellseg1_rt.runtime.unions import are_one_cell, union_of_pieces
from cellseg1_rt.settings import InferenceSettings

__all__ = ["Stitcher", "resolve"]


class Stitcher:
    """Takes the pieces of tiles, row by row of tiles, and gives back the cells that are decided."""

    def __init__(self, plan: TilePlan, settings: InferenceSettings) -> None:
        self._plan, self._settings = plan, settings
        self._pending: list[Piece] = []
        self._links: list[tuple[int, int]] = []  # places in `_pending`

    def add(self, pieces: Sequence[Piece]) -> None:
        """Take the pieces of one tile, which is of the row of the one before or of the next."""
        first = len(self._pending)
        boxes = np.array([piece.box for piece in self._pending], np.int64).reshape(-1, 4)
        self._pending += pieces
        for place, piece in enumerate(pieces, first):
            near = [*np.flatnonzero(_boxes_meet(boxes, piece.box)).tolist()]
            near += range(first, place)
            for other in near:
                if self._are_linked(self._pending[other], piece):
                    self._links.append((other, place))

    def settle(self, top: int) -> tuple[list[Piece], int]:
        """The cells that are decided once all tiles that see rows above ``top`` were added.

        Parameters
        ----------
        top : first row of pixels that tiles to come can see.

        Returns
        -------
        Cells, and the row of pixels above which none is to come.
        """
        if not self._pending:
            return [], top
        group = _groups(len(self._pending), self._links)
        bottoms = np.zeros(group.max() + 1, np.int64)
        np.maximum.at(bottoms, group, [piece.box[3] for piece in self._pending])
        is_ready = (bottoms < top)[group]
        cells: list[Piece] = []
        for members in _members(group, is_ready):
            pieces = [self._pending[member] for member in members]
            cells += resolve(pieces, self._plan, self._settings)
        self._forget(is_ready)
        return cells, min([top, *(piece.box[1] for piece in self._pending)])

    def _are_linked(self, one: Piece, other: Piece) -> bool:
        """Whether the fate of one can depend on the other."""
        if one.is_cut or other.is_cut:
            return count_common(one.runs, other.runs) > 0
        return one.tile != other.tile and _iou(one, other) > self._settings.crop_nms

    def _forget(self, is_ready: NDArray[np.bool_]) -> None:
        new_place = np.cumsum(~is_ready) - 1
        self._pending = [
            piece for piece, ready in zip(self._pending, is_ready, strict=True) if not ready
        ]
        self._links = [
            (int(new_place[one]), int(new_place[other]))
            for one, other in self._links
            if not is_ready[one]
        ]


def resolve(pieces: Sequence[Piece], plan: TilePlan, settings: InferenceSettings) -> list[Piece]:
    """The cells among pieces, by the rule at the top of this module.

    Parameters
    ----------
    pieces : all that depend on each other; more do no harm.
    """
    whole = [piece for piece in pieces if not piece.is_cut]
    ranked = sorted((p for p in whole if p.is_own or _is_confirmed(p, whole, settings)), key=_rank)
    ranked += sorted(
        _unions([piece for piece in pieces if piece.is_cut], plan, settings), key=_rank
    )
    kept: list[Piece] = []
    for piece in ranked:
        against = [other for other in kept if piece.is_cut or other.tile != piece.tile]
        if all(_iou(piece, other) <= settings.crop_nms for other in against):
            kept.append(piece)
    return kept


def _is_confirmed(piece: Piece, others: Sequence[Piece], settings: InferenceSettings) -> bool:
    """Whether another tile found it, too."""
    return any(
        other.tile != piece.tile and _iou(piece, other) > settings.crop_nms for other in others
    )


def _rank(piece: Piece) -> tuple[float, ...]:
    """What pieces are sorted by, best first: clearance, then score, then the order of tiles."""
    nearest, both = piece.clearance_px
    return -nearest, -both, -piece.score, piece.tile, piece.place


def _unions(cut: Sequence[Piece], plan: TilePlan, settings: InferenceSettings) -> list[Piece]:
    """Cells put together from pieces that every tile cuts."""
    links = [
        (a, b) for b in range(len(cut)) for a in range(b) if are_one_cell(cut[a], cut[b], plan)
    ]
    group = _groups(len(cut), links)
    found = []
    for members in _members(group, np.ones(len(cut), bool)):
        union = union_of_pieces([cut[member] for member in members], plan)
        ceiling = settings.max_area_ratio * plan.tile_area_px
        if union is not None and (ceiling == 0 or union.area_px < ceiling):
            found.append(union)
    return found


def _iou(one: Piece, other: Piece) -> float:
    if not _boxes_meet(np.array([one.box]), other.box)[0]:
        return 0.0
    common = count_common(one.runs, other.runs)
    return common / (one.area_px + other.area_px - common)


def _boxes_meet(boxes: NDArray[np.int64], box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = box
    return np.asarray(
        (boxes[:, 0] <= x1) & (boxes[:, 2] >= x0) & (boxes[:, 1] <= y1) & (boxes[:, 3] >= y0)
    )


def _groups(count: int, links: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """The group of each of ``count`` linked nodes, numbered in the order of their first nodes."""
    root = list(range(count))

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for one, other in links:
        first, second = sorted((find(one), find(other)))
        root[second] = first
    roots = np.array([find(node) for node in range(count)], np.int64)
    return np.asarray(np.unique(roots, return_inverse=True)[1], np.int64)


def _members(group: NDArray[np.int64], wanted: NDArray[np.bool_]) -> list[list[int]]:
    """The nodes of each wanted group, in their order."""
    nodes = np.flatnonzero(wanted)
    nodes = nodes[np.argsort(group[nodes], kind="stable")]
    limits = np.flatnonzero(np.diff(group[nodes], prepend=-1, append=-1))
    return [nodes[start:stop].tolist() for start, stop in pairwise(limits)]

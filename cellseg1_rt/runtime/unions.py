"""Cells that every tile cuts, put together from their parts. Imports numpy and the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.geometry import Crop
from cellseg1_rt.runtime.kernels.run_overlaps import count_common
from cellseg1_rt.runtime.pieces import Piece
from cellseg1_rt.runtime.tiles import TilePlan

__all__ = ["UNION_IOU", "are_one_cell", "union_of_pieces"]

UNION_IOU = 0.5
"""Least IoU of two cut pieces, inside the window that both tiles see, to be parts of one cell."""


def are_one_cell(one: Piece, other: Piece, plan: TilePlan) -> bool:
    """Whether two cut pieces of different tiles are parts of one cell."""
    if one.tile == other.tile:
        return False
    seen = _shared_window(plan.window(one.tile), plan.window(other.tile))
    if seen.height <= 0 or seen.width <= 0:
        return False
    first, second = _cut_to(one.runs, seen), _cut_to(other.runs, seen)
    common = count_common(first, second)
    return common > 0 and common >= UNION_IOU * (_area(first) + _area(second) - common)


def union_of_pieces(parts: Sequence[Piece], plan: TilePlan) -> Piece | None:
    """One cell of cut pieces; None if nothing tells what is behind a border that cuts one.

    Score, stability and prompt are those of the largest part.
    """
    if not all(_is_crossed(part, border, parts, plan) for part in parts for border in range(4)):
        return None
    x0, y0 = (min(part.box[i] for part in parts) for i in (0, 1))
    x1, y1 = (max(part.box[i] for part in parts) for i in (2, 3))
    mask = np.zeros((y1 - y0 + 1, x1 - x0 + 1), bool)
    for part in parts:
        for row, first, end in part.runs.tolist():
            mask[row - y0, first - x0 : end - x0] = True
    largest = max(parts, key=lambda part: (part.area_px, -part.tile, -part.place))
    return replace(
        largest,
        box=(x0, y0, x1, y1),
        area_px=int(np.count_nonzero(mask)),
        runs=_runs_of_mask(mask) + np.array([y0, x0, x0], np.int32),
    )


def _is_crossed(part: Piece, border: int, parts: Sequence[Piece], plan: TilePlan) -> bool:
    """Whether a border of the part's tile (left, top, right, bottom) cuts nothing off the union.

    That is so where the part keeps clear of it, where it is the plane's own edge, or where another
    part comes as near to it in a tile that sees what is behind.
    """
    sides = _sides(plan.window(part.tile))
    is_edge = sides[border] == (0, 0, plan.width, plan.height)[border]
    if is_edge or abs(part.box[border] - sides[border]) > plan.edge_px:
        return True
    axis, line = border % 2, sides[border]
    for other in parts:
        window = _sides(plan.window(other.tile))
        sees_both = window[axis] < line < window[axis + 2]
        low, high = other.box[axis] - plan.edge_px, other.box[axis + 2] + plan.edge_px
        if other is not part and sees_both and low <= line <= high:
            return True
    return False


def _sides(window: Crop) -> tuple[int, int, int, int]:
    return window.x0, window.y0, window.x1, window.y1


def _shared_window(one: Crop, other: Crop) -> Crop:
    return Crop(
        max(one.x0, other.x0),
        max(one.y0, other.y0),
        min(one.x1, other.x1),
        min(one.y1, other.y1),
    )


def _cut_to(runs: NDArray[np.int32], window: Crop) -> NDArray[np.int32]:
    """What lies of runs [R, 3] inside a window."""
    inside = runs[(runs[:, 0] >= window.y0) & (runs[:, 0] < window.y1)].copy()
    inside[:, 1:] = inside[:, 1:].clip(window.x0, window.x1)
    return inside[inside[:, 1] < inside[:, 2]]


def _area(runs: NDArray[np.int32]) -> int:
    return int((runs[:, 2] - runs[:, 1]).sum())


def _runs_of_mask(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Runs int32 [R, 3] of a mask bool [H, W], in raster order."""
    change = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, firsts = np.nonzero(change == 1)
    return np.stack([rows, firsts, np.nonzero(change == -1)[1]], axis=1).astype(np.int32)

"""The outlines of cells along the edges of their pixels: the way back from them is exact.

Pixel (0, 0) is the square from (0, 0) to (1, 1), as in ``polygons``, which fills what is traced
here. Imports numpy; scipy inside ``pieces``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.formats.pieces import pieces_from_labels

__all__ = ["CellOutline", "outlines_from_labels"]


@dataclass(frozen=True)
class CellOutline:
    """One cell as polygons.

    Attributes
    ----------
    label : its number in the label map.
    polygons : for each 4-connected piece, in reading order, its outer ring and then its holes. A
        ring is int64 [N, 2], corners (x, y) on the grid of pixel edges, without repeating the first
        at the end. Outer rings run clockwise on the screen, holes the other way.
    """

    label: int
    polygons: tuple[tuple[NDArray[np.int64], ...], ...]


@dataclass(frozen=True)
class _Sides:
    """Straight stretches of outlines, travelled with the cell on the right hand.

    Attributes
    ----------
    starts : int64 [S], the corner each begins at, as row · (W + 1) + column, times 4, plus its
        direction: 0 right, 1 down, 2 left, 3 up. No two are alike, since a corner and a direction
        name the pixel on the right.
    following : int64 [S], the same of the stretch that comes next in its ring.
    pieces : int32 [S], the piece it belongs to.
    """

    starts: NDArray[np.int64]
    following: NDArray[np.int64]
    pieces: NDArray[np.int32]


def outlines_from_labels(labels: NDArray[Any]) -> Iterator[CellOutline]:
    """The outline of every cell, in the order of their numbers.

    Rings are simple: none meets itself, not even in a corner, and the inside of each polygon is
    connected. Where a piece meets itself only in a corner, the hole or bay behind that corner is a
    hole of its own that touches the outer ring there; pieces that meet only in corners are polygons
    of their own. So the polygons are valid ones for geometry libraries, too.

    Parameters
    ----------
    labels : integer [H, W], 0 is background. Numbers may have gaps.
    """
    sides = _sides_of_pieces(pieces_from_labels(labels))
    if len(sides.starts) == 0:
        return
    order, limits = _rings(sides)
    y, x = np.divmod(sides.starts[order] // 4, labels.shape[1] + 1)
    corners = np.stack([x, y], axis=1)
    # Each ring starts with the highest of its stretches to the right: its pixel lies below that
    # corner. So rings come in reading order, which puts an outer one before the holes inside it.
    first = limits[:-1]
    cells, pieces = labels[y[first], x[first]], sides.pieces[order[first]]
    ranked = np.lexsort((pieces, cells))
    cells, pieces = cells[ranked], pieces[ranked]
    rings = [corners[limits[i] : limits[i + 1]] for i in ranked.tolist()]
    piece_limits = _limits_of_blocks(pieces)
    polygons = [tuple(rings[start:stop]) for start, stop in pairwise(piece_limits)]
    cell_of_polygon = cells[piece_limits[:-1]]
    for start, stop in pairwise(_limits_of_blocks(cell_of_polygon)):
        yield CellOutline(int(cell_of_polygon[start]), tuple(polygons[start:stop]))


def _limits_of_blocks(values: NDArray[Any]) -> list[int]:
    """Where blocks of equal values begin, and the length."""
    return [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]


def _sides_of_pieces(pieces: NDArray[np.int32]) -> _Sides:
    """Straight stretches along the upper, right, lower and left edges of pixels, in this order."""
    padded = np.pad(pieces, 1)
    starts, following, owners = [], [], []
    for direction in range(4):
        # Turned so that travel is to the right, with the cell below.
        turned = np.rot90(padded, direction)
        edge, straight_on = _upper_edges(turned)
        began = edge.copy()
        began[:, 1:] &= ~straight_on[:, :-1]
        y, x = np.nonzero(began)
        end_y, end_x = np.nonzero(edge & ~straight_on)
        owner = turned[end_y + 1, end_x + 1]
        turns_left = turned[end_y, end_x + 2] == owner
        next_direction = (direction + np.where(turns_left, -1, 1)) % 4
        starts.append(4 * _corners(y, x, direction, pieces.shape) + direction)
        following.append(4 * _corners(end_y, end_x + 1, direction, pieces.shape) + next_direction)
        owners.append(owner)
    return _Sides(np.concatenate(starts), np.concatenate(following), np.concatenate(owners))


def _upper_edges(turned: NDArray[np.int32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels [H, W] of a padded map with an outline above, and those after which it goes on."""
    cells = turned[1:-1, 1:-1]
    edge = (cells > 0) & (cells != turned[:-2, 1:-1])
    straight_on = np.zeros_like(edge)
    straight_on[:, :-1] = edge[:, :-1] & edge[:, 1:] & (cells[:, :-1] == cells[:, 1:])
    return edge, straight_on


def _corners(
    y: NDArray[np.int64], x: NDArray[np.int64], direction: int, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Corners of a map that was turned by ``direction`` quarters, as row · (W + 1) + column."""
    height, width = shape
    if direction == 0:
        return y * (width + 1) + x
    if direction == 1:
        return x * (width + 1) + (width - y)
    if direction == 2:
        return (height - y) * (width + 1) + (width - x)
    return (height - x) * (width + 1) + y


def _rings(sides: _Sides) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order stretches so that each ring is one block that starts with its first member.

    Steps along rings are doubled until they have gone all round, so the work grows with the
    logarithm of the longest ring and needs no loop over stretches.

    Returns
    -------
    order : int64 [S].
    limits : int64 [R + 1], where each block begins, and S.
    """
    following = np.empty(len(sides.starts), np.int64)
    following[np.argsort(sides.following)] = np.argsort(sides.starts)
    first, jump = np.arange(len(following)), following
    while True:
        lower = np.minimum(first, first[jump])
        # Two windows of a ring with the same lowest member overlap, so they are all of it.
        if np.array_equal(lower, first):
            break
        first, jump = lower, jump[jump]
    is_last = following == first
    to_last = np.where(is_last, 0, 1)
    jump = np.where(is_last, np.arange(len(following)), following)
    while not is_last[jump].all():
        to_last, jump = to_last + to_last[jump], jump[jump]
    order = np.lexsort((-to_last, first))
    return order, np.array(_limits_of_blocks(first[order]))

"""Outlines of the ImageJ regions that are not stored as points. Imports numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["oval_ring", "rings_from_path", "rounded_rectangle_ring"]

# Straight pieces a curve: off by less than 0.01 px for a cell of 100 px.
_PIECES = 64
# Numbers after each command of a path, as java.awt.geom.PathIterator names them.
_MOVE, _LINE, _QUADRATIC, _CUBIC, _CLOSE = range(5)
_NUMBERS = {_MOVE: 2, _LINE: 2, _QUADRATIC: 4, _CUBIC: 6, _CLOSE: 0}


def oval_ring(
    left: float, top: float, width: float, height: float, *, image_height: int
) -> NDArray[np.float64]:
    """The outline of an oval's pixels, along their edges, as a ring [N, 2].

    A pixel belongs to an oval if its centre lies in the ellipse or on it, which is how ImageJ fills
    one. Rows outside the image, 0..``image_height``, are cut off.

    Parameters
    ----------
    left, top, width, height : the box around it in px, width and height above 0.
    """
    first, last = (int(np.clip(np.ceil(y - 0.5), 0, image_height)) for y in (top, top + height + 1))
    rows = np.arange(first, last)
    a, b = width / 2, height / 2
    centre_x = left + a - 0.5  # on the scale where a pixel's centre is its column
    dy = rows + 0.5 - top - b
    rows, dy = rows[np.abs(dy) <= b], dy[np.abs(dy) <= b]
    reach = a * np.sqrt(1 - (dy / b) ** 2)
    first_column, last_column = np.ceil(centre_x - reach), np.floor(centre_x + reach)

    def inside(column: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(((column - centre_x) * b) ** 2 + (dy * a) ** 2 <= (a * b) ** 2)

    # The root may be rounded to just before a centre that lies on the ellipse.
    first_column -= inside(first_column - 1)
    last_column += inside(last_column + 1)
    kept = first_column <= last_column
    rows, lefts, rights = rows[kept], first_column[kept], last_column[kept] + 1
    right_side = np.stack([rights, rows, rights, rows + 1], axis=1).reshape(-1, 2)
    left_side = np.stack([lefts, rows, lefts, rows + 1], axis=1).reshape(-1, 2)
    return np.concatenate([right_side, left_side[::-1]]).astype(np.float64)


def rounded_rectangle_ring(
    left: float, top: float, width: float, height: float, corner: float
) -> NDArray[np.float64]:
    """A rectangle whose corners are quarters of an oval ``corner`` px wide and high, as [N, 2]."""
    a, b = min(corner, width) / 2, min(corner, height) / 2
    centres = [
        (left + width - a, top + height - b),
        (left + a, top + height - b),
        (left + a, top + b),
        (left + width - a, top + b),
    ]
    angles = np.linspace(0, np.pi / 2, _PIECES + 1)
    return np.concatenate(
        [
            np.stack([x + a * np.cos(angles + turn), y + b * np.sin(angles + turn)], axis=1)
            for (x, y), turn in zip(centres, np.arange(4) * np.pi / 2, strict=True)
        ]
    )


def rings_from_path(path: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """The closed pieces of a composite region's path, curves as 64 straight lines.

    Parameters
    ----------
    path : float32 [N], each command followed by its numbers: 0 move to, 1 line to, 2 quadratic and
        3 cubic curve (their control points first), 4 close; points are x, y in px of the image.

    Raises
    ------
    ValueError : for an unknown command, one without its numbers, or a path that starts elsewhere
        than with a move.
    """
    rings: list[list[NDArray[np.float64]]] = []
    for command, points in _commands(path.astype(np.float64)):
        if command == _MOVE:
            rings.append([points])
        elif not rings:
            raise ValueError("a path that does not start with a move")
        elif command != _CLOSE:
            rings[-1].append(_curve(np.concatenate([rings[-1][-1][-1:], points])))
    return [np.concatenate(ring) for ring in rings]


def _commands(path: NDArray[np.float64]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    at = 0
    while at < len(path):
        numbers = _NUMBERS.get(path[at])
        if numbers is None or at + 1 + numbers > len(path):
            raise ValueError(f"a path with the command {path[at]:g} at {at} of {len(path)}")
        yield int(path[at]), path[at + 1 : at + 1 + numbers].reshape(-1, 2)
        at += 1 + numbers


def _curve(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points [N, 2] after the first of a Bézier curve of 2 to 4 points, by de Casteljau's rule."""
    if len(points) == 2:
        return points[1:]
    t = np.linspace(0, 1, _PIECES + 1)[1:, np.newaxis, np.newaxis]
    level = np.broadcast_to(points, (_PIECES, *points.shape))
    while level.shape[1] > 1:
        level = level[:, :-1] * (1 - t) + level[:, 1:] * t
    return np.asarray(level[:, 0])

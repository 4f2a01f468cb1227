"""Where ``pretrain`` prompts a window: in cells, beside small ones, and on the background.

Pure functions of a random generator; numpy and OpenCV only.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["count_of_positives", "draw_points"]

POSITIVE_SHARE = 0.6
NEAR_PX = 12
NEAR_SHARE, SALIENT_SHARE = 0.4, 0.5
"""Of the background points, this share lies within NEAR_PX of a cell, and this share of the others
where the background looks least like itself (debris, haze): a grid finds those the hardest."""

SMALL_CELL_PX = 16
BESIDE_PX = 2
"""A point that misses a cell of a diameter below SMALL_CELL_PX by at most BESIDE_PX still means it:
a grid whose points lie 16 px apart would else miss most of such cells."""


def count_of_positives(points: int) -> int:
    """How many of a sample's points lie in cells, at least; they come first."""
    return max(1, round(points * POSITIVE_SHARE))


def draw_points(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    labels: NDArray[np.int32],
    size: tuple[int, int],
    count: int,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Points in cells first (a cell each, anywhere in it or just beside a small one), then others.

    Where a picture has no background left, all points lie in cells.

    Parameters
    ----------
    rng : the only source of randomness.
    image : uint8 [W, W, 3].
    labels : int32 [W, W], with at least one cell.
    size : valid (height, width); no point lies beyond it.
    count : points N.

    Returns
    -------
    points_xy : float32 [N, 2], (x, y), whole pixels.
    cell : int32 [N], the cell that each point means; 0 is background.
    """
    areas = np.bincount(labels.ravel())
    small = areas < np.pi / 4 * SMALL_CELL_PX**2
    small[0] = False
    background = _farther_than(labels > 0, 1) & _farther_than(small[labels], BESIDE_PX)
    background[size[0] :], background[:, size[1] :] = False, False
    positives = count_of_positives(count) if background.any() else count
    present = np.flatnonzero(areas[1:]) + 1
    chosen = rng.choice(present, positives, replace=len(present) < positives)
    pixels = _pixels_of_cells(rng, labels, chosen)
    pixels = _beside_small(rng, labels, size, pixels, small[chosen])
    if count > positives:
        near = background & ~_farther_than(labels > 0, NEAR_PX)
        salient = background & _salient(image, background)
        for pool, share in ((near, NEAR_SHARE), (salient, SALIENT_SHARE), (background, 1.0)):
            wanted = round((count - len(pixels)) * share)
            places = np.flatnonzero(pool)
            if len(places) and wanted:
                pixels = np.concatenate([pixels, rng.choice(places, wanted)])
    y, x = np.unravel_index(pixels, labels.shape)
    points = np.stack([x, y], axis=1).astype(np.float32)
    cells = np.zeros(count, np.int32)
    cells[:positives] = chosen
    return points, cells


def _farther_than(mask: NDArray[np.bool_], px: float) -> NDArray[np.bool_]:
    """Where no pixel of the mask lies within ``px``."""
    if not mask.any():
        return np.ones_like(mask)
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    return np.asarray(distance > px)


def _pixels_of_cells(
    rng: np.random.Generator, labels: NDArray[np.int32], cells: NDArray[np.int64]
) -> NDArray[np.int64]:
    """A pixel of each cell, uniformly: flat indices."""
    order = np.argsort(labels, axis=None, kind="stable")
    values = labels.ravel()[order]
    first, last = np.searchsorted(values, cells), np.searchsorted(values, cells, side="right")
    chosen: NDArray[np.int64] = order[(first + rng.random(len(cells)) * (last - first)).astype(int)]
    return chosen


def _beside_small(
    rng: np.random.Generator,
    labels: NDArray[np.int32],
    size: tuple[int, int],
    pixels: NDArray[np.int64],
    small: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Moves the points of small cells by up to BESIDE_PX, unless that leads into another cell."""
    y, x = np.unravel_index(pixels, labels.shape)
    shift = rng.integers(-BESIDE_PX, BESIDE_PX + 1, (2, len(pixels))) * small
    moved_y, moved_x = np.clip(y + shift[0], 0, size[0] - 1), np.clip(x + shift[1], 0, size[1] - 1)
    there = labels[moved_y, moved_x]
    free = (there == 0) | (there == labels[y, x])
    return np.where(free, moved_y * labels.shape[1] + moved_x, pixels)


def _salient(image: NDArray[np.uint8], background: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The tenth of the background, or less, that differs most from the background's median grey."""
    grey = image.astype(np.float32).mean(axis=2)
    values = grey[background]
    difference = np.abs(grey - np.median(values))
    return np.asarray(difference > np.quantile(difference[background], 0.9))

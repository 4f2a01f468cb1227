"""Where a tile's prompts lie: in the core of its cells and deep in its background.

The rules are those of the published code. Numpy, OpenCV and SciPy only.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellseg1_rt.train.lora_sample_settings import SampleSettings

__all__ = [
    "background_candidates",
    "count_of_background",
    "draw_points",
    "innermost",
    "usable_cells",
]

Box = tuple[slice, slice]


def draw_points(
    rng: np.random.Generator, labels: NDArray[np.int32], settings: SampleSettings
) -> tuple[NDArray[np.int64], int]:
    """One point in each of some cells, then points in the background.

    Parameters
    ----------
    labels : int32 [T, T], cells are 1..n without gaps, -1 is not known and gets no point.

    Returns
    -------
    points : int64 [N, 2], (x, y), pixels of the tile; those in cells come first.
    positives : how many lie in cells.
    """
    boxes = ndimage.find_objects(np.maximum(labels, 0))
    chosen = rng.permutation(len(boxes))[: settings.most_cells] + 1
    # Chosen first, dropped after: a tile with many small cells ends with few points.
    kept = chosen[_usable(labels, boxes, settings)[chosen]]
    points = [_point_in_cell(rng, labels, label, boxes[label - 1], settings) for label in kept]
    places = background_candidates(labels, settings.core_share)
    count = count_of_background(labels, len(places), settings)
    drawn = rng.choice(places, count) if count else places[:0]
    y, x = np.unravel_index(drawn, labels.shape)
    in_cells = np.array(points, np.int64).reshape(-1, 2)
    return np.concatenate([in_cells, np.stack([x, y], axis=1)]), len(points)


def usable_cells(labels: NDArray[np.int32], settings: SampleSettings) -> NDArray[np.bool_]:
    """Whether each label, 0..largest, is a cell that may have a point; -1 is passed over.

    It may not where its area is ``smallest_cell_px`` or less, or its box lies wholly in the band
    of ``edge_band_px`` along an edge. Label 0 is not a cell.
    """
    return _usable(labels, ndimage.find_objects(np.maximum(labels, 0)), settings)


def _usable(
    labels: NDArray[np.int32], boxes: list[Box], settings: SampleSettings
) -> NDArray[np.bool_]:
    areas = np.bincount(np.maximum(labels, 0).ravel(), minlength=len(boxes) + 1)
    usable = areas > settings.smallest_cell_px
    usable[0] = False
    band = settings.edge_band_px
    for label in np.flatnonzero(usable):
        for side, length in zip(boxes[label - 1], labels.shape, strict=True):
            usable[label] &= side.stop >= band and side.start <= length - band
    return np.asarray(usable)


def _point_in_cell(
    rng: np.random.Generator,
    labels: NDArray[np.int32],
    label: int,
    box: Box,
    settings: SampleSettings,
) -> tuple[int, int]:
    """A pixel (x, y) of the cell's core, uniformly."""
    rows, columns = box
    places = innermost(labels[box] == label, settings.core_share)
    y, x = divmod(int(places[rng.integers(len(places))]), columns.stop - columns.start)
    return columns.start + x, rows.start + y


def innermost(inside: NDArray[np.bool_], share: float) -> NDArray[np.int64]:
    """The pixels whose distance to the outside is at least the int(share · n)-th largest.

    The outside is what of the array is not ``inside``: nothing lies beyond its edge, so a cell in
    its tight box is as deep at the box's edge as its shape allows, and one that fills its box is
    equally deep everywhere. (The published code computes it so.)

    Parameters
    ----------
    inside : bool [h, w], n pixels set.
    share : in (0, 1]. One pixel at least counts, where int(share · n) is 0.

    Returns
    -------
    int64 [m], flat indices of the array, ascending; m is more than int(share · n) on ties.
    """
    places = np.flatnonzero(inside)
    if len(places) in (0, inside.size):
        return places
    distance = cv2.distanceTransform(
        inside.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    ).ravel()[places]
    # Squared distances are whole numbers: rounded, ties are ties whatever float32 made of them.
    squared = np.rint(distance.astype(np.float64) ** 2)
    rank = len(squared) - max(1, int(share * len(squared)))
    return np.asarray(places[squared >= np.partition(squared, rank)[rank]])


def background_candidates(labels: NDArray[np.int32], share: float) -> NDArray[np.int64]:
    """The background's pixels that are farthest from cells and from the tile's border.

    The border counts as cell, as does what is not known: a pixel at the edge has distance 1.

    Returns
    -------
    int64 [m], flat indices of ``labels``, ascending.
    """
    padded = np.pad(labels == 0, 1)
    y, x = np.unravel_index(innermost(padded, share), padded.shape)
    return np.asarray((y - 1) * labels.shape[1] + (x - 1), np.int64)


def count_of_background(
    labels: NDArray[np.int32], candidates: int, settings: SampleSettings
) -> int:
    """How many background points a tile gets.

    Parameters
    ----------
    labels : int32 [T, T], cells are 1..n without gaps. All n count, whether they get a point or
        not: with the 30 chosen ones alone, the published limit of 30 would never be met.
    candidates : the pixels that may get one.
    """
    background, in_cells = (int(np.count_nonzero(part)) for part in (labels == 0, labels > 0))
    if background == 0 or in_cells / background > settings.densest:
        return 0
    wanted = max(1, math.ceil(settings.background_per_cell * int(labels.max())))
    return min(wanted, settings.most_background, candidates // settings.background_px + 1)

"""Masks become a label map: large ones first, smaller ones on top.

Rule 7 of CellSeg1's inference. Imports numpy and the kernels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.results import Cells, Result
from cellseg1_rt.runtime.candidates import Found
from cellseg1_rt.runtime.kernels.painting import measure_labels, paint_runs
from cellseg1_rt.runtime.regions import RunMasks

__all__ = ["paint"]

Labels = NDArray[np.uint16] | NDArray[np.uint32]


def paint(found: Found, masks: RunMasks, image_size: tuple[int, int]) -> Result:
    """Paint masks into labels 1..K and tabulate the cells that are still seen.

    The whole mask first erases what it covers, then its largest 4-connected piece is painted.

    Parameters
    ----------
    found : N candidates in the order the last NMS left them; equal areas are painted in that order.
    masks : their masks.
    image_size : (height, width).
    """
    order = np.argsort(-masks.area_px, kind="stable")
    count = len(order)
    labels = _zeros(image_size, count)
    paint_runs(order, masks.start, masks.end, masks.runs, labels)
    area, sums = np.zeros(count + 1, np.int64), np.zeros((count + 1, 2), np.int64)
    box = np.zeros((count + 1, 4), np.int32)
    measure_labels(labels, area, sums, box)
    seen = np.flatnonzero(area)
    if len(seen) < count:
        labels = _renumbered(labels, seen)
    shown = order[seen - 1]
    return Result(
        labels,
        Cells(
            label=np.arange(1, len(seen) + 1, dtype=np.int32),
            area_px=area[seen],
            box_xyxy=box[seen],
            centroid_xy=sums[seen] / area[seen, None],
            score=found.score[shown],
            stability=found.stability[shown],
            point_xy=found.point_xy[shown],
        ),
    )


def _renumbered(labels: Labels, seen: NDArray[np.int64]) -> Labels:
    """Labels 1..K instead of those in ``seen``, which are all there are."""
    numbers = _zeros(int(labels.max(initial=0)) + 1, len(seen))
    numbers[seen] = np.arange(1, len(seen) + 1)
    return numbers[labels]


def _zeros(shape: int | tuple[int, int], count: int) -> Labels:
    """Zeros of the smaller type that holds the labels 1..count."""
    return np.zeros(shape, np.uint16) if count < 2**16 else np.zeros(shape, np.uint32)

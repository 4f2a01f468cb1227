"""Runs painted into a label map, and the map measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime.kernels.compiling import compiled
from cellseg1_rt.runtime.kernels.runs import join_runs, largest_region

__all__ = ["measure_labels", "paint_runs"]

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


@compiled
def paint_runs(order: Longs, start: Longs, end: Longs, runs: Ints, labels: NDArray[Any]) -> None:
    """Paint masks as 1, 2, 3 ... in an order, later ones over earlier ones.

    Each mask first erases what it covers, then its largest 4-connected piece is painted.

    Parameters
    ----------
    order : int64 [N].
    start, end, runs : of ``RunMasks``.
    labels : [H, W] of zeros, written.
    """
    for place in range(len(order)):
        mask = order[place]
        own = runs[start[mask] : end[mask]]
        root, area = np.empty(len(own), np.int32), np.empty(len(own), np.int64)
        join_runs(own, 0, root, area)
        largest = largest_region(area)
        for run in range(len(own)):
            number = place + 1 if root[run] == largest else 0
            labels[own[run, 0], own[run, 1] : own[run, 2]] = number


@compiled
def measure_labels(labels: NDArray[Any], area: Longs, sums: Longs, box: Ints) -> None:
    """Measure labels 1..K of a map [H, W], a stretch of equal labels at a time.

    Parameters
    ----------
    area : int64 [K + 1] of zeros, written: pixels of each label; 0 for the background.
    sums : int64 [K + 1, 2] of zeros, written: sum of x and of y over them.
    box : int32 [K + 1, 4], written where a label has pixels: first and last x, y (x0, y0, x1, y1).
    """
    height, width = labels.shape
    for y in range(height):
        x = 0
        while x < width:
            label, first = labels[y, x], x
            while x < width and labels[y, x] == label:
                x += 1
            if label == 0:
                continue
            if area[label] == 0:
                box[label, 0], box[label, 1], box[label, 2] = first, y, x - 1
            box[label, 0] = min(box[label, 0], first)
            box[label, 2] = max(box[label, 2], x - 1)
            box[label, 3] = y
            area[label] += x - first
            sums[label, 0] += (first + x - 1) * (x - first) // 2
            sums[label, 1] += y * (x - first)

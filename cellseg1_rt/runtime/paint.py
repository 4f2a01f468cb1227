"""Masks become a label map: large ones first, smaller ones on top.

Rule 7 of CellSeg1's inference. Imports numpy and OpenCV.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.results import Cells, Result
from cellseg1_rt.runtime.candidates import Candidate

__all__ = ["paint"]


def paint(candidates: Sequence[Candidate], image_size: tuple[int, int]) -> Result:
    """Paint candidates into labels 1..K and tabulate the cells that are still seen.

    The whole mask first erases what it covers, then its largest 4-connected piece is painted.

    Parameters
    ----------
    candidates : in the order the last NMS left them; equal areas are painted in that order.
    image_size : (height, width).
    """
    order = np.argsort([-c.area_px for c in candidates], kind="stable")
    painted = np.zeros(image_size, np.int32)
    for number, place in enumerate(order, start=1):
        candidate = candidates[place]
        x0, y0, x1, y1 = candidate.box
        window = painted[y0 : y1 + 1, x0 : x1 + 1]
        window[candidate.mask] = 0
        window[_largest_piece(candidate.mask)] = number
    seen = np.bincount(painted.ravel(), minlength=len(order) + 1) > 0
    seen[0] = False
    numbers = np.where(seen, np.cumsum(seen), 0)[painted]
    labels: NDArray[np.uint16] | NDArray[np.uint32] = (
        numbers.astype(np.uint16) if seen.sum() < 2**16 else numbers.astype(np.uint32)
    )
    shown = [candidates[place] for place, is_seen in zip(order, seen[1:], strict=True) if is_seen]
    return Result(labels, _table(labels, shown))


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=4
    )
    if count <= 2:
        return mask
    return np.asarray(pieces == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))


def _table(labels: NDArray[np.uint16] | NDArray[np.uint32], cells: list[Candidate]) -> Cells:
    count = len(cells)
    y, x = np.nonzero(labels)
    label = labels[y, x].astype(np.int64)
    area = np.bincount(label, minlength=count + 1)[1:]
    centroid = np.stack(
        [np.bincount(label, axis, count + 1)[1:] / np.maximum(area, 1) for axis in (x, y)], axis=1
    )
    box = np.zeros((count + 1, 4), np.int64)
    box[:, :2] = max(labels.shape)
    for column, axis in ((0, x), (1, y)):
        np.minimum.at(box[:, column], label, axis)
        np.maximum.at(box[:, column + 2], label, axis)
    return Cells(
        label=np.arange(1, count + 1, dtype=np.int32),
        area_px=area.astype(np.int64),
        box_xyxy=box[1:].astype(np.int32),
        centroid_xy=centroid,
        score=np.array([c.score for c in cells], np.float32),
        stability=np.array([c.stability for c in cells], np.float32),
        point_xy=np.array([c.point_xy for c in cells], np.float32).reshape(-1, 2),
    )

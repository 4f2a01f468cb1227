"""Greedy non-maximum suppression: boxes find the pairs, mask IoU decides.

Rules 4 and 5 of CellSeg1's inference, and the NMS of rule 6. Imports numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime.candidates import Box, Candidate

__all__ = ["mask_intersection", "suppress"]


def suppress(
    candidates: Sequence[Candidate],
    rank: NDArray[np.float32],
    threshold: float,
    *,
    boxes: Sequence[Box] | None = None,
) -> list[int]:
    """Indices of the candidates that are kept, best rank first.

    Parameters
    ----------
    candidates : N candidates; mask IoU is of their masks.
    rank : float32 [N]; higher is kept first, equal ranks in the order of the list.
    threshold : a candidate is dropped if its IoU with a kept one is above this, 0..1.
    boxes : boxes that decide which pairs are compared, if not the candidates' own.
    """
    corners = np.array([c.box for c in candidates] if boxes is None else boxes, np.int64).reshape(
        -1, 4
    )
    order = np.argsort(-rank, kind="stable")
    alive = np.ones(len(order), bool)
    kept: list[int] = []
    for place in order.tolist():
        if not alive[place]:
            continue
        kept.append(place)
        alive[place] = False
        rivals = np.flatnonzero(alive & _boxes_overlap(corners[place], corners))
        for rival in rivals.tolist():
            if _iou(candidates[place], candidates[rival]) > np.float32(threshold):
                alive[rival] = False
    return kept


def mask_intersection(a: Candidate, b: Candidate) -> int:
    """Pixels two masks share."""
    x0, y0 = max(a.box[0], b.box[0]), max(a.box[1], b.box[1])
    x1, y1 = min(a.box[2], b.box[2]) + 1, min(a.box[3], b.box[3]) + 1
    if x0 >= x1 or y0 >= y1:
        return 0
    windows = [c.mask[y0 - c.box[1] : y1 - c.box[1], x0 - c.box[0] : x1 - c.box[0]] for c in (a, b)]
    return int(np.count_nonzero(windows[0] & windows[1]))


def _boxes_overlap(box: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the intersection has an area when last pixels are taken as ends, as upstream does."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    return np.asarray((high > low).all(axis=1))


def _iou(a: Candidate, b: Candidate) -> np.float32:
    """In float32, as upstream divides. Its NaN for two empty masks suppresses: infinity here."""
    shared = mask_intersection(a, b)
    union = a.area_px + b.area_px - shared
    return np.float32(np.float32(shared) / np.float32(union)) if union else np.float32(np.inf)

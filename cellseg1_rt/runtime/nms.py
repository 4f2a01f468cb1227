"""Greedy non-maximum suppression: boxes find the pairs, mask IoU decides.

Rules 4 and 5 of CellSeg1's inference, and the NMS of rule 6. Imports numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime.packed import PackedMasks
from cellseg1_rt.runtime.steps import steps_for

__all__ = ["suppress"]


def suppress(
    masks: PackedMasks,
    rank: NDArray[np.float32],
    threshold: float,
    *,
    boxes: NDArray[np.int32] | None = None,
) -> NDArray[np.int64]:
    """Indices of the masks that are kept, best rank first.

    Parameters
    ----------
    masks : N masks, of which IoU is taken.
    rank : float32 [N]; higher is kept first, equal ranks in the order of the list.
    threshold : a mask is dropped if its IoU with a kept one is above this, 0..1.
    boxes : int32 [N, 4], boxes that decide which pairs are compared, if not the masks' own.
    """
    order = np.argsort(-rank, kind="stable")
    pair_boxes = masks.box if boxes is None else boxes
    kept = steps_for(masks.words).keep_greedily(order, masks, pair_boxes, threshold)
    return order[kept]

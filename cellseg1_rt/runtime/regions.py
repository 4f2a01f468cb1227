"""Small holes filled and small islands dropped, mask by mask.

Rule 6 of CellSeg1's inference, but for its NMS. Imports numpy and OpenCV.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime.candidates import Candidate, bounding_box

__all__ = ["clean"]


def clean(
    candidate: Candidate, min_area: int, image_size: tuple[int, int]
) -> tuple[Candidate, bool]:
    """The candidate without small holes and islands, and whether it had any.

    A hole is any 8-connected piece of background smaller than ``min_area`` px, one at the image's
    border included. Where all islands are small the largest stays; that too counts as a change.

    Parameters
    ----------
    min_area : px; smaller holes and islands go.
    image_size : (height, width): background outside the mask's box belongs to the image too.
    """
    # Only the background inside a margin of one pixel can be a small hole of its own; what reaches
    # the margin continues outside, unless the image ends there.
    x0, y0, x1, y1 = candidate.box
    height, width = image_size
    margin = min_area + 1
    left, top = min(x0, margin), min(y0, margin)
    right, bottom = min(width - 1 - x1, margin), min(height - 1 - y1, margin)
    mask = np.pad(candidate.mask, ((top, bottom), (left, right)))
    filled, had_holes = _without_small(mask, min_area, holes=True)
    cleaned, had_islands = _without_small(filled, min_area, holes=False)
    if not (had_holes or had_islands):
        return candidate, False
    cx0, cy0, cx1, cy1 = bounding_box(cleaned)
    return replace(
        candidate,
        area_px=int(np.count_nonzero(cleaned)),
        box=(cx0 + x0 - left, cy0 + y0 - top, cx1 + x0 - left, cy1 + y0 - top),
        mask=cleaned[cy0 : cy1 + 1, cx0 : cx1 + 1].copy(),
    ), True


def _without_small(
    mask: NDArray[np.bool_], min_area: int, *, holes: bool
) -> tuple[NDArray[np.bool_], bool]:
    """One pass of segment-anything's ``remove_small_regions``, 8-connected."""
    _, regions, stats, _ = cv2.connectedComponentsWithStats(
        (mask != holes).astype(np.uint8), connectivity=8
    )
    areas = stats[1:, cv2.CC_STAT_AREA]
    small = areas < min_area
    if not small.any():
        return mask, False
    if holes:
        chosen = np.concatenate([[True], small])  # region 0 is the mask itself
    else:
        chosen = np.concatenate([[False], ~small])
        if not chosen.any():
            chosen[1 + int(np.argmax(areas))] = True
    return chosen[regions], True

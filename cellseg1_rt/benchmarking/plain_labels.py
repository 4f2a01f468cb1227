"""From masks to labels the plain way: OpenCV on full-size masks, one after another.

May import segment-anything and opencv.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from segment_anything.utils.amg import remove_small_regions

from cellseg1_rt.benchmarking.plain_masks import Box, Mask, PlainMask, keep_greedily
from cellseg1_rt.benchmarking.stopwatch import Stopwatch
from cellseg1_rt.settings import InferenceSettings

__all__ = ["cleaned_masks", "painted", "suppressed"]


def suppressed(found: Sequence[PlainMask], ranks: Sequence[float], threshold: float) -> list[int]:
    """Places of the masks that an NMS keeps, best rank first."""
    return keep_greedily([m.mask for m in found], [m.box for m in found], ranks, threshold)


def cleaned_masks(
    found: Sequence[PlainMask], settings: InferenceSettings, watch: Stopwatch
) -> list[Mask]:
    """Masks without small holes and islands, after the NMS that puts unchanged ones first."""
    if settings.min_area == 0:
        return [item.mask for item in found]
    cleaned: list[Mask] = []
    unchanged: list[float] = []
    for item in found:
        mask, had_holes = remove_small_regions(item.mask, settings.min_area, "holes")
        mask, had_islands = remove_small_regions(mask, settings.min_area, "islands")
        cleaned.append(mask)
        unchanged.append(float(not had_holes and not had_islands))
    threshold = max(settings.box_nms, settings.crop_nms)
    boxes = [_box_of(mask) for mask in cleaned]
    with watch.stage("nms"):
        kept = keep_greedily([item.mask for item in found], boxes, unchanged, threshold)
    return [
        cleaned[i]
        for i in kept
        if settings.max_area_ratio == 0 or cleaned[i].mean() < settings.max_area_ratio
    ]


def painted(masks: Sequence[Mask], image_hw: tuple[int, int]) -> NDArray[np.int32]:
    """Labels 1..K, int32 [H, W]: large masks first, of each its largest 4-connected piece."""
    labels = np.zeros(image_hw, np.int32)
    areas = [np.count_nonzero(mask) for mask in masks]
    for number, i in enumerate(sorted(range(len(masks)), key=lambda place: -areas[place]), start=1):
        if areas[i] == 0:
            continue
        labels[masks[i]] = 0
        _, parts, stats, _ = cv2.connectedComponentsWithStats(
            masks[i].astype(np.uint8), connectivity=4
        )
        labels[parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))] = number
    return np.unique(labels, return_inverse=True)[1].reshape(image_hw).astype(np.int32)


def _box_of(mask: Mask) -> Box:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])

"""From logits to masks the plain way: filters on full-size masks, and NMS pair by pair.

Full-size masks in PyTorch, filtered by segment-anything's own functions; what CellSeg1 adds is
here. Upstream's coding of masks as run lengths and back is left out. May import torch and
segment-anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.utils.amg import (
    batched_mask_to_box,
    calculate_stability_score,
    is_box_near_crop_edge,
    uncrop_masks,
)
from torch import Tensor

from cellseg1_rt.benchmarking.plain_model import upsampled
from cellseg1_rt.geometry import Crop, input_size_of_crop
from cellseg1_rt.settings import InferenceSettings

__all__ = ["Box", "Mask", "PlainMask", "keep_greedily", "masks_of_batch"]

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]


@dataclass
class PlainMask:
    """A mask of the image.

    Attributes
    ----------
    score, stability : float32 values.
    mask : bool [H, W].
    box : (x0, y0, x1, y1), first and last set pixel, image pixels.
    """

    score: np.float32
    stability: np.float32
    mask: Mask
    box: Box


def masks_of_batch(
    scores: Tensor,
    logits: Tensor,
    crop: Crop,
    image_hw: tuple[int, int],
    model_px: int,
    settings: InferenceSettings,
) -> list[PlainMask]:
    """What is left of a batch; every mask is upsampled before any is dropped, as upstream does.

    Parameters
    ----------
    scores : float32 [N].
    logits : float32 [N, 1, S/4, S/4], S being ``model_px``.
    crop : the crop they are of, in an image of ``image_hw`` (height, width).
    settings : thresholds; one of 0 switches its filter off.
    """
    full = upsampled(logits, model_px, input_size_of_crop(crop, model_px), crop)
    if settings.score > 0:
        passed = scores > settings.score
        full, scores = full[passed], scores[passed]
    stability = calculate_stability_score(full, 0.0, settings.stability_offset)
    if settings.stability > 0:
        passed = stability >= settings.stability
        full, scores, stability = full[passed], scores[passed], stability[passed]
    masks = full > 0
    if settings.max_area_ratio > 0:
        share = masks.flatten(1).sum(1).double() / (image_hw[0] * image_hw[1])
        passed = share < settings.max_area_ratio
        masks, scores, stability = masks[passed], scores[passed], stability[passed]
    boxes = batched_mask_to_box(masks)
    box_of_crop, box_of_image = [crop.x0, crop.y0, crop.x1, crop.y1], [0, 0, *image_hw[::-1]]
    inside = ~is_box_near_crop_edge(boxes, box_of_crop, box_of_image)
    masks = uncrop_masks(masks[inside], box_of_crop, *image_hw)
    boxes = boxes[inside] + torch.tensor([[crop.x0, crop.y0, crop.x0, crop.y0]])
    columns = scores[inside].numpy(), stability[inside].numpy(), masks.numpy(), boxes.tolist()
    return [
        PlainMask(score, stable, mask, tuple(box))
        for score, stable, mask, box in zip(*columns, strict=True)
    ]


def keep_greedily(
    masks: Sequence[Mask], boxes: Sequence[Box], ranks: Sequence[float], threshold: float
) -> list[int]:
    """Places that are kept, best rank first; IoU only of masks whose boxes overlap."""
    kept: list[int] = []
    for i in np.argsort(-np.array(ranks), kind="stable").tolist():
        rivals = [k for k in kept if _overlap(boxes[k], boxes[i])]
        if all(_iou(masks[k], masks[i]) <= np.float32(threshold) for k in rivals):
            kept.append(i)
    return kept


def _overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _iou(a: Mask, b: Mask) -> np.float32:
    return np.float32(np.count_nonzero(a & b)) / np.float32(np.count_nonzero(a | b))

"""From scores and logits to labels the plain way, as upstream does it: what `postprocess` beats.

Batches of 64 prompts in PyTorch, float32: every mask is upsampled to the image's size before any is
dropped; NMS compares full-size masks pair by pair; clean-up and painting run on full-size masks.
Upstream's coding of masks as run lengths and back is left out. Takes whole images only (no crops).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from cellseg1_rt.settings import InferenceSettings

BATCH = 64

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]


@dataclass
class PlainMask:
    """A mask bool [H, W], its score, and its box (x0, y0, x1, y1) with inclusive ends."""

    score: float
    mask: Mask
    box: Box


def plain_labels(
    score: NDArray[np.float32],
    logits: NDArray[np.float32],
    image_size: tuple[int, int],
    settings: InferenceSettings,
) -> NDArray[np.int32]:
    """Labels [H, W] from scores [N] and logits [N, c, c] of one square or padded image."""
    found: list[PlainMask] = []
    for first in range(0, len(score), BATCH):
        batch = slice(first, first + BATCH)
        found += _batch_masks(score[batch], logits[batch], image_size, settings)
    found = [found[i] for i in _nms(found, [-m.score for m in found], settings.crop_nms)]
    found = _cleaned(found, image_size, settings)
    return _painted(found, image_size)


def _batch_masks(
    score: NDArray[np.float32],
    logits: NDArray[np.float32],
    image_size: tuple[int, int],
    settings: InferenceSettings,
) -> list[PlainMask]:
    side = logits.shape[1] * 4
    scale = side / max(image_size)
    height, width = (int(length * scale + 0.5) for length in image_size)
    low = torch.from_numpy(logits)[:, None]
    full = torch.nn.functional.interpolate(low, (side, side), mode="bilinear", align_corners=False)
    full = torch.nn.functional.interpolate(
        full[..., :height, :width], image_size, mode="bilinear", align_corners=False
    )[:, 0]
    scores = torch.from_numpy(score)
    passed = scores > settings.score
    full, scores = full[passed], scores[passed]
    above = (full > settings.stability_offset).sum((-1, -2), dtype=torch.int32)
    near = (full > -settings.stability_offset).sum((-1, -2), dtype=torch.int32)
    stable = above / near >= settings.stability
    masks, scores = full[stable] > 0, scores[stable]
    small = masks.sum((-1, -2)) / (image_size[0] * image_size[1]) < settings.max_area_ratio
    return [
        PlainMask(float(value), mask.numpy(), _box_of(mask.numpy()))
        for value, mask in zip(scores[small], masks[small], strict=True)
    ]


def _box_of(mask: Mask) -> Box:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _nms(
    found: list[PlainMask], keys: list[float], threshold: float, boxes: list[Box] | None = None
) -> list[int]:
    boxes = [m.box for m in found] if boxes is None else boxes
    kept: list[int] = []
    for i in sorted(range(len(found)), key=lambda place: keys[place]):
        rivals = [k for k in kept if _overlap(boxes[k], boxes[i])]
        if all(_iou(found[k].mask, found[i].mask) <= np.float32(threshold) for k in rivals):
            kept.append(i)
    return kept


def _overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _iou(a: Mask, b: Mask) -> np.float32:
    return np.float32(np.count_nonzero(a & b)) / np.float32(np.count_nonzero(a | b))


def _cleaned(
    found: list[PlainMask], image_size: tuple[int, int], settings: InferenceSettings
) -> list[PlainMask]:
    cleaned, changed = [], []
    for item in found:
        mask, had_holes = _without_small(item.mask, settings.min_area, holes=True)
        mask, had_islands = _without_small(mask, settings.min_area, holes=False)
        cleaned.append(PlainMask(item.score, mask, _box_of(mask)))
        changed.append(float(had_holes or had_islands))
    threshold = max(settings.box_nms, settings.crop_nms)
    kept = _nms(found, changed, threshold, [m.box for m in cleaned])
    limit = settings.max_area_ratio * image_size[0] * image_size[1]
    return [cleaned[i] for i in kept if np.count_nonzero(cleaned[i].mask) < limit]


def _without_small(mask: Mask, min_area: int, *, holes: bool) -> tuple[Mask, bool]:
    """segment-anything's ``remove_small_regions``."""
    working = (mask != holes).astype(np.uint8)
    _, regions, stats, _ = cv2.connectedComponentsWithStats(working, connectivity=8)
    areas: NDArray[Any] = stats[1:, cv2.CC_STAT_AREA]
    small = np.flatnonzero(areas < min_area) + 1
    if not len(small):
        return mask, False
    if holes:
        return mask | np.isin(regions, small), True
    large = np.setdiff1d(np.arange(1, len(areas) + 1), small)
    if not len(large):
        large = np.array([1 + int(np.argmax(areas))])
    return np.isin(regions, large), True


def _painted(found: list[PlainMask], image_size: tuple[int, int]) -> NDArray[np.int32]:
    labels = np.zeros(image_size, np.int32)
    areas = [np.count_nonzero(item.mask) for item in found]
    for number, i in enumerate(sorted(range(len(found)), key=lambda place: -areas[place]), start=1):
        mask = found[i].mask
        labels[mask] = 0
        _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
        labels[parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))] = number
    return np.unique(labels, return_inverse=True)[1].reshape(image_size).astype(np.int32)

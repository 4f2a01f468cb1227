"""CellSeg1's inference as upstream runs it, from an RGB image to labels, timed by stage.

What ``--against plain`` compares with. May import torch and segment-anything.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cellseg1_rt.benchmarking.plain_labels import cleaned_masks, painted, suppressed
from cellseg1_rt.benchmarking.plain_masks import PlainMask, masks_of_batch
from cellseg1_rt.benchmarking.plain_model import BATCH, PlainModel
from cellseg1_rt.benchmarking.stopwatch import Stopwatch
from cellseg1_rt.geometry import Crop, crops_of_image, prompt_grid
from cellseg1_rt.settings import InferenceSettings

__all__ = ["labels_from_masks", "segment_plainly"]


def segment_plainly(
    rgb: NDArray[np.uint8], model: PlainModel, settings: InferenceSettings, watch: Stopwatch
) -> tuple[NDArray[np.int32], tuple[int, ...]]:
    """Labels int32 [H, W] of an image, and how many prompts of each crop passed the score.

    Parameters
    ----------
    rgb : uint8 [H, W, 3], normalised.
    model : the bundle's weights in segment-anything's modules.
    settings : grid, crops and thresholds.
    watch : gets the seconds of ``prepare``, ``encode``, ``decode`` (mask head included),
        ``candidates``, ``nms`` and ``clean+paint``.
    """
    crops = crops_of_image(rgb.shape[0], rgb.shape[1], settings.crops)
    by_crop, survivors = [], list[int]()
    for crop in crops:
        found, passed = _masks_of_crop(rgb, crop, model, settings, watch)
        by_crop.append(found)
        survivors.append(passed)
    return labels_from_masks(by_crop, rgb.shape[:2], settings, watch), tuple(survivors)


def labels_from_masks(
    by_crop: list[list[PlainMask]],
    image_hw: tuple[int, ...],
    settings: InferenceSettings,
    watch: Stopwatch,
) -> NDArray[np.int32]:
    """Labels int32 [H, W] from each crop's masks in the order of their prompts."""
    with watch.stage("nms"):
        found: list[PlainMask] = []
        for of_crop in by_crop:
            ranks = [float(m.score) for m in of_crop]
            found += [of_crop[i] for i in suppressed(of_crop, ranks, settings.crop_nms)]
        if settings.crops > 0:
            ranks = [float(m.score * m.stability) for m in found]
            found = [found[i] for i in suppressed(found, ranks, settings.crop_nms)]
    with watch.stage("clean+paint"):
        return painted(cleaned_masks(found, settings, watch), (image_hw[0], image_hw[1]))


def _masks_of_crop(
    rgb: NDArray[np.uint8],
    crop: Crop,
    model: PlainModel,
    settings: InferenceSettings,
    watch: Stopwatch,
) -> tuple[list[PlainMask], int]:
    with watch.stage("prepare"):
        pixels, (height, width) = model.prepare(rgb, crop)
    with watch.stage("encode"):
        embedding = model.embed(pixels)
    in_crop = prompt_grid(settings.points_per_side) * (crop.width, crop.height)
    in_input = in_crop * (width / crop.width, height / crop.height)
    points = torch.from_numpy(in_input.astype(np.float32))
    found, passed = list[PlainMask](), 0
    for first in range(0, len(points), BATCH):
        batch = points[first : first + BATCH]
        with watch.stage("decode"):
            scores, logits = model.predict(embedding, batch)
        passed += int((scores > settings.score).sum()) if settings.score > 0 else len(batch)
        with watch.stage("candidates"):
            found += masks_of_batch(scores, logits, crop, rgb.shape[:2], model.image_size, settings)
    return found, passed

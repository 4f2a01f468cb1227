"""Small annotated pictures, and samples of them, to train a LoRA on."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.train.lora_sample_settings import SampleSettings
from cellseg1_rt.train.lora_samples import LoraSample


def disks(
    seed: int, height: int, width: int, *, radius: int = 7, gap: int = 4
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Bright disks in rows on a dark, noisy ground: RGB and labels 1..n."""
    labels = np.zeros((height, width), np.int32)
    step, cell = 2 * radius + gap, 0
    for y in range(step // 2, height - radius, step):
        for x in range(step // 2, width - radius, step):
            cell += 1
            cv2.circle(labels, (x, y), radius - (cell + seed) % 2, cell, -1)
    noise = np.random.default_rng(seed).integers(0, 40, labels.shape)
    grey = (np.where(labels > 0, 180, 30) + noise).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), labels


def sample_of_disks(seed: int, size: int, points: int) -> LoraSample:
    """Points strewn over a picture of disks; those in cells come first."""
    image, labels = disks(seed, size, size)
    xy = np.random.default_rng(seed + 1).integers(0, size, (points, 2))
    cell = labels[xy[:, 1], xy[:, 0]]
    order = np.argsort(cell == 0, kind="stable")
    return LoraSample(image, labels, xy[order].astype(np.float32), cell[order])


SETTINGS = SampleSettings(
    image_size=112,
    tile_px=67,
    smallest_set=2,
    most_cells=7,
    smallest_cell_px=30,
    edge_band_px=5,
    background_px=300,
)
"""Data numbers for pictures of about 100 px."""

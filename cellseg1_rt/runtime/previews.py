"""Small pictures of planes too large for memory. Imports numpy; opencv inside."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.formats.label_rows import LabelRows
from cellseg1_rt.formats.planes import PlaneSource
from cellseg1_rt.runtime.normalise import PixelStats, rgb_from_pixels

__all__ = ["preview_of_plane"]

_BLOCK_PX = 1024


def preview_of_plane(
    source: PlaneSource, stats: PixelStats, labels: LabelRows, longest_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """A plane and its labels at 1/n of their size, n whole and as small as ``longest_px`` allows.

    Pixels are means of n × n, labels are the one at the upper left: taken, never blended.

    Returns
    -------
    uint8 [h, w, 3] and uint32 [h, w], no side above ``longest_px``.
    """
    import cv2

    height, width, _ = source.shape
    n = math.ceil(max(height, width) / longest_px)
    shape = -(-height // n), -(-width // n)
    rgb, small = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint32)
    step = max(1, _BLOCK_PX // n)
    for y in range(0, shape[0], step):
        for x in range(0, shape[1], step):
            window = slice(y * n, (y + step) * n), slice(x * n, (x + step) * n)
            target = slice(y, y + step), slice(x, x + step)
            small[target] = labels.read(*window)[::n, ::n]
            block = rgb_from_pixels(source.read(*window), stats=stats)
            bottom, right = (-side % n for side in block.shape[:2])
            filled = np.pad(block, ((0, bottom), (0, right), (0, 0)), mode="edge")
            size = filled.shape[1] // n, filled.shape[0] // n
            rgb[target] = cv2.resize(filled, size, interpolation=cv2.INTER_AREA)
    return rgb, small

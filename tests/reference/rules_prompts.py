"""Rules of steps 1 and 2: crops, what the model is shown of them, and where it is asked.

Frames: "image" is the whole picture in its own pixels, "crop" is a crop's own pixels from its
top left corner, "input" is the crop resized to the model's input. Boxes are (x0, y0, x1, y1).
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]
Size = tuple[int, int]

OVERLAP_RATIO = 512 / 1500


# 1. Crops --------------------------------------------------------------------------------------


def layers(crops: int) -> list[int]:
    """Rule: "layer 0 is the image", followed by the layers of smaller crops."""
    return list(range(crops + 1))


def crops_per_side(layer: int) -> int:
    """Rule: "layer i has n² boxes, n = 2^i"; n = 1 gives the image itself."""
    return 2**layer


def crop_overlap(height: int, width: int, n: int) -> int:
    """Rule: "overlap = int(512/1500 · short side · 2/n)"."""
    return int(OVERLAP_RATIO * min(height, width) * (2 / n))


def crop_length(length: int, overlap: int, n: int) -> int:
    """Rule: "crop length = int(ceil((overlap·(n−1)+length)/n))"."""
    return math.ceil((overlap * (n - 1) + length) / n)


def crop_span(k: int, crop: int, overlap: int, length: int) -> tuple[int, int]:
    """Rule: "starts at int((crop − overlap)·k); ends clamped to the image", exclusive."""
    start = int((crop - overlap) * k)
    return start, min(start + crop, length)


def crop_order(n: int) -> list[tuple[int, int]]:
    """Rule: "x outer and y inner": positions (kx, ky) of a layer's crops."""
    return [(kx, ky) for kx in range(n) for ky in range(n)]


# 2. Prompts ------------------------------------------------------------------------------------


def input_size(height: int, width: int, image_size: int) -> Size:
    """Rule: "longest side to 512 [...], new sides int(x·scale+0.5)"."""
    scale = image_size * 1.0 / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def resized_crop(image: np.ndarray, crop: Box, size: Size) -> np.ndarray:
    """Rule: "Each crop: longest side to 512 by PIL bilinear (antialiased)": cut, then resized.

    ``image`` uint8 [H, W, 3]; the result is uint8 [h, w, 3] with (h, w) = ``size``.
    """
    x0, y0, x1, y1 = crop
    picture = Image.fromarray(np.ascontiguousarray(image[y0:y1, x0:x1]))
    return np.array(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def grid_side(points_per_side: int, layer: int) -> int:
    """Rule: "crop_n_layers 1 with downscale factor 1": the same grid in all layers."""
    return points_per_side


def grid(n: int) -> list[tuple[float, float]]:
    """Rule: "grid points at (i+0.5)/32 of the crop's sides, y outer and x inner", as (x, y)."""
    return [((ix + 0.5) / n, (iy + 0.5) / n) for iy in range(n) for ix in range(n)]


def point_in_input(x: float, y: float, crop_hw: Size, input_hw: Size) -> tuple[float, float]:
    """Rule: "scaled by new/old side", each axis by its own: crop pixels to input pixels."""
    return x * (input_hw[1] / crop_hw[1]), y * (input_hw[0] / crop_hw[0])

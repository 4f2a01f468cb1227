"""Frames of coordinates: the image, its crops, and the model's input.

Points and boxes are (x, y) in pixels of the frame named; sizes are (height, width). Rules are
numbered as CellSeg1's inference runs them. Imports the standard library and numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Crop", "crops_of_image", "input_size_of_crop", "prompt_grid"]

CROP_OVERLAP_RATIO = 512 / 1500
"""Overlap of neighbouring crops over the image's short side at layer 1 (SAM's default)."""


@dataclass(frozen=True)
class Crop:
    """A window of the image: first column and row, and the ones after the last (exclusive)."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def height(self) -> int:
        """Rows of the crop."""
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        """Columns of the crop."""
        return self.x1 - self.x0


def crops_of_image(height: int, width: int, layers: int) -> list[Crop]:
    """The whole image, then ``4**i`` overlapping crops for each layer i, x outer and y inner.

    The arithmetic, truncations included, is segment-anything's ``generate_crop_boxes``. Crops of an
    image of a few pixels that would hold none are left out.
    """
    crops = [Crop(0, 0, width, height)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(CROP_OVERLAP_RATIO * min(height, width) * (2 / count))
        crop_width = math.ceil((overlap * (count - 1) + width) / count)
        crop_height = math.ceil((overlap * (count - 1) + height) / count)
        lefts = [int((crop_width - overlap) * k) for k in range(count)]
        tops = [int((crop_height - overlap) * k) for k in range(count)]
        crops += [
            Crop(left, top, min(left + crop_width, width), min(top + crop_height, height))
            for left in lefts
            for top in tops
        ]
    return [crop for crop in crops if crop.height > 0 and crop.width > 0]


def input_size_of_crop(crop: Crop, image_size: int) -> tuple[int, int]:
    """(height, width) of the crop in the model's input: its longer side becomes ``image_size``."""
    scale = image_size / max(crop.height, crop.width)
    # A sliver of a crop must still have a row and a column to be seen.
    return (
        max(1, int(crop.height * scale + 0.5)),
        max(1, int(crop.width * scale + 0.5)),
    )


def prompt_grid(points_per_side: int) -> NDArray[np.float64]:
    """Grid points (x, y) in shares of a crop's sides: [P·P, 2], y outer and x inner."""
    shares = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(shares, shares)
    return np.stack([x.ravel(), y.ravel()], axis=1)

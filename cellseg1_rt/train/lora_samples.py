"""What LoRA training learns from: an augmented tile with its prompts.

A sample is a pure function of (tile, key, settings), so a resumed run sees exactly what an
uninterrupted one would. No global generator is read or moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.train.lora_augment import apply_augmentation, draw_augmentation
from cellseg1_rt.train.lora_points import draw_points, usable_cells
from cellseg1_rt.train.lora_sample_settings import SampleSettings
from cellseg1_rt.train.lora_tiles import Tile, tiles_of_pairs

__all__ = ["LoraSample", "SampleSettings", "Tile", "draw_lora_sample", "tiles_of_pairs"]


@dataclass(frozen=True)
class LoraSample:
    """One input of the model with its prompts.

    Attributes
    ----------
    image : uint8 [S, S, 3], RGB.
    labels : int32 [S, S], 0 in background and beyond the tile, -1 where nothing is known.
    points_xy : float32 [N, 2], (x, y), whole numbers: the pixels of the sample that the points
        lie on. N is 1 at least; those in cells come first.
    cell : int32 [N], the label under each point; 0 is a background point.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    points_xy: NDArray[np.float32]
    cell: NDArray[np.int32]


def draw_lora_sample(
    tile: Tile, key: tuple[int, ...], settings: SampleSettings
) -> LoraSample | None:
    """A sample of a tile, or None where no point is left.

    After augmentation, points outside the image are dropped, and those in cells also where they
    lie on no cell any more, or on one that may have no point. A background point that resampling
    put on a cell is dropped too: it would teach that a cell is none.

    Parameters
    ----------
    key : whole numbers from 0 on that seed everything random about this sample.
    """
    rng = np.random.default_rng(key)
    points, positives = draw_points(rng, tile.labels, settings)
    height, width = tile.labels.shape
    augmentation = draw_augmentation(rng, (height, width), settings)
    augmented = apply_augmentation(
        tile.image, tile.labels, points, augmentation, settings.image_size
    )
    points = augmented.points
    x, y = np.where(augmented.inside[:, None], points, 0).T
    cell = augmented.labels[y, x]
    in_usable = usable_cells(augmented.labels, settings)[np.maximum(cell, 0)]
    fits = np.where(np.arange(len(points)) < positives, in_usable, cell == 0)
    kept = np.flatnonzero(augmented.inside & fits)
    if len(kept) == 0:
        return None
    return LoraSample(
        augmented.image, augmented.labels, points[kept].astype(np.float32), cell[kept]
    )

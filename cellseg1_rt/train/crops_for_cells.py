"""How finely a trained model has to look at an image, judged by the cells it was trained on.

Imports numpy, OpenCV and SciPy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellseg1_rt.geometry import crops_of_image
from cellseg1_rt.settings import InferenceSettings

__all__ = [
    "finest_crop_px",
    "grid_spacing_px",
    "median_diameter_px",
    "median_width_px",
    "with_crops_for_cells",
]

MOST_CROPS = 2
"""21 embeddings an image; a layer more would be 85."""


def median_diameter_px(labels: NDArray[np.int32]) -> float:
    """Median diameter of the cells, px: that of a disc of the same area, 2·sqrt(area / π).

    Parameters
    ----------
    labels : int32 [H, W], cells are 1..n without gaps, n at least 1.
    """
    areas = np.bincount(labels.ravel())[1:]
    return float(np.median(2 * np.sqrt(areas / math.pi)))


def median_width_px(labels: NDArray[np.int32]) -> float:
    """Median width of the cells, px: the diameter of the largest disc in each, up to 2 px less.

    A rod of 18 × 54 px has the area of a disc of 35 px, but slips through a grid that meets every
    such disc.

    Parameters
    ----------
    labels : int32 [H, W], cells are 1..n without gaps, n at least 1. The image ends a cell.
    """
    return float(
        np.median(
            [
                _width_px(labels[box] == label)
                for label, box in enumerate(ndimage.find_objects(labels), start=1)
            ]
        )
    )


def _width_px(cell: NDArray[np.bool_]) -> float:
    """Of one cell in its tight box."""
    padded = np.pad(cell, 1).view(np.uint8)
    deepest = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max()
    return 2 * float(deepest) - 1  # from pixel's centre to pixel's centre


def finest_crop_px(height: int, width: int, crops: int) -> int:
    """Longer side, in px of the image, of the largest crop of the finest of ``crops`` layers."""
    finest = crops_of_image(height, width, crops)[-(4**crops) :]
    return max(max(crop.height, crop.width) for crop in finest)


def grid_spacing_px(height: int, width: int, settings: InferenceSettings) -> float:
    """How far apart, in px of the image, prompts of the finest layer of crops lie at most.

    The grid has as many points along a crop's longer side as along its shorter one.
    """
    return finest_crop_px(height, width, settings.crops) / settings.points_per_side


def with_crops_for_cells(
    settings: InferenceSettings,
    provenance: Mapping[str, str],
    image_size: int,
    least_width_px: float = 0.0,
) -> tuple[InferenceSettings, str]:
    """Settings with the fewest layers of crops that show the median cell large enough.

    That is, no such cell slips through the grid of prompts, and in the model's input it is
    ``least_width_px`` wide. A disc of diameter d holds a point of a square grid wherever it lies if
    the grid's spacing is at most d / √2, and so does a cell in which it fits. Layers beyond
    ``MOST_CROPS`` are not asked for, nor fewer than the settings have.

    Parameters
    ----------
    provenance : of a LoRA file written by ``train``; its ``training_images`` is read.
    image_size : side S of the model's input, px, which a crop's longer side becomes.
    least_width_px : px of the model's input. What was learned from coarser crops is better found
        in finer ones (docs/one_image.md).

    Returns
    -------
    The settings, and a line that says what was chosen and why.
    """
    images = json.loads(provenance["training_images"])
    cell_width = min(image["cell_width_px"] for image in images)
    for crops in range(settings.crops, max(MOST_CROPS, settings.crops) + 1):
        chosen = settings.updated(crops=crops)
        sizes = (image["size_px"] for image in images)
        spacing = max(grid_spacing_px(height, width, chosen) for height, width in sizes)
        # A crop is points_per_side grid steps long, and image_size px of the model's input.
        shown = cell_width * image_size / (spacing * settings.points_per_side)
        if spacing * math.sqrt(2) <= cell_width and shown >= least_width_px:
            break
    return chosen, (
        f"cells are {cell_width:.0f} px wide (median): segmented with --crops {chosen.crops}, "
        f"which shows them to the model at {shown:.0f} px; grid points are {spacing:.0f} px apart"
    )

"""Candidates: what is left of a crop's survivors once stability, area and edges are judged.

Rule 3 of CellSeg1's inference. Imports numpy and OpenCV.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.geometry import Crop, input_size_of_crop
from cellseg1_rt.runtime.prompts import Survivors
from cellseg1_rt.settings import InferenceSettings

__all__ = ["Candidate", "bounding_box", "candidates_of_crop", "passes_thresholds"]

EDGE_PX = 20
"""A box this near a crop's side (inclusive) is cut by it, unless the image ends there too."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Candidate:
    """One mask, with what later steps rank and judge it by.

    Attributes
    ----------
    crop : index of the crop that found it, in the order of ``crops_of_image``.
    score, stability : float32 values; stability is 0 where no logit exceeds -offset.
    point_xy : the prompt (x, y), image pixels.
    area_px : pixels of the mask.
    box : first and last set pixel (x0, y0, x1, y1), both inclusive, image pixels; an empty mask has
        the crop's first pixel four times over.
    mask : bool, the mask inside its box.
    """

    crop: int
    score: np.float32
    stability: np.float32
    point_xy: tuple[float, float]
    area_px: int
    box: Box
    mask: NDArray[np.bool_]


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """First and last set pixel (x0, y0, x1, y1) of a mask [H, W]; zeros where none is set."""
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(columns):
        return 0, 0, 0, 0
    rows = np.flatnonzero(mask[:, columns[0] : columns[-1] + 1].any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def candidates_of_crop(
    batches: Iterable[Survivors],
    crop: Crop,
    crop_index: int,
    image_size: tuple[int, int],
    model_size: int,
    settings: InferenceSettings,
) -> list[Candidate]:
    """Candidates of one crop, in prompt order.

    Parameters
    ----------
    batches : the crop's survivors.
    crop : where it lies in the image.
    image_size : (height, width) of the image.
    model_size : side S of the model's input.
    settings : thresholds; one of 0 switches its filter off.
    """
    found = []
    for survivors in batches:
        for score, point, logits in zip(
            survivors.score, survivors.point_xy, survivors.logits, strict=True
        ):
            full = _logits_at_crop_size(logits, crop, model_size)
            stability = _stability(full, settings.stability_offset)
            mask = full > 0
            area = int(np.count_nonzero(mask))
            if not passes_thresholds(score, stability, area, image_size, settings):
                continue
            x0, y0, x1, y1 = bounding_box(mask)
            box = (x0 + crop.x0, y0 + crop.y0, x1 + crop.x0, y1 + crop.y0)
            if _is_cut_by_crop(box, crop, image_size):
                continue
            inside = mask[y0 : y1 + 1, x0 : x1 + 1].copy()
            place = (float(point[0]), float(point[1]))
            found.append(Candidate(crop_index, score, stability, place, area, box, inside))
    return found


def passes_thresholds(
    score: np.float32,
    stability: np.float32,
    area_px: int,
    image_size: tuple[int, int],
    settings: InferenceSettings,
) -> bool:
    """Whether score, stability and area pass. Scores compare as float32, as upstream's do."""
    if settings.score > 0 and not score > np.float32(settings.score):
        return False
    if settings.stability > 0 and not stability >= np.float32(settings.stability):
        return False
    # A quotient, because ratio · image area can be an ulp above an area that equals it.
    share = area_px / (image_size[0] * image_size[1])
    return not (settings.max_area_ratio > 0 and not share < settings.max_area_ratio)


def _logits_at_crop_size(
    logits: NDArray[np.float32], crop: Crop, model_size: int
) -> NDArray[np.float32]:
    """Two bilinear steps with a cut between them: input size, valid part, crop size.

    OpenCV's linear resize samples at half-pixel centres without antialiasing, like
    ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``.
    """
    height, width = input_size_of_crop(crop, model_size)
    at_input = cv2.resize(logits, (model_size, model_size), interpolation=cv2.INTER_LINEAR)
    valid = at_input[:height, :width]
    resized = cv2.resize(valid, (crop.width, crop.height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32)


def _stability(logits: NDArray[np.float32], offset: float) -> np.float32:
    """#(logit > +offset) / #(logit > -offset); 0 where both are 0."""
    above = np.float32(np.count_nonzero(logits > np.float32(offset)))
    below = np.float32(np.count_nonzero(logits > np.float32(-offset)))
    return np.float32(above / below) if below > 0 else np.float32(0)


def _is_cut_by_crop(box: Box, crop: Crop, image_size: tuple[int, int]) -> bool:
    height, width = image_size
    sides = zip(box, (crop.x0, crop.y0, crop.x1, crop.y1), (0, 0, width, height), strict=True)
    return any(
        abs(at - crop_side) <= EDGE_PX and abs(at - image_side) > EDGE_PX
        for at, crop_side, image_side in sides
    )

"""Candidates: what is left of a crop's survivors once stability, area and edges are judged.

Rule 3 of CellSeg1's inference. Imports numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.geometry import Crop
from cellseg1_rt.runtime.evaluate import evaluate, masks_of
from cellseg1_rt.runtime.packed import PackedMasks
from cellseg1_rt.runtime.prompts import Survivors
from cellseg1_rt.settings import InferenceSettings

__all__ = ["Found", "candidates_of_crop", "passes_thresholds"]

EDGE_PX = 20
"""A box this near a crop's side (inclusive) is cut by it, unless the image ends there too."""


@dataclass(frozen=True)
class Found:
    """N masks, with what later steps rank and judge them by; a column each.

    Attributes
    ----------
    crop : int32 [N], the crop that found each, in the order of ``crops_of_image``.
    score, stability : float32 [N]; stability is 0 where no logit exceeds -offset.
    point_xy : float32 [N, 2], the prompt (x, y), image pixels.
    masks : the masks, their boxes and areas.
    """

    crop: NDArray[np.int32]
    score: NDArray[np.float32]
    stability: NDArray[np.float32]
    point_xy: NDArray[np.float32]
    masks: PackedMasks

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.score)

    def take(self, index: NDArray[Any]) -> Found:
        """The rows of an index, in its order."""
        return Found(
            self.crop[index],
            self.score[index],
            self.stability[index],
            self.point_xy[index],
            self.masks.take(index),
        )

    @staticmethod
    def concatenate(parts: Sequence[Found]) -> Found:
        """All rows of some sets, in their order."""
        return Found(
            np.concatenate([np.zeros(0, np.int32), *(part.crop for part in parts)]),
            np.concatenate([np.zeros(0, np.float32), *(part.score for part in parts)]),
            np.concatenate([np.zeros(0, np.float32), *(part.stability for part in parts)]),
            np.concatenate([np.zeros((0, 2), np.float32), *(part.point_xy for part in parts)]),
            PackedMasks.concatenate([part.masks for part in parts]),
        )


def candidates_of_crop(
    batches: Iterable[Survivors],
    crop: Crop,
    crop_index: int,
    image_size: tuple[int, int],
    model_size: int,
    settings: InferenceSettings,
) -> Found:
    """Candidates of one crop, in prompt order.

    Parameters
    ----------
    batches : the crop's survivors.
    crop : where it lies in the image.
    image_size : (height, width) of the image.
    model_size : side S of the model's input.
    settings : thresholds; one of 0 switches its filter off.

    Raises
    ------
    VerificationError : on a logit that is not finite: an overflow, never a result.
    """
    parts = []
    for survivors in batches:
        evaluated = evaluate(survivors.logits, crop, model_size, settings.stability_offset)
        above, near, area = evaluated.counts.T
        stability = np.zeros(len(area), np.float32)
        np.divide(above.astype(np.float32), near.astype(np.float32), out=stability, where=near > 0)
        box = evaluated.boxes + np.tile(np.array([crop.x0, crop.y0], np.int32), 2)
        passed = passes_thresholds(survivors.score, stability, area, image_size, settings)
        chosen = np.flatnonzero(passed & ~_is_cut_by_crop(box, crop, image_size))
        parts.append(
            Found(
                np.full(len(chosen), crop_index, np.int32),
                survivors.score[chosen],
                stability[chosen],
                survivors.point_xy[chosen],
                masks_of(evaluated, chosen, box[chosen]),
            )
        )
    return Found.concatenate(parts)


def passes_thresholds(
    score: NDArray[np.float32],
    stability: NDArray[np.float32],
    area_px: NDArray[np.int64],
    image_size: tuple[int, int],
    settings: InferenceSettings,
) -> NDArray[np.bool_]:
    """Which of N pass score, stability and area. Scores compare as float32, as upstream's do."""
    passed = np.ones(len(score), bool)
    if settings.score > 0:
        passed &= score > np.float32(settings.score)
    if settings.stability > 0:
        passed &= stability >= np.float32(settings.stability)
    if settings.max_area_ratio > 0:
        # A quotient, because ratio · image area can be an ulp above an area that equals it.
        passed &= area_px / (image_size[0] * image_size[1]) < settings.max_area_ratio
    return passed


def _is_cut_by_crop(
    box: NDArray[np.int32], crop: Crop, image_size: tuple[int, int]
) -> NDArray[np.bool_]:
    height, width = image_size
    from_crop = np.abs(box - np.array([crop.x0, crop.y0, crop.x1, crop.y1]))
    from_image = np.abs(box - np.array([0, 0, width, height]))
    return np.asarray(((from_crop <= EDGE_PX) & (from_image > EDGE_PX)).any(axis=1))

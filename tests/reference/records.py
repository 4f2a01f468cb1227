"""What the reference takes and gives: settings, candidates, cells, and the result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reference.margins import DecisionLog
from reference.rules_prompts import Box


@dataclass(frozen=True)
class Settings:
    """The thresholds, by the names of the published configuration's short forms."""

    points_per_side: int = 32
    crops: int = 0
    score: float = 0.8
    stability: float = 0.6
    stability_offset: float = 0.8
    crop_nms: float = 0.05
    box_nms: float = 0.05
    min_area: int = 20
    max_area_ratio: float = 0.1
    image_size: int = 512


@dataclass(frozen=True)
class Candidate:
    """One prompt that got through step 3.

    Attributes
    ----------
    prompt : number of the prompt, counted through all crops in their order.
    score, stability : float32.
    point_xy : the prompt in image pixels.
    mask : bool [H, W], logit > 0, in the image; step 6 puts the cleaned mask here.
    box : (x0, y0, x1, y1) of the original mask, image pixels, last pixel inclusive.
    """

    prompt: int
    score: np.float32
    stability: np.float32
    point_xy: tuple[float, float]
    mask: np.ndarray
    box: Box


@dataclass(frozen=True)
class Cell:
    """A cell of the label map; area, box and centroid are those of its pixels there."""

    label: int
    prompt: int
    score: np.float32
    stability: np.float32
    point_xy: tuple[float, float]
    mask: np.ndarray
    area_px: int
    box_xyxy: Box
    centroid_xy: tuple[float, float]


@dataclass(frozen=True)
class ReferenceResult:
    """Labels int [H, W], the cells 1..K in their order, and how firm the decisions were."""

    labels: np.ndarray
    cells: list[Cell]
    log: DecisionLog

    def min_margin_near(self, pixels: np.ndarray) -> float:
        """Least margin of any decision about a prompt whose mask meets ``pixels`` bool [H, W]."""
        return self.log.min_margin_near(pixels)

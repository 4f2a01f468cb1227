"""Random cells under a grid of prompts: everything that real logits do, at small sizes.

Cells are ellipses of all sizes in the image. A prompt is answered with the cell it lies nearest
to, a little displaced, and often with a hole, an island or an unsure border; scores are often tied.
The same cell is found again from every crop that shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reference.inference import crop_boxes
from reference.rules_prompts import Box, input_size, resized_crop

PATCH_PX = 16


@dataclass(frozen=True)
class RandomScene:
    """A scene that answers every prompt.

    Attributes
    ----------
    name : the test's id.
    image_hw : size of the image.
    settings : all thresholds that are not the published ones.
    seed : of everything.
    image_size : side S of the model's input.
    cells : how many cells the image has.
    """

    name: str
    image_hw: tuple[int, int]
    settings: dict[str, Any]
    seed: int
    image_size: int = 64
    cells: int = 23
    _shown: dict[bytes, Box] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for _, crop in crop_boxes(self.image_hw, self.settings.get("crops", 0)):
            x0, y0, x1, y1 = crop
            size = input_size(y1 - y0, x1 - x0, self.image_size)
            self._shown[resized_crop(self.image, crop, size).tobytes()] = crop

    @property
    def image(self) -> np.ndarray:
        """Uint8 [H, W, 3] of noise, by which crops are recognised."""
        shape = (*self.image_hw, 3)
        return np.random.default_rng(self.seed).integers(0, 256, shape, dtype=np.uint8)

    @property
    def ellipses(self) -> np.ndarray:
        """[K, 4]: centre (x, y) and half axes, image pixels."""
        rng = np.random.default_rng(self.seed + 1)
        height, width = self.image_hw
        centres = rng.uniform((0, 0), (width, height), (self.cells, 2))
        axes = rng.uniform(1.5, 0.13 * max(height, width), (self.cells, 2))
        return np.concatenate([centres, axes], axis=1)

    def predict(self, resized: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 [N] and logits float32 [N, 4g, 4g]."""
        crop = self._shown[resized.tobytes()]
        answers = [self._answer(crop, resized.shape[:2], point) for point in points]
        scores = np.array([score for score, _ in answers], np.float32)
        return scores, np.array([logits for _, logits in answers], np.float32)

    def _answer(self, crop: Box, input_hw: tuple[int, int], point: np.ndarray):
        scale = np.array([crop[2] - crop[0], crop[3] - crop[1]]) / input_hw[::-1]
        rng = np.random.default_rng([self.seed, *crop, *np.round(point * 8).astype(int)])
        where = point * scale + crop[:2]
        ellipses = self.ellipses
        distances = (((where - ellipses[:, :2]) / ellipses[:, 2:]) ** 2).sum(axis=1)
        chosen = ellipses[int(np.argmin(distances))] + rng.normal(0, 0.4, 4)
        score = rng.uniform(0.7, 1.0) if distances.min() < 2 else rng.uniform(-0.1, 0.85)
        if rng.random() < 0.5:
            score = round(score * 16) / 16

        side = self.image_size // PATCH_PX * 4
        cells = (np.arange(side) + 0.5) * (self.image_size / side)
        x, y = np.meshgrid(cells * scale[0] + crop[0], cells * scale[1] + crop[1])
        (cx, cy), (rx, ry) = chosen[:2], np.maximum(np.abs(chosen[2:]), 1.5)
        logits = 7 * (1 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2)
        logits = np.maximum(logits, -9)
        if rng.random() < 0.35:
            logits -= self._bump(rng, x, y, (cx, cy), 0.4 * (rx + ry) / 2, 11)
        if rng.random() < 0.35:
            logits += self._bump(rng, x, y, (cx, cy), 2.5 * (rx + ry) / 2, 15)
        if rng.random() < 0.25:
            logits *= rng.uniform(0.03, 0.3)
        return score, logits

    def _bump(self, rng, x, y, centre, spread: float, height: float) -> np.ndarray:
        bx, by = rng.normal(centre, spread)
        width = rng.uniform(1.0, 3.5)
        return height * np.exp(-((x - bx) ** 2 + (y - by) ** 2) / (2 * width**2))


GRID = {"points_per_side": 9}

RANDOM_SCENES = [
    RandomScene("published, one crop", (97, 131), GRID, 11),
    RandomScene("512 px", (383, 512), {"points_per_side": 12}, 10, image_size=512, cells=97),
    RandomScene("tall", (139, 79), GRID, 12),
    RandomScene("larger than its input by far", (157, 211), GRID, 13, cells=41),
    RandomScene("smaller than its input", (37, 53), GRID, 14, image_size=128, cells=13),
    RandomScene("as large as its input", (59, 64), GRID, 15),
    RandomScene("published, five crops", (113, 149), {"points_per_side": 7, "crops": 1}, 16),
    RandomScene("five tall crops", (193, 127), {"points_per_side": 7, "crops": 1}, 17, cells=37),
    RandomScene("21 crops", (131, 137), {"points_per_side": 4, "crops": 2}, 18, image_size=80),
    RandomScene(
        "all filters off",
        (83, 101),
        {
            **GRID,
            "score": 0.0,
            "stability": 0.0,
            "max_area_ratio": 0.0,
            "min_area": 0,
        },
        19,
    ),
    RandomScene(
        "all filters off, five crops",
        (103, 127),
        {
            "points_per_side": 6,
            "crops": 1,
            "score": 0.0,
            "stability": 0.0,
            "max_area_ratio": 0.0,
        },
        20,
    ),
    RandomScene(
        "NMS at 0",
        (107, 89),
        {
            **GRID,
            "crop_nms": 0.0,
            "box_nms": 0.0,
        },
        21,
    ),
    RandomScene(
        "hardly any NMS",
        (89, 107),
        {
            **GRID,
            "crop_nms": 0.7,
            "box_nms": 0.9,
            "max_area_ratio": 0.3,
        },
        22,
    ),
    RandomScene(
        "hardly any NMS, five crops",
        (109, 151),
        {
            "points_per_side": 6,
            "crops": 1,
            "crop_nms": 0.6,
            "box_nms": 0.2,
        },
        23,
    ),
    RandomScene("larger small regions", (127, 103), {**GRID, "min_area": 61, "crop_nms": 0.4}, 24),
    RandomScene(
        "stability alone",
        (101, 97),
        {
            **GRID,
            "score": 0.0,
            "stability": 0.5,
            "stability_offset": 0.9,
        },
        25,
    ),
    RandomScene(
        "no stability offset",
        (97, 103),
        {
            **GRID,
            "stability": 1.0,
            "stability_offset": 0.0,
        },
        26,
    ),
]

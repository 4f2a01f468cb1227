"""``--crops`` follows from the cells of the training image."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from cellseg1_rt.geometry import crops_of_image, prompt_grid
from cellseg1_rt.settings import InferenceSettings
from cellseg1_rt.train.crops_for_cells import (
    finest_crop_px,
    grid_spacing_px,
    median_diameter_px,
    with_crops_for_cells,
)

PUBLISHED = InferenceSettings()
INPUT_PX = 512
# (size, diameter) of each image, settings, crops
CASES = {
    "large cells": ([((1024, 1024), 69)], PUBLISHED, 0),
    "just hit": ([((512, 512), 16 * math.sqrt(2) + 0.01)], PUBLISHED, 0),
    "just missed": ([((512, 512), 16 * math.sqrt(2) - 0.01)], PUBLISHED, 1),
    "smaller cells": ([((1024, 1024), 41)], PUBLISHED, 1),
    "small cells": ([((1024, 1024), 20)], PUBLISHED, 2),
    "too small for any": ([((1024, 1024), 5)], PUBLISHED, 2),
    "never less than asked for": ([((1024, 1024), 69)], PUBLISHED.updated(crops=3), 3),
    "a finer grid": ([((1024, 1024), 41)], PUBLISHED.updated(points_per_side=64), 0),
    "the smallest cells count": ([((512, 512), 40), ((512, 512), 13)], PUBLISHED, 2),
    "the largest image counts": ([((256, 256), 40), ((1024, 960), 40)], PUBLISHED, 1),
}


@pytest.mark.parametrize(("images", "settings", "crops"), CASES.values(), ids=CASES)
def test_fewest_crops_whose_grid_meets_every_median_cell(images, settings, crops) -> None:
    rows = [{"size_px": size, "cell_diameter_px": diameter} for size, diameter in images]
    provenance = {"training_images": json.dumps(rows)}
    chosen, why = with_crops_for_cells(settings, provenance, INPUT_PX)
    assert chosen == settings.updated(crops=crops)
    assert f"--crops {crops}," in why


# size, diameter, side of the model's input, layers; a crop of the second layer overlaps others.
LARGE_ENOUGH = {
    "as it is": ((512, 512), 48, 512, 0),
    "a little too small": ((512, 512), 47.9, 512, 1),
    "half": ((1024, 1024), 69, 512, 1),
    "a larger input shows more": ((1024, 1024), 69, 1024, 0),
    "twice": ((1024, 1024), 38, 512, 2),
    "too small for any": ((1024, 1024), 12, 512, 2),
    "the longer side counts": ((256, 768), 60, 512, 1),
}


@pytest.mark.parametrize(
    ("size", "diameter", "input_px", "crops"), LARGE_ENOUGH.values(), ids=LARGE_ENOUGH
)
def test_fewest_crops_that_show_the_median_cell_large_enough(
    size, diameter, input_px, crops
) -> None:
    rows = [{"size_px": size, "cell_diameter_px": diameter}]
    provenance = {"training_images": json.dumps(rows)}
    chosen, why = with_crops_for_cells(PUBLISHED, provenance, input_px, 48)
    assert chosen.crops == crops
    side = finest_crop_px(*size, crops)
    assert f"to the model at {diameter * input_px / side:.0f} px;" in why


@pytest.mark.parametrize("size", [(397, 601), (601, 397), (211, 211)])
@pytest.mark.parametrize("crops", [0, 1, 2])
def test_spacing_is_that_of_the_finest_crops_prompts(size: tuple[int, int], crops: int) -> None:
    settings = PUBLISHED.updated(crops=crops, points_per_side=7)
    finest = crops_of_image(*size, crops)[-(4**crops) :]
    steps = []
    for crop in finest:
        points = prompt_grid(7) * (crop.width, crop.height)
        for axis in (0, 1):
            steps += np.diff(np.unique(points[:, axis].round(6))).tolist()
    assert grid_spacing_px(*size, settings) == pytest.approx(max(steps), rel=1e-6)


def test_median_diameter_is_that_of_a_disc() -> None:
    labels = np.zeros((97, 131), np.int32)
    y, x = np.mgrid[:97, :131]
    for label, (row, column, radius) in enumerate([(20, 20, 9), (60, 70, 15), (70, 20, 4)], 1):
        labels[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = label
    assert median_diameter_px(labels) == pytest.approx(18, abs=0.5)

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
    median_width_px,
    with_crops_for_cells,
)
from cellseg1_rt.train.lora_tiles import number_cells

PUBLISHED = InferenceSettings()
INPUT_PX = 512
# (size, width of a cell) of each image, settings, crops
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
    rows = [{"size_px": size, "cell_width_px": cell} for size, cell in images]
    provenance = {"training_images": json.dumps(rows)}
    chosen, why = with_crops_for_cells(settings, provenance, INPUT_PX)
    assert chosen == settings.updated(crops=crops)
    assert f"--crops {crops}," in why


# size, width of a cell, side of the model's input, layers; crops of the second layer overlap.
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
    ("size", "cell", "input_px", "crops"), LARGE_ENOUGH.values(), ids=LARGE_ENOUGH
)
def test_fewest_crops_that_show_the_median_cell_large_enough(size, cell, input_px, crops) -> None:
    rows = [{"size_px": size, "cell_width_px": cell}]
    provenance = {"training_images": json.dumps(rows)}
    chosen, why = with_crops_for_cells(PUBLISHED, provenance, input_px, 48)
    assert chosen.crops == crops
    side = finest_crop_px(*size, crops)
    assert f"to the model at {cell * input_px / side:.0f} px;" in why


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


def test_median_width_is_that_of_the_largest_disc() -> None:
    labels = np.zeros((97, 131), np.int32)
    y, x = np.mgrid[:97, :131]
    labels[10:28, 10:64] = 1  # a rod of 18 × 54 px
    labels[28:45, 10:64] = 2  # its neighbour, 17 px wide
    labels[(y - 70) ** 2 + (x - 100) ** 2 <= 12**2] = 3  # a disc of 25 px
    labels[60:66, 0:60] = 4  # 6 px wide, and the image ends it
    for cells, width in (([1, 2], 17.5), ([1, 3, 4], 18), ([2], 17), ([3], 25), ([4], 6)):
        chosen = number_cells(np.where(np.isin(labels, cells), labels, 0))
        assert width - 2 <= median_width_px(chosen) <= width
    assert median_width_px(np.ones((1, 1), np.int32)) == 1
    assert 7 <= median_width_px(np.ones((9, 30), np.int32)) <= 9


def test_a_rod_takes_the_crops_that_its_width_asks_for() -> None:
    """The grid that meets every disc of its area misses a rod that lies between two rows."""
    labels = np.zeros((512, 512), np.int32)
    labels[100:112, 50:110] = 1
    assert median_diameter_px(labels) > 16 * math.sqrt(2)
    images = [{"size_px": labels.shape, "cell_width_px": median_width_px(labels)}]
    chosen, _ = with_crops_for_cells(PUBLISHED, {"training_images": json.dumps(images)}, INPUT_PX)
    grid = prompt_grid(PUBLISHED.points_per_side) * 512
    missed = np.zeros((512, 512), np.int32)
    missed[105:117, 50:110] = 1
    x, y = grid.astype(int).T
    assert chosen.crops > 0
    assert not missed[y, x].any()

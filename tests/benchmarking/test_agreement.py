"""Agreement of label maps, on maps small enough to read."""

from __future__ import annotations

import numpy as np
import pytest

from cellseg1_rt.benchmarking.agreement import agreement_of

MAP = np.array([[0, 1, 1, 0], [2, 2, 0, 3]])


def test_numbers_of_cells_do_not_matter():
    found = agreement_of([np.array([[0, 7, 7, 0], [5, 5, 0, 1]])], [MAP])
    assert (found.ap50, found.matched_iou, found.equal_images, found.images) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([[0, 1, 1, 0], [1, 1, 0, 3]], id="two cells made one"),
        pytest.param([[0, 1, 4, 0], [2, 2, 0, 3]], id="one cell made two"),
        pytest.param([[0, 1, 1, 0], [2, 2, 0, 0]], id="a cell lost"),
        pytest.param([[3, 1, 1, 3], [2, 2, 3, 0]], id="background and a cell changed places"),
    ],
)
def test_any_pixel_matters(other: list):
    assert agreement_of([np.array(other)], [MAP]).equal_images == 0
    assert agreement_of([MAP], [np.array(other)]).equal_images == 0


def test_means_are_over_images_and_over_cells():
    half = np.array([[0, 1, 0, 0], [2, 2, 0, 0]])  # IoU 0.5 and 1, one cell missed
    found = agreement_of([half, MAP], [MAP, MAP])
    assert found.ap50 == pytest.approx((2 / 3 + 1) / 2)
    assert found.matched_iou == pytest.approx((0.5 + 1 + 3) / 5)
    assert str(found) == "AP@0.5 0.8333, mean IoU 0.9000, 1 of 2 maps equal"


def test_nothing_found():
    found = agreement_of([np.zeros((2, 3), int)], [np.zeros((2, 3), int)])
    assert (found.ap50, found.matched_iou, found.equal_images) == (1, None, 1)
    assert "no matches" in str(found)

"""Crops, input sizes and grids, against segment-anything's own code where it has one."""

from __future__ import annotations

import numpy as np
import pytest
from segment_anything.utils.amg import build_point_grid, generate_crop_boxes
from segment_anything.utils.transforms import ResizeLongestSide

from cellseg1_rt.geometry import Crop, crops_of_image, input_size_of_crop, prompt_grid

SIZES = [(512, 383), (603, 1272), (101, 97), (37, 1009), (1024, 1024)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_crops_are_segment_anythings(size, layers):
    boxes, _ = generate_crop_boxes(size, layers, 512 / 1500)
    ours = [[c.x0, c.y0, c.x1, c.y1] for c in crops_of_image(*size, layers)]
    assert ours == [[int(value) for value in box] for box in boxes]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_input_size_is_segment_anythings(size):
    expected = ResizeLongestSide.get_preprocess_shape(*size, 512)
    assert input_size_of_crop(Crop(0, 0, size[1], size[0]), 512) == expected


@pytest.mark.parametrize("side", [1, 7, 32])
def test_grid_is_segment_anythings(side):
    np.testing.assert_allclose(prompt_grid(side), build_point_grid(side), rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 997)], ids=str)
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_tiny_images_have_only_crops_with_pixels(size, layers):
    for crop in crops_of_image(*size, layers):
        height, width = input_size_of_crop(crop, 512)
        assert 1 <= height <= 512
        assert 1 <= width <= 512
        assert 0 <= crop.x0 < crop.x1 <= size[1]
        assert 0 <= crop.y0 < crop.y1 <= size[0]

"""Tiles of annotated images: where they start, how small images grow, how lists are repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import training_data as plain
from segment_anything.utils.amg import generate_crop_boxes

from cellseg1_rt.errors import InputError
from cellseg1_rt.train.lora_samples import SampleSettings, Tile, tiles_of_pairs
from cellseg1_rt.train.lora_tiles import number_cells, tile_starts


def pair(height: int, width: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    labels = plain.random_cells(rng, height, width, 7, (4, 11)) * 3
    return rng.integers(0, 256, (height, width, 3), np.uint8), labels


@pytest.mark.parametrize("tile", [256, 61])
def test_starts_equal_the_plain_rule(tile: int):
    for length in range(tile, 1101):
        assert tile_starts(length, tile) == plain.tile_starts(length, tile)


@pytest.mark.parametrize(
    "length, starts",
    [
        pytest.param(256, [0], id="one"),
        pytest.param(257, [0, 0, 1], id="hardly-more"),
        pytest.param(383, [0, 63, 127], id="just-below-the-next"),
        pytest.param(384, [0, 64, 128], id="three-exactly"),
        pytest.param(385, [0, 43, 86, 129], id="four"),
        pytest.param(512, [0, 85, 170, 256], id="published"),
    ],
)
def test_starts(length: int, starts: list[int]):
    assert tile_starts(length, 256) == starts


@pytest.mark.parametrize(
    "count, expected", [(1, 33), (16, 48), (31, 62), (32, 32), (33, 33)], ids=str
)
def test_short_lists_are_repeated_whole(count: int, expected: int):
    pairs = [pair(16, 16, seed) for seed in range(count)]
    tiles = tiles_of_pairs(pairs, SampleSettings(tile_px=16), crops=0)
    assert len(tiles) == expected == plain.repeated(count)
    for place, tile in enumerate(tiles):
        np.testing.assert_array_equal(tile.image, pairs[place % count][0])


def test_tiles_are_windows_row_by_row():
    image, labels = pair(47, 31)
    tiles = tiles_of_pairs([(image, labels)], SampleSettings(tile_px=29, smallest_set=0), crops=0)
    places = [(y, x) for y in plain.tile_starts(47, 29) for x in plain.tile_starts(31, 29)]
    assert len(tiles) == len(places) == 4 * 3
    for tile, (y, x) in zip(tiles, places, strict=True):
        np.testing.assert_array_equal(tile.image, image[y : y + 29, x : x + 29])
        window = labels[y : y + 29, x : x + 29]
        assert tile.labels.dtype == np.int32
        numbers: dict[int, int] = {0: 0}
        for label in sorted(set(window.ravel().tolist()) - {0}):
            numbers[label] = len(numbers)
        np.testing.assert_array_equal(tile.labels, np.vectorize(numbers.get)(window))


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (83, 83)])
@pytest.mark.parametrize("crops", [0, 1, 2])
def test_windows_are_what_inference_looks_at(size: tuple[int, int], crops: int):
    """Cut as inference cuts, and made square to the right and below, where nothing is known."""
    image, labels = pair(*size)
    settings = SampleSettings(windows="crops", tile_px=29, smallest_set=0)
    tiles = tiles_of_pairs([(image, labels)], settings, crops)
    boxes, _ = generate_crop_boxes(size, crops, 512 / 1500)
    assert len(tiles) == len(boxes)
    for tile, (x0, y0, x1, y1) in zip(tiles, boxes, strict=True):
        height, width = y1 - y0, x1 - x0
        side = max(height, width)
        assert tile.image.shape == (side, side, 3)
        np.testing.assert_array_equal(tile.image[:height, :width], image[y0:y1, x0:x1])
        beyond = np.ones((side, side), bool)
        beyond[:height, :width] = False
        assert (tile.image[beyond] == (124, 116, 104)).all()
        np.testing.assert_array_equal(tile.labels == -1, beyond)
        np.testing.assert_array_equal(tile.labels[:height, :width] > 0, labels[y0:y1, x0:x1] > 0)


def test_what_is_not_known_stays_so():
    labels = np.int32([[-1, -1, 0, 9], [7, 7, 0, 9]])
    expected = [[-1, -1, 0, 2], [1, 1, 0, 2]]
    np.testing.assert_array_equal(number_cells(labels), expected)
    np.testing.assert_array_equal(number_cells(labels[:, :2]), [[-1, -1], [1, 1]])
    np.testing.assert_array_equal(number_cells(labels[:, 3:]), [[1], [1]])


def test_a_window_full_of_cells_has_no_background():
    labels = np.full((16, 16), 70_001, np.int32)
    labels[:, 7:] = 5
    image = np.zeros((16, 16, 3), np.uint8)
    (tile,) = tiles_of_pairs([(image, labels)], SampleSettings(tile_px=16, smallest_set=0), crops=0)
    assert set(tile.labels.ravel().tolist()) == {1, 2}
    assert tile.labels[0, 0] == 2


@pytest.mark.parametrize(
    "height, width, larger",
    [
        pytest.param(23, 37, (64, 103), id="wide"),
        pytest.param(101, 13, (497, 64), id="tall"),
        pytest.param(63, 64, (64, 65), id="hardly-short"),
    ],
)
def test_small_images_grow_to_a_tile(height: int, width: int, larger: tuple[int, int]):
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :] = np.linspace(0, 255, width)[:, None]
    labels = np.zeros((height, width), np.int32)
    labels[:, width // 2 :] = 9
    tiles = tiles_of_pairs([(image, labels)], SampleSettings(tile_px=64, smallest_set=0), crops=0)
    rows, columns = (plain.tile_starts(side, 64) for side in larger)
    assert len(tiles) == len(rows) * len(columns)
    for place, tile in enumerate(tiles):
        assert (tile.image.shape, tile.labels.shape) == ((64, 64, 3), (64, 64))
        left = columns[place % len(columns)]
        # Nearest with pixels' centres: column c of the grown image is floor((c + ½)·w / W).
        x = ((left + np.arange(64) + 0.5) * width / larger[1]).astype(int)
        expected = np.where(x >= width // 2, 1, 0)
        np.testing.assert_array_equal(tile.labels[5], expected)
        exact = np.clip((left + np.arange(64) + 0.5) * width / larger[1] - 0.5, 0, width - 1)
        grey = np.interp(exact, np.arange(width), image[0, :, 0])
        np.testing.assert_allclose(tile.image[5, :, 1], grey, atol=1)


def test_pairs_are_left_as_they_are():
    image, labels = pair(64, 71)
    before = image.copy(), labels.copy()
    tiles_of_pairs([(image, labels)], SampleSettings(tile_px=64), crops=0)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])


GREY = np.zeros((7, 5), np.uint8)
RGB = np.zeros((7, 5, 3), np.uint8)
LABELS = np.zeros((7, 5), np.int32)


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([], "no annotated image to train on; expected one pair"),
        ([(GREY, LABELS)], "training pair 1: not an RGB image; got uint8 [7, 5]"),
        ([(RGB.astype(float), LABELS)], "not an RGB image; got float64 [7, 5, 3]"),
        (
            [(RGB, LABELS), (RGB, LABELS.T)],
            "training pair 2: labels do not match the image; got int32 [5, 7]; "
            "expected int32 [7, 5]",
        ),
        ([(RGB, LABELS.astype(np.int64))], "got int64 [7, 5]; expected int32 [7, 5]"),
        ([(RGB[:0], LABELS[:0])], "training pair 1: an image without pixels; got [0, 5, 3]"),
        ([(RGB, LABELS - 2)], "training pair 1: a label below -1; got -2"),
    ],
)
def test_what_is_refused_is_named(pairs: Any, message: str):
    with pytest.raises(InputError) as caught:
        tiles_of_pairs(pairs, SampleSettings(), crops=0)
    assert message in str(caught.value)


def test_tiles_without_cells_are_kept():
    tiles = tiles_of_pairs([(RGB, LABELS)], SampleSettings(tile_px=5, smallest_set=0), crops=0)
    assert all(isinstance(tile, Tile) for tile in tiles)
    assert len(tiles) == 3
    assert not any(tile.labels.any() for tile in tiles)

"""Samples: functions of their key alone, sound, and thinned out after augmentation by the rules."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import training_data as plain

from cellseg1_rt.train.lora_augment import apply_augmentation, draw_augmentation
from cellseg1_rt.train.lora_points import draw_points
from cellseg1_rt.train.lora_samples import LoraSample, SampleSettings, Tile, draw_lora_sample

SMALL = SampleSettings(image_size=144, tile_px=101, background_px=150)
STILL = SampleSettings(
    image_size=96, tile_px=96, jitter_share=0, flip_share=0, crop_share=0, affine_share=0
)


def tile(side: int, count: int, seed: int, radius: tuple[float, float] = (5, 14)) -> Tile:
    rng = np.random.default_rng(seed)
    labels = plain.random_cells(rng, side, side, count, radius)
    return Tile(rng.integers(0, 256, (side, side, 3), np.uint8), labels)


def cells_at(side: int, *boxes: tuple[int, int, int, int]) -> Tile:
    """Cells in boxes (top, bottom, left, right), on black."""
    labels = np.zeros((side, side), np.int32)
    for label, (top, bottom, left, right) in enumerate(boxes, start=1):
        labels[top:bottom, left:right] = label
    return Tile(np.zeros((side, side, 3), np.uint8), labels)


TILES = [tile(101, 12, 1), tile(101, 45, 2), tile(101, 0, 3), tile(101, 70, 5, (8, 20))]


def equal(one: LoraSample | None, other: LoraSample | None) -> bool:
    if one is None or other is None:
        return one is other
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("image", "labels", "points_xy", "cell")
    )


@pytest.mark.parametrize("number", range(len(TILES)))
def test_a_sample_is_a_function_of_its_key(number: int):
    first = [draw_lora_sample(TILES[number], (0, key), SMALL) for key in range(6)]
    torch.manual_seed(3)
    random.seed(3)
    states = torch.random.get_rng_state(), np.random.get_state()[1], random.getstate()
    again = [draw_lora_sample(TILES[number], (0, key), SMALL) for key in reversed(range(6))]
    assert all(equal(one, other) for one, other in zip(first, reversed(again), strict=True))
    assert torch.equal(torch.random.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    others = [draw_lora_sample(TILES[number], (1, key), SMALL) for key in range(6)]
    assert not any(equal(one, other) for one, other in zip(first, others, strict=True) if one)


@pytest.mark.parametrize("number", range(len(TILES)))
def test_samples_are_sound(number: int):
    before = TILES[number].image.copy(), TILES[number].labels.copy()
    found = 0
    for key in range(16):
        sample = draw_lora_sample(TILES[number], (key,), SMALL)
        if sample is None:
            continue
        found += 1
        assert (sample.image.dtype, sample.image.shape) == (np.uint8, (144, 144, 3))
        assert (sample.labels.dtype, sample.labels.shape) == (np.int32, (144, 144))
        assert (sample.points_xy.dtype, sample.cell.dtype) == (np.float32, np.int32)
        assert sample.points_xy.shape == (len(sample.cell), 2)
        assert len(sample.cell) > 0
        x, y = sample.points_xy.astype(int).T
        np.testing.assert_array_equal(sample.points_xy, np.stack([x, y], axis=1))
        np.testing.assert_array_equal(sample.labels[y, x], sample.cell)
        assert set(sample.cell[sample.cell > 0].tolist()) <= plain.usable_labels(sample.labels)
        positives = np.count_nonzero(sample.cell)
        assert (sample.cell[:positives] > 0).all()
    assert found > 12
    np.testing.assert_array_equal(TILES[number].image, before[0])
    np.testing.assert_array_equal(TILES[number].labels, before[1])


def kept_by_the_plain_rules(
    labels: NDArray[np.int32],
    points: NDArray[np.int64],
    inside: NDArray[np.bool_],
    positives: int,
) -> list[tuple[int, int, int]]:
    usable = plain.usable_labels(labels)
    kept = []
    for place, (x, y) in enumerate(points.tolist()):
        if not inside[place]:
            continue
        label = int(labels[y, x])
        if (place < positives and label in usable) or (place >= positives and label == 0):
            kept.append((x, y, label))
    return kept


@pytest.mark.parametrize("number", range(len(TILES)))
def test_points_are_thinned_out_by_the_plain_rules(number: int):
    dropped = 0
    for key in range(16):
        rng = np.random.default_rng((9, key))
        points, positives = draw_points(rng, TILES[number].labels, SMALL)
        augmentation = draw_augmentation(rng, (101, 101), SMALL)
        moved = apply_augmentation(
            TILES[number].image, TILES[number].labels, points, augmentation, 144
        )
        kept = kept_by_the_plain_rules(moved.labels, moved.points, moved.inside, positives)
        sample = draw_lora_sample(TILES[number], (9, key), SMALL)
        dropped += len(points) - len(kept)
        assert (sample is None) == (not kept)
        if sample is not None:
            np.testing.assert_array_equal(sample.image, moved.image)
            np.testing.assert_array_equal(sample.labels, moved.labels)
            rows = np.column_stack([sample.points_xy.astype(int), sample.cell]).tolist()
            assert [tuple(row) for row in rows] == kept
    assert dropped > 0


@pytest.mark.parametrize(
    "box, scale, kept",
    [
        pytest.param((40, 60, 40, 60), 1.0, True, id="400-px"),
        pytest.param((40, 60, 40, 60), 0.5, False, id="100-px-after-scaling"),
        pytest.param((40, 60, 39, 61), 0.5, True, id="110-px-after-scaling"),
        pytest.param((5, 26, 40, 60), 1.5, False, id="wholly-in-the-band-after-scaling"),
        pytest.param((5, 30, 40, 60), 1.5, True, id="reaches-beyond-the-band-after-scaling"),
    ],
)
def test_cells_are_judged_again_after_augmentation(
    box: tuple[int, int, int, int], scale: float, kept: bool
):
    settings = SampleSettings(
        image_size=96,
        tile_px=96,
        jitter_share=0,
        flip_share=0,
        crop_share=0,
        affine_share=1,
        shift=0,
        rotate_deg=0,
        scale=(scale, scale),
        core_share=1.0,
    )
    found = [draw_lora_sample(cells_at(96, box), (key,), settings) for key in range(30)]
    positives = [np.count_nonzero(sample.cell) for sample in found if sample is not None]
    assert (max(positives) == 1) == kept


@pytest.mark.parametrize("scale, kept", [(1.0, True), (1.5, False)], ids=str)
def test_a_point_that_left_the_image_is_dropped(scale: float, kept: bool):
    settings = SampleSettings(
        image_size=96,
        tile_px=96,
        jitter_share=0,
        flip_share=0,
        crop_share=0,
        affine_share=1,
        shift=0,
        rotate_deg=0,
        scale=(scale, scale),
        core_share=0.01,
    )
    # Deepest in the first cell are its left corners, far from the second one, which lies in it.
    nicked = cells_at(96, (20, 60, 2, 50), (39, 41, 40, 50))
    for key in range(5):
        sample = draw_lora_sample(nicked, (key,), settings)
        found = sample is not None and bool((sample.cell == 1).any())
        assert found == kept


def test_a_background_point_that_came_to_lie_on_a_cell_is_dropped():
    """Stripes a pixel wide: shrunk to half, every other one is seen."""
    settings = SampleSettings(
        image_size=96,
        tile_px=96,
        jitter_share=0,
        flip_share=0,
        crop_share=0,
        affine_share=1,
        shift=0.01,
        rotate_deg=3,
        scale=(0.5, 0.5),
        core_share=1.0,
        background_per_cell=30,
        background_px=1,
    )
    labels = np.zeros((96, 96), np.int32)
    labels[:, ::2] = 1
    striped = Tile(np.zeros((96, 96, 3), np.uint8), labels)
    for key in range(5):
        sample = draw_lora_sample(striped, (key,), settings)
        assert sample is not None
        assert np.count_nonzero(sample.cell) <= 1  # one cell, one point
        assert 0 < np.count_nonzero(sample.cell == 0) < 30


def test_nothing_random_left_gives_the_tile_itself():
    still = tile(96, 9, 8)
    sample = draw_lora_sample(still, (0,), STILL)
    assert sample is not None
    np.testing.assert_array_equal(sample.image, still.image)
    np.testing.assert_array_equal(sample.labels, still.labels)
    points, _ = draw_points(np.random.default_rng((0,)), still.labels, STILL)
    np.testing.assert_array_equal(sample.points_xy, points)


def test_no_point_left_gives_no_sample():
    """Nothing but cells of 64 px: none may have a point, and there is no background."""
    y, x = np.mgrid[:96, :96]
    labels = (y // 8 * 12 + x // 8 + 1).astype(np.int32)
    crowded = Tile(np.zeros((96, 96, 3), np.uint8), labels)
    assert all(draw_lora_sample(crowded, (key,), STILL) is None for key in range(5))


def test_a_tile_without_cells_gets_one_point():
    empty = cells_at(256)
    settings = SampleSettings(crop_share=0, affine_share=0)
    for key in range(5):
        sample = draw_lora_sample(empty, (key,), settings)
        assert sample is not None
        assert sample.cell.tolist() == [0]
        assert sample.image.shape == (512, 512, 3)


def test_published_size():
    sample = draw_lora_sample(tile(256, 25, 11, (7, 20)), (0, 3, 1), SampleSettings())
    assert sample is not None
    assert sample.image.shape == (512, 512, 3)
    assert 1 <= np.count_nonzero(sample.cell) <= 25


def test_no_point_lies_where_nothing_is_known():
    tile = cells_at(96, (10, 40, 10, 40), (50, 80, 20, 50))
    tile.labels[:, 48:] = -1
    settings = SampleSettings(image_size=96, tile_px=96, background_px=50)
    seen = set()
    for key in range(60):
        sample = draw_lora_sample(tile, (key,), settings)
        if sample is not None:
            x, y = sample.points_xy.astype(int).T
            np.testing.assert_array_equal(sample.labels[y, x], sample.cell)
            seen |= set(sample.cell.tolist())
    assert seen == {0, 1, 2}

"""Augmentation: published chances and ranges; image, labels and points move as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import training_data as plain

from cellseg1_rt.train.lora_augment import (
    Affine,
    Augmentation,
    apply_augmentation,
    draw_augmentation,
)
from cellseg1_rt.train.lora_samples import SampleSettings

NONE = Augmentation(0.0, 0.0, False, False, None, None)
FLIPS = [(False, False), (True, False), (False, True), (True, True)]


def changed(**values: object) -> Augmentation:
    return replace(NONE, **values)  # type: ignore[arg-type]


STEPS = [
    pytest.param(NONE, id="resize-only"),
    pytest.param(changed(flip_x=True), id="flip-x"),
    pytest.param(changed(flip_y=True), id="flip-y"),
    pytest.param(changed(crop=(2, 5, 11, 7)), id="crop"),
    pytest.param(changed(affine=Affine((0.06, -0.04), 1.0, 0.0)), id="shift"),
    pytest.param(changed(affine=Affine((0.0, 0.0), 1.5, 0.0)), id="scale"),
    pytest.param(changed(affine=Affine((0.0, 0.0), 1.45, 37.0)), id="turn"),
    pytest.param(changed(affine=Affine((-0.03, 0.06), 1.42, -45.0)), id="affine"),
    pytest.param(
        Augmentation(0.1, -0.1, True, True, (3, 1, 9, 13), Affine((0.01, 0.02), 0.6, 23.0)),
        id="all",
    ),
]


def every_pixel_a_cell(height: int, width: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    y, x = np.mgrid[:height, :width]
    labels = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
    return labels, np.stack([x.ravel(), y.ravel()], axis=1)


@pytest.mark.parametrize("augmentation", STEPS)
@pytest.mark.parametrize("height, width", [(17, 23), (29, 19)], ids=["wide", "tall"])
def test_each_point_stays_on_its_pixel(augmentation: Augmentation, height: int, width: int):
    """Every pixel is a cell of its own: half a pixel beside is another one.

    The result is so much larger that no pixel falls between the samples of the nearest one.
    """
    labels, points = every_pixel_a_cell(height, width)
    image = np.zeros((height, width, 3), np.uint8)
    moved = apply_augmentation(image, labels, points, augmentation, 208)
    assert moved.inside.sum() > 30
    x, y = moved.points[moved.inside].T
    np.testing.assert_array_equal(moved.labels[y, x], labels.ravel()[moved.inside])


@pytest.mark.parametrize("augmentation", STEPS)
def test_points_move_as_the_plain_formulas_say(augmentation: Augmentation):
    height, width = 23, 31
    labels, points = every_pixel_a_cell(height, width)
    image = np.zeros((height, width, 3), np.uint8)
    moved = apply_augmentation(image, labels, points, augmentation, 112)
    affine = augmentation.affine
    for (x, y), found in zip(points.tolist(), moved.points.tolist(), strict=True):
        expected = plain.moved_point(
            x,
            y,
            (height, width),
            flip_x=augmentation.flip_x,
            flip_y=augmentation.flip_y,
            crop=augmentation.crop,
            affine=affine and (*affine.shift_xy, affine.scale, affine.angle_deg),
            side=112,
        )
        np.testing.assert_allclose(np.array(found) + 0.5, expected, atol=0.5 + 1e-4)


@pytest.mark.parametrize("flip_x, flip_y", FLIPS)
def test_flips(flip_x: bool, flip_y: bool):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (48, 48, 3), np.uint8)
    labels, points = every_pixel_a_cell(48, 48)
    moved = apply_augmentation(image, labels, points, changed(flip_x=flip_x, flip_y=flip_y), 48)
    step = (-1 if flip_y else 1, -1 if flip_x else 1)
    np.testing.assert_array_equal(moved.image, image[:: step[0], :: step[1]])
    np.testing.assert_array_equal(moved.labels, labels[:: step[0], :: step[1]])
    x, y = moved.points.T
    np.testing.assert_array_equal(moved.labels[y, x], labels.ravel())
    assert moved.inside.all()


@pytest.mark.parametrize(
    "affine",
    [
        pytest.param(Affine((0.0625, -0.0625), 1.0, 0.0), id="shift"),
        pytest.param(Affine((0.0, 0.0), 0.53, 0.0), id="smaller"),
        pytest.param(Affine((0.0, 0.0), 1.47, 0.0), id="larger"),
        pytest.param(Affine((0.01, 0.03), 0.83, 31.0), id="turned"),
        pytest.param(Affine((-0.02, 0.05), 1.27, -45.0), id="turned-back"),
    ],
)
def test_affine_equals_the_plain_one(affine: Affine):
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (80, 80, 3), np.uint8)
    labels = plain.random_cells(rng, 80, 80, 20, (4, 14))
    moved = apply_augmentation(
        image, labels, np.zeros((0, 2), np.int64), changed(affine=affine), 80
    )
    values = (*affine.shift_xy, affine.scale, affine.angle_deg)
    pixels, nearest = plain.warped(image, labels, values)
    np.testing.assert_allclose(moved.image, pixels, atol=0.51)
    assert (moved.labels != nearest).mean() < 1e-3  # float32 near halves
    assert (moved.labels.dtype, moved.image.dtype) == (np.int32, np.uint8)


@pytest.mark.parametrize("crop", [(0, 0, 53, 71), (7, 11, 29, 41), (40, 3, 13, 68)], ids=str)
def test_crop_is_resized_with_centres_of_pixels(crop: tuple[int, int, int, int]):
    top, left, height, width = crop
    labels, points = every_pixel_a_cell(53, 71)
    image = np.zeros((53, 71, 3), np.uint8)
    image[:, :, 0] = np.arange(53)[:, None] * 4
    image[:, :, 1] = np.arange(71) * 3
    moved = apply_augmentation(image, labels, points, changed(crop=crop), 96)
    rows = top + ((np.arange(96) + 0.5) * height / 96).astype(int)
    columns = left + ((np.arange(96) + 0.5) * width / 96).astype(int)
    np.testing.assert_array_equal(moved.labels, labels[np.ix_(rows, columns)])
    y = np.clip((np.arange(96) + 0.5) * height / 96 - 0.5, 0, height - 1) + top
    x = np.clip((np.arange(96) + 0.5) * width / 96 - 0.5, 0, width - 1) + left
    np.testing.assert_allclose(
        moved.image[:, :, 0], np.broadcast_to(y[:, None] * 4, (96, 96)), 0, 1
    )
    np.testing.assert_allclose(moved.image[:, :, 1], np.broadcast_to(x * 3, (96, 96)), 0, 1)
    expected = [top <= y < top + height and left <= x < left + width for x, y in points.tolist()]
    assert moved.inside.tolist() == expected


def test_what_is_cut_away_does_not_come_back():
    """Shrunk to half, the frame shows where it lay; there is nothing there."""
    points = np.array([[3, 3], [32, 32]])
    augmentation = changed(crop=(16, 16, 32, 32), affine=Affine((0.0, 0.0), 0.5, 0.0))
    moved = apply_augmentation(
        np.full((64, 64, 3), 9, np.uint8), np.zeros((64, 64), np.int32), points, augmentation, 64
    )
    assert ((moved.points >= 0) & (moved.points < 64)).all()
    assert moved.inside.tolist() == [False, True]
    assert not moved.image[moved.points[0, 1], moved.points[0, 0]].any()


def test_points_moved_out_are_outside():
    points = np.array([[0, 31], [63, 31], [31, 0], [31, 63], [31, 31]])
    augmentation = changed(affine=Affine((0.0, 0.0), 1.5, 0.0))
    moved = apply_augmentation(
        np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.int32), points, augmentation, 64
    )
    assert moved.inside.tolist() == [False] * 4 + [True]


@pytest.mark.parametrize("brightness", [-0.1, 0.0, 0.037, 0.1])
@pytest.mark.parametrize("contrast", [-0.1, 0.0, 0.071, 0.1])
def test_brightness_and_contrast(brightness: float, contrast: float):
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, :, 1] = np.arange(256).reshape(16, 16)
    augmentation = changed(brightness=brightness, contrast=contrast)
    moved = apply_augmentation(
        image, np.zeros((16, 16), np.int32), np.zeros((0, 2), np.int64), augmentation, 16
    )
    expected = [plain.jittered(value, brightness, contrast) for value in range(256)]
    assert moved.image[:, :, 1].ravel().tolist() == expected
    assert (moved.image[:, :, 0] == expected[0]).all()


def test_contrast_is_not_about_the_mean():
    image = np.full((16, 16, 3), 100, np.uint8)
    moved = apply_augmentation(
        image,
        np.zeros((16, 16), np.int32),
        np.zeros((0, 2), np.int64),
        changed(contrast=0.1),
        16,
    )
    assert (moved.image == 110).all()


def test_arguments_stay_and_share_nothing():
    rng = np.random.default_rng(4)
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    labels, points = every_pixel_a_cell(32, 32)
    before = image.copy(), labels.copy(), points.copy()
    for augmentation in (NONE, STEPS[-1].values[0]):
        moved = apply_augmentation(image, labels, points, augmentation, 32)
        moved.image[:], moved.labels[:], moved.points[:] = 7, 7, 7
    for now, then in zip((image, labels, points), before, strict=True):
        np.testing.assert_array_equal(now, then)


def drawn(count: int, settings: SampleSettings = SampleSettings()) -> list[Augmentation]:  # noqa: B008
    rng = np.random.default_rng(5)
    return [draw_augmentation(rng, (256, 256), settings) for _ in range(count)]


def spans(values: list[float], low: float, high: float) -> bool:
    """Whether values lie in low..high, reach its ends and have its mean, as uniform ones do."""
    room = high - low
    return (
        abs(min(values) - low) < 0.03 * room
        and abs(max(values) - high) < 0.03 * room
        and abs(np.mean(values) - (low + high) / 2) < 0.03 * room
        and abs(np.std(values) - room / 12**0.5) < 0.03 * room
    )


def test_published_chances_and_ranges():
    augmentations = drawn(4000)
    jitters = [(a.brightness, a.contrast) for a in augmentations if a.brightness or a.contrast]
    assert abs(len(jitters) / 4000 - 0.5) < 0.03
    assert all(spans([jitter[i] for jitter in jitters], -0.1, 0.1) for i in (0, 1))
    assert abs(np.corrcoef(np.array(jitters).T)[0, 1]) < 0.1
    for flips, share in zip(FLIPS, (0.25, 0.25, 0.25, 0.25), strict=True):
        found = sum((a.flip_x, a.flip_y) == flips for a in augmentations) / 4000
        assert abs(found - share) < 0.03
    affines = [a.affine for a in augmentations if a.affine]
    assert abs(len(affines) / 4000 - 0.8) < 0.03
    assert all(spans([a.shift_xy[i] for a in affines], -0.0625, 0.0625) for i in (0, 1))
    assert spans([a.scale for a in affines], 0.5, 1.5)
    assert spans([a.angle_deg for a in affines], -45, 45)


def test_published_crops():
    crops = np.array([a.crop for a in drawn(4000) if a.crop])
    assert abs(len(crops) / 4000 - 0.5) < 0.03
    top, left, height, width = crops.T
    assert min(top.min(), left.min()) == 0
    assert max((top + height).max(), (left + width).max()) == 256
    area = height * width / 256**2
    assert 0.29 < area.min() < 0.33
    assert 0.95 < area.max() <= 1
    ratio = width / height
    assert 0.74 < ratio.min() < 0.77
    assert 1.30 < ratio.max() < 1.35
    small = area < 0.55  # all of these fit, whatever their shape: uniform in area and log ratio
    assert spans(area[small].tolist(), 0.3, 0.55)
    assert spans(np.log(ratio[small]).tolist(), np.log(0.75), np.log(1.33))
    slack = top[height < 200] / (256 - height[height < 200])
    assert spans(slack.tolist(), 0, 1)


@pytest.mark.parametrize("height, width", [(31, 257), (211, 29)], ids=["wide", "tall"])
def test_crops_lie_in_tiles_of_any_shape(height: int, width: int):
    rng = np.random.default_rng(6)
    settings = SampleSettings(crop_share=1.0)
    crops = [draw_augmentation(rng, (height, width), settings).crop for _ in range(300)]
    assert (0, 0, height, width) in crops  # where none of ten fits
    for crop in crops:
        assert crop is not None
        top, left, crop_height, crop_width = crop
        assert top >= 0 <= left
        assert 0 < crop_height <= height - top
        assert 0 < crop_width <= width - left


def test_all_can_be_switched_off():
    settings = SampleSettings(jitter_share=0, flip_share=0, crop_share=0, affine_share=0)
    assert set(drawn(50, settings)) == {NONE}

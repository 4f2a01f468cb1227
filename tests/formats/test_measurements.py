from __future__ import annotations

import math

import numpy as np
import pytest
from label_scenes import EMPTY, LARGE, SMALL, many_cells

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.measurements import measure_cells, pixels_under_labels

SCENES = SMALL | LARGE
PIXEL_SIZES = [(1.0, 1.0), (0.5, 0.5), (0.25, 0.75), (3.0, 0.125)]


def plain_perimeter(mask, y_um, x_um):
    """Half the sum over four directions of angle · spacing of lines · crossings, pixel by pixel."""
    padded = np.pad(mask, 1)
    diagonal, cross = math.atan2(y_um, x_um), x_um * y_um / math.hypot(x_um, y_um)
    lines = [  # step from pixel to pixel, angle it stands for, distance between its lines
        ((0, 1), diagonal, y_um),
        ((1, 0), math.pi / 2 - diagonal, x_um),
        ((1, 1), math.pi / 4, cross),
        ((1, -1), math.pi / 4, cross),
    ]
    total = 0.0
    for (down, right), angle, spacing in lines:
        crossings = 0
        for row in range(padded.shape[0]):
            for column in range(padded.shape[1]):
                r, c = row + down, column + right
                if 0 <= r < padded.shape[0] and 0 <= c < padded.shape[1]:
                    crossings += padded[row, column] != padded[r, c]
        total += angle * spacing * crossings / 2
    return total


def plain_eccentricity(mask, y_um, x_um):
    """From the covariance of points strewn evenly over pixels, by its eigenvalues."""
    n = 16
    inside = (np.arange(n) + 0.5) / n
    rows, columns = np.nonzero(mask)
    y = (rows[:, None, None] + inside[:, None] + 0 * inside).ravel() * y_um
    x = (columns[:, None, None] + 0 * inside[:, None] + inside).ravel() * x_um
    low, high = np.linalg.eigvalsh(np.cov(y, x, bias=True))
    return math.sqrt(1 - low / high)


@pytest.mark.parametrize("pixel_size", PIXEL_SIZES, ids=str)
@pytest.mark.parametrize("labels", SMALL.values(), ids=SMALL)
def test_shapes_equal_the_plain_reference(labels, pixel_size):
    found = measure_cells(labels, labels, pixel_size)
    for i in range(labels.max()):
        mask = labels == i + 1
        np.testing.assert_allclose(found.perimeter_px[i], plain_perimeter(mask, 1, 1))
        np.testing.assert_allclose(found.perimeter_um[i], plain_perimeter(mask, *pixel_size))
        # The points of the reference are a little closer together than the area, by 1 in 16².
        expected = plain_eccentricity(mask, 1, 1)
        np.testing.assert_allclose(found.eccentricity_px[i], expected, atol=0.004)
        expected = plain_eccentricity(mask, *pixel_size)
        np.testing.assert_allclose(found.eccentricity_um[i], expected, atol=0.004)


@pytest.mark.parametrize("labels", SCENES.values(), ids=SCENES)
def test_shapes_equal_those_of_scikit_image(labels):
    measure = pytest.importorskip("skimage.measure")
    found = measure_cells(labels, labels, None)
    assert found.perimeter_um is None
    assert found.eccentricity_um is None
    for i in range(labels.max()):
        mask = np.pad(labels == i + 1, 1).astype(np.uint8)
        expected = measure.perimeter_crofton(mask, directions=4)
        np.testing.assert_allclose(found.perimeter_px[i], expected)
        # It takes pixels for points: the extent of a pixel is what is added here.
        tensor = measure.inertia_tensor(mask) + np.eye(2) / 12
        low, high = np.linalg.eigvalsh(tensor)
        expected = math.sqrt(max(0, 1 - low / high))
        np.testing.assert_allclose(found.eccentricity_px[i], expected, atol=1e-7)


def disk(radius):
    rows, columns = np.indices((2 * radius + 5, 2 * radius + 7)) - radius - 2.3
    return (np.hypot(rows, columns) < radius).astype(np.uint8)


def test_a_disk_has_a_circles_perimeter_and_is_round():
    found = measure_cells(disk(37), disk(37))
    np.testing.assert_allclose(found.perimeter_px, [2 * math.pi * 37], rtol=0.01)
    assert found.eccentricity_px[0] < 0.1


def test_pixels_that_are_not_square():
    # Every second row of a disk: half as many pixels, twice as high.
    labels = disk(41)[::2]
    found = measure_cells(labels, labels, (0.5, 0.25))
    np.testing.assert_allclose(found.perimeter_um, [2 * math.pi * 41 * 0.25], rtol=0.02)
    assert found.eccentricity_um[0] < 0.1
    assert found.eccentricity_px[0] > 0.8


def test_rectangles_have_their_own_eccentricity():
    labels = np.zeros((23, 29), np.uint8)
    labels[3:8, 5:24] = 1
    found = measure_cells(labels, labels, (0.5, 0.25))
    np.testing.assert_allclose(found.eccentricity_px, [math.sqrt(1 - (5 / 19) ** 2)])
    sides = 5 * 0.5, 19 * 0.25
    np.testing.assert_allclose(found.eccentricity_um, [math.sqrt(1 - (sides[0] / sides[1]) ** 2)])


DTYPES = [np.bool_, np.uint8, np.int16, np.uint16, np.uint32, np.float16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)], ids=str)
def test_brightness_equals_the_plain_reference(dtype, channels):
    labels = LARGE["blobs"]
    values = np.random.default_rng(17).random((*labels.shape, *channels)) * 30_000 - 99
    pixels = values > 9_000 if dtype is np.bool_ else np.abs(values).astype(dtype)
    found = measure_cells(labels, pixels)
    planes = pixels.reshape(*labels.shape, -1)
    assert found.mean.shape == (labels.max(), planes.shape[2])
    assert found.lowest.dtype == (np.uint8 if dtype is np.bool_ else dtype)
    for i in range(labels.max()):
        own = planes[labels == i + 1].astype(np.float64)
        np.testing.assert_array_equal(found.lowest[i], own.min(axis=0))
        np.testing.assert_array_equal(found.highest[i], own.max(axis=0))
        np.testing.assert_allclose(found.mean[i], own.mean(axis=0))
        np.testing.assert_allclose(found.deviation[i], own.std(axis=0), atol=1e-9)


def test_a_bright_plane_keeps_its_small_deviation():
    labels = np.ones((31, 37), np.uint8)
    pixels = 4e9 + np.arange(31 * 37).reshape(31, 37) % 2
    assert measure_cells(labels, pixels).deviation[0, 0] == pytest.approx(0.5, rel=1e-5)


def test_no_cells_and_many():
    found = measure_cells(EMPTY, np.zeros((*EMPTY.shape, 3), np.uint16), (0.5, 0.25))
    assert len(found.perimeter_px) == len(found.eccentricity_um) == 0
    assert found.mean.shape == found.lowest.shape == (0, 3)
    labels = many_cells()
    found = measure_cells(labels, labels)
    np.testing.assert_array_equal(found.mean[:, 0], np.arange(1, labels.max() + 1))


@pytest.mark.parametrize("shape", [(61, 83), (31, 37), (97, 101)], ids=str)
def test_pixels_under_labels_are_the_nearest(shape):
    pixels = np.random.default_rng(3).random((61, 83, 2))
    found = pixels_under_labels(pixels, shape)
    assert found.shape == (*shape, 2)
    for row, column in np.ndindex(shape):
        y, x = (row + 0.5) * 61 / shape[0], (column + 0.5) * 83 / shape[1]
        np.testing.assert_array_equal(found[row, column], pixels[int(y), int(x)])


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"got labels \(13, 17\) for pixels \(17, 13\)"):
        measure_cells(EMPTY, EMPTY.T)
    with pytest.raises(InputError, match=r"no pixel carries; got no label 2 below 3; expected"):
        measure_cells(np.array([[1, 3]]), np.zeros((1, 2)))

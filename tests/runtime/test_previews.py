"""Small pictures of large planes, against ones made of the whole plane at once."""

from __future__ import annotations

import numpy as np
import pytest

from cellseg1_rt.formats.label_rows import LabelFile
from cellseg1_rt.formats.planes import ArrayPlane
from cellseg1_rt.runtime import previews
from cellseg1_rt.runtime.normalise import rgb_from_pixels, stats_from_pixels


def plain_means(rgb: np.ndarray, n: int) -> np.ndarray:
    """Means of n × n pixels, the last row and column repeated where they do not fit."""
    height, width = rgb.shape[:2]
    result = np.zeros((-(-height // n), -(-width // n), 3))
    for y in range(result.shape[0]):
        for x in range(result.shape[1]):
            rows = np.arange(y * n, y * n + n).clip(max=height - 1)
            columns = np.arange(x * n, x * n + n).clip(max=width - 1)
            result[y, x] = rgb[np.ix_(rows, columns)].mean(axis=(0, 1))
    return result


@pytest.mark.parametrize(
    ("shape", "longest", "n"),
    [((53, 89), 100, 1), ((53, 89), 89, 1), ((53, 89), 45, 2), ((101, 37), 13, 8), ((7, 9), 1, 9)],
)
def test_every_nth_label_and_the_mean_of_its_pixels(shape, longest, n, tmp_path, monkeypatch):
    monkeypatch.setattr(previews, "_BLOCK_PX", 31)
    rng = np.random.default_rng(2)
    pixels = rng.integers(7, 4000, shape).astype(np.uint16)
    labels = rng.integers(0, 90_000, shape).astype(np.uint32)
    held = LabelFile(shape[1], tmp_path)
    held.add(labels)
    stats = stats_from_pixels(pixels)
    rgb, small = previews.preview_of_plane(ArrayPlane(pixels), stats, held, longest)
    held.close()
    np.testing.assert_array_equal(small, labels[::n, ::n])
    expected = plain_means(rgb_from_pixels(pixels), n)
    assert rgb.shape == expected.shape
    assert max(rgb.shape) <= max(longest, 3)
    np.testing.assert_allclose(rgb, expected, atol=0.51)

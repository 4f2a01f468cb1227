"""Synthetic scenes: what they must be whatever is drawn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cellseg1_rt.train.packed_scenes import pack_cells
from cellseg1_rt.train.scenes import Appearance, draw_scene

APPEARANCES: tuple[Appearance, ...] = ("fluorescence", "stain", "phase", "outline")
SIZES = [43, 64, 131, 256]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("appearance", [*APPEARANCES, None])
def test_is_a_picture_and_its_labels(appearance: Appearance | None, size: int):
    for seed in range(5):
        image, labels = draw_scene(np.random.default_rng((seed, size)), size, appearance)
        assert (image.dtype, image.shape) == (np.uint8, (size, size, 3))
        assert (labels.dtype, labels.shape) == (np.int32, (size, size))
        assert labels.min() >= 0
        assert labels.max() <= 800
        assert np.ptp(image) > 50, "nothing to see"


@pytest.mark.parametrize("appearance", [*APPEARANCES, None])
def test_a_seed_is_a_scene(appearance: Appearance | None):
    first, again, other = (
        draw_scene(np.random.default_rng(seed), 83, appearance) for seed in (3, 3, 5)
    )
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, three)


def test_only_the_generator_is_random():
    np.random.seed(7)
    first, _ = draw_scene(np.random.default_rng(11), 67)
    np.random.seed(13)
    second, _ = draw_scene(np.random.default_rng(11), 67)
    np.testing.assert_array_equal(first, second)


def diameters_of(labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Diameters of the circles that have the cells' areas."""
    areas = np.bincount(labels.ravel())[1:]
    return 2 * np.sqrt(areas[areas > 0] / np.pi)


@pytest.mark.parametrize("size, scenes", [(64, 40), (256, 40), (512, 10)])
def test_cells_are_of_8_to_150_px(size: int, scenes: int):
    """Give or take what spread, outlines, overlaps and the scene's edge change."""
    drawn = [draw_scene(np.random.default_rng((seed, 17)), size)[1] for seed in range(scenes)]
    found = [diameters for diameters in map(diameters_of, drawn) if len(diameters)]
    typical = [float(np.median(diameters)) for diameters in found]
    largest = min(150, 0.35 * size)
    assert len(typical) >= 0.9 * scenes
    # One small cell alone may be as small as its spread makes it; a median of several is not.
    of_several = [t for t, diameters in zip(typical, found, strict=True) if len(diameters) >= 3]
    assert len(of_several) >= scenes / 4
    assert min(of_several) > 0.75 * 8
    assert min(typical) < 1.75 * 8
    assert max(typical) > 0.45 * largest
    assert max(typical) < 1.25 * largest


def test_cells_touch():
    touching = 0
    for seed in range(20):
        _, labels = draw_scene(np.random.default_rng((seed, 23)), 128)
        left, right = labels[:, :-1], labels[:, 1:]
        touching += bool(((left > 0) & (right > 0) & (left != right)).any())
    assert touching >= 10


def mean_contrast(appearance: Appearance) -> float:
    """Mean over scenes of (cells - background) in grey levels, over the standard deviation."""
    contrasts = []
    for seed in range(20):
        image, labels = draw_scene(np.random.default_rng((seed, 29)), 96, appearance)
        grey, inside = image.mean(axis=2), labels > 0
        if inside.any() and not inside.all():
            contrasts.append((grey[inside].mean() - grey[~inside].mean()) / grey.std())
    return float(np.mean(contrasts))


@pytest.mark.parametrize(
    "appearance, sign",
    [("fluorescence", 1), ("stain", -1), ("phase", -1)],
    ids=["bright-on-dark", "dark-on-bright", "dark-with-halo"],
)
def test_cells_stand_out_the_right_way(appearance: Appearance, sign: int):
    assert sign * mean_contrast(appearance) > 0.5


def test_grey_and_coloured_scenes_both_occur():
    coloured = []
    for seed in range(40):
        image, _ = draw_scene(np.random.default_rng((seed, 31)), 48)
        coloured.append(bool(np.ptp(image.astype(int), axis=2).any()))
    assert 3 <= sum(coloured) <= 30


@pytest.mark.parametrize("size", [48, 97, 256])
def test_packed_cells_lie_side_by_side(size: int):
    """No cell is wide of its lattice's place, gaps are narrow, and many scenes hold many cells."""
    counts = []
    for seed in range(12):
        labels = pack_cells(np.random.default_rng((seed, size)), size)
        assert (labels.dtype, labels.shape) == (np.int32, (size, size))
        assert labels.min() >= 0
        np.testing.assert_array_equal(labels, pack_cells(np.random.default_rng((seed, size)), size))
        areas = np.bincount(labels.ravel())[1:]
        counts.append(np.count_nonzero(areas))
        if counts[-1] > 8:  # of nearly one size, but for those cut by the edge
            assert areas.max() < 12 * np.median(areas[areas > 0])
            near = cv2.distanceTransform((labels == 0).astype(np.uint8), cv2.DIST_L2, 3)
            inside = np.argwhere(labels > 0)
            (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0)
            assert np.median(near[top : bottom + 1, left : right + 1]) < 0.25 * size
    assert np.median(counts) >= 4


def test_neighbours_in_a_pack_touch_or_nearly_so():
    """Widening every cell by a tenth of the largest width closes most gaps of a sheet."""
    touching = 0
    for seed in range(20):
        labels = pack_cells(np.random.default_rng(seed), 128)
        if labels.max() == 0:
            continue
        distance, nearest = cv2.distanceTransformWithLabels(
            (labels == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        table = np.zeros(nearest.max() + 1, np.int32)
        table[nearest[labels > 0]] = labels[labels > 0]
        grown = np.where(distance <= 4, table[nearest], 0)
        touching += bool(((grown[1:] != grown[:-1]) & (grown[1:] > 0) & (grown[:-1] > 0)).any())
    assert touching >= 15

"""Clean-up and painting on runs against the reference's on pixels, on random masks."""

from __future__ import annotations

import numpy as np
import pytest
from packing import packed, random_masks
from reference.inference import paint as reference_paint
from reference.records import Candidate
from reference.rules import RULES
from reference.rules_masks import box_of_mask
from reference.rules_regions import clean as reference_clean

from cellseg1_rt.runtime.candidates import Found
from cellseg1_rt.runtime.paint import paint
from cellseg1_rt.runtime.regions import RunMasks, clean

SIZES = [(1, 1), (1, 41), (43, 1), (3, 2), (7, 31), (17, 32), (23, 33), (41, 97)]


def pixels_of(masks: RunMasks, index: int, height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width), bool)
    for row, first, end in masks.runs[masks.start[index] : masks.end[index]]:
        assert first < end
        assert not image[row, max(first - 1, 0) : end].any(), "runs touch"
        image[row, first:end] = True
    return image


def speckled(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Large pieces with holes, islands and notches of a few pixels, up to the image's border."""
    masks = random_masks(rng, count, height, width)
    for mask in masks:
        mask[: rng.integers(0, height + 1), : rng.integers(0, width + 1)] = rng.random() < 0.8
        for value in (False, True):
            for _ in range(rng.integers(0, 9)):
                y, x = rng.integers(0, height), rng.integers(0, width)
                mask[y : y + rng.integers(1, 5), x : x + rng.integers(1, 7)] = value
    return masks


@pytest.mark.parametrize("draw", [random_masks, speckled])
@pytest.mark.parametrize("min_area", [0, 1, 2, 20, 61, 2**31 - 1])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_cleaned_masks_are_the_reference_s(height: int, width: int, min_area: int, draw):
    masks = draw(np.random.default_rng([height, width, min_area]), 19, height, width)
    cleaned = clean(packed(masks), min_area, (height, width))
    assert len(cleaned) == len(masks)
    for index, mask in enumerate(masks):
        expected, changed = reference_clean(mask, min_area)
        np.testing.assert_array_equal(pixels_of(cleaned, index, height, width), expected)
        assert cleaned.changed[index] == changed
        assert cleaned.area_px[index] == np.count_nonzero(expected)
        assert tuple(cleaned.box[index]) == box_of_mask(expected)


def found(count: int) -> Found:
    """Candidates whose columns tell their places; painting looks at nothing else of them."""
    places = np.arange(count, dtype=np.float32)
    return Found(
        np.zeros(count, np.int32), places, places / 2, np.stack([places, places], axis=1),
        packed(np.zeros((count, 1, 1), bool)),
    )  # fmt: skip


@pytest.mark.parametrize("draw", [random_masks, speckled])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_painted_labels_are_the_reference_s(height: int, width: int, draw):
    rng = np.random.default_rng([height, width])
    for count in (0, 1, 5, 17, 17, 17):
        masks = draw(rng, count, height, width)
        result = paint(found(count), clean(packed(masks), 0, (height, width)), (height, width))
        given = [
            Candidate(i, np.float32(i), np.float32(i / 2), (i, i), mask, box_of_mask(mask))
            for i, mask in enumerate(masks)
        ]
        labels, shown = reference_paint(given, (height, width), RULES)
        np.testing.assert_array_equal(result.labels, labels)
        assert result.labels.dtype == np.uint16
        assert result.cells.score.tolist() == [place for _, place in shown]
        for label in result.cells.label:
            ys, xs = np.nonzero(labels == label)
            assert result.cells.area_px[label - 1] == len(ys)
            box = (xs.min(), ys.min(), xs.max(), ys.max())
            assert tuple(result.cells.box_xyxy[label - 1]) == box
            np.testing.assert_allclose(result.cells.centroid_xy[label - 1], (xs.mean(), ys.mean()))


def test_more_cells_than_uint16_can_number():
    """65,536 cells of a pixel each, and one more that hides most of them."""
    count, width = 2**16, 256
    places = np.arange(count)
    rows, columns = (axis.astype(np.int32) for axis in np.divmod(places, width))
    runs = np.stack([rows, columns, columns + 1], axis=1)
    one = np.ones(count, np.int64)
    boxes = np.stack([columns, rows, columns, rows], axis=1)
    masks = RunMasks(boxes, one, one == 0, places, places + 1, runs)
    result = paint(found(count), masks, (width, width))
    assert result.labels.dtype == np.uint32
    np.testing.assert_array_equal(result.labels.ravel(), places + 1)

    masks.start[1:] = 0  # all but the first are now its pixel: only the last of them is seen
    masks.end[1:] = 1
    result = paint(found(count), masks, (width, width))
    assert result.labels.dtype == np.uint16
    assert result.cells.score.tolist() == [count - 1]

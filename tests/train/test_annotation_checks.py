"""Warnings about annotations: each fires on its own mistake, and not on sound ones."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_image, read_labels
from cellseg1_rt.runtime.normalise import rgb_from_pixels
from cellseg1_rt.train.annotation_checks import annotation_warnings

CELL, PAPER = np.array([170, 60, 140]), np.array([225, 215, 230])


def labelled(rows: int = 5, columns: int = 6, radius: int = 9) -> NDArray[np.int32]:
    """Discs on a grid with room between them, of labels with gaps."""
    labels = np.zeros((41 * rows, 43 * columns), np.int32)
    for row in range(rows):
        for column in range(columns):
            centre = (43 * column + 21, 41 * row + 20)
            cv2.circle(labels, centre, radius + row % 2, 7 * (row * columns + column) + 2, -1)
    return labels


def pictured(labels: NDArray[np.int32], seed: int = 0) -> NDArray[np.uint8]:
    """Violet cells on pale paper, with noise."""
    noise = np.random.default_rng(seed).normal(0, 6, (*labels.shape, 3))
    colours = np.where(labels[..., None] > 0, CELL, PAPER) + noise
    return np.clip(colours, 0, 255).astype(np.uint8)


def names(labels: NDArray[np.int32], image: NDArray[np.uint8]) -> list[str]:
    return [line.split(":")[0] for line in annotation_warnings(labels, image)]


def without(labels: NDArray[np.int32], every: int) -> NDArray[np.int32]:
    """One label of ``every`` erased."""
    present = np.unique(labels)[1:]
    return np.where(np.isin(labels, present[::every]), 0, labels).astype(np.int32)


def test_a_sound_annotation_has_no_warning():
    labels = labelled()
    assert annotation_warnings(labels, pictured(labels)) == []


@pytest.mark.parametrize("rows, columns, few", [(4, 5, False), (19, 1, True), (2, 3, True)])
def test_few_cells(rows: int, columns: int, few: bool):
    labels = labelled(rows, columns)
    lines = annotation_warnings(labels, pictured(labels))
    count = rows * columns
    expected = f"few cells: {count} labelled; a tile has room for 30: label 20 or more"
    assert lines == ([expected] if few else [])


def test_cells_too_small_to_be_used_do_not_count():
    labels = labelled(radius=4)
    (line,) = annotation_warnings(labels, pictured(labels))
    assert line.startswith("few cells: 30 labelled, 0 of them above 100 px (others are not used);")


@pytest.mark.parametrize("crop, cut", [(15, True), (8, False)], ids=["through", "beside"])
def test_cut_cells(crop: int, cut: bool):
    """18 of 30 cells of the grid lie at its rim."""
    labels = np.ascontiguousarray(labelled()[crop:-crop, crop:-crop])
    lines = annotation_warnings(labels, pictured(labels))
    expected = "cut cells: 18 of 30 (60%) touch the image's edge: choose an image that shows more"
    assert [line[: len(expected)] for line in lines] == ([expected] if cut else [])


def merged(pairs: int) -> NDArray[np.int32]:
    """Some cells with a neighbour that touches them and has their label."""
    labels = labelled()
    for place in range(pairs):
        row, column = divmod(place, 6)
        label = 7 * (row * 6 + column) + 2
        cv2.circle(labels, (43 * column + 39, 41 * row + 20), 9, label, -1)
    return labels


@pytest.mark.parametrize("pairs, warned", [(0, False), (1, False), (2, True), (5, True)])
def test_merged_cells(pairs: int, warned: bool):
    labels = merged(pairs)
    lines = annotation_warnings(labels, pictured(labels))
    assert len(lines) == warned
    for line in lines:
        assert line.startswith(f"merged cells: {pairs} of 30 are much larger than the median (")
        assert "at (x, y) (30, 20), (73, 20)" in line
        assert line.count("and more") == (pairs > 3)


def test_touching_cells_with_labels_of_their_own_are_not_merged():
    labels = merged(5)
    for place in range(5):
        x = 43 * place
        beyond = labels[:41, x + 31 : x + 50]
        beyond[beyond > 0] = 1000 + place
    assert annotation_warnings(labels, pictured(labels)) == []


def test_labels_in_pieces():
    labels = labelled()
    image = pictured(labels)
    labels[20, 40] = labels[20, 21]
    labels[61, [2, 40]] = labels[61, 21]
    top = np.flatnonzero(labels[93] == labels[102, 21])
    labels[92, top[0] - 1] = labels[102, 21]  # corner to corner: one piece
    (line,) = annotation_warnings(labels, image)
    assert line.startswith(
        "labels in pieces: 2 of 30 labels consist of several separate pieces, up to 3, "
        "at (x, y) (26, 20), (21, 61): give each cell its own label"
    )


def test_a_label_in_pieces_is_not_merged_as_well():
    labels = labelled()
    present = np.unique(labels)[1:]
    for place in range(0, 6, 2):
        labels[labels == present[place + 1]] = present[place]
    (line,) = annotation_warnings(labels, pictured(labels))
    assert line.startswith("labels in pieces: 3 of 27 labels")


def test_forgotten_cells_are_named():
    labels = labelled()
    image = pictured(labels)
    kept = without(labels, 5)
    lines = annotation_warnings(kept, image)
    assert lines == [
        "unlabelled look-alikes: 6 regions outside the 24 labels have the colour and size of "
        "labelled cells, at (x, y) (21, 20), (236, 20), (193, 61) and more: label them, or they "
        "are taught to be background"
    ]


@pytest.mark.parametrize(
    "colour, radius, alike",
    [
        pytest.param(tuple(CELL), 9, True, id="a-cell"),
        pytest.param((130, 20, 90), 9, True, id="a-darker-cell"),
        pytest.param((205, 160, 200), 9, False, id="paler"),
        pytest.param((240, 240, 235), 9, False, id="brighter-than-the-background"),
        pytest.param(tuple(CELL), 4, False, id="too-small"),
        pytest.param(tuple(CELL), 14, False, id="too-large"),
    ],
)
def test_only_what_looks_like_cells_is_a_look_alike(
    colour: tuple[int, int, int], radius: int, alike: bool
):
    labels = labelled()
    kept = without(labels, 6)
    image = pictured(kept)
    for y in range(20, labels.shape[0], 41):
        cv2.circle(image, (21, y), radius, [int(part) for part in colour], -1)
    found = names(kept, image)
    assert found == (["unlabelled look-alikes"] if alike else [])


def test_long_thin_debris_is_no_look_alike():
    kept = without(labelled(), 6)
    image = pictured(kept)
    for y in range(20, kept.shape[0], 41):
        cv2.line(image, (10, y - 12), (10, y + 14), CELL.tolist(), 4)
        cv2.line(image, (10, y + 14), (36, y + 14), CELL.tolist(), 4)
    assert names(kept, image) == []


def test_rims_around_labels_are_no_look_alikes():
    labels = labelled()
    image = pictured(cv2.dilate(labels.astype(np.float32), np.ones((5, 5))).astype(np.int32))
    assert names(labels, image) == []


@pytest.mark.parametrize("contrast, alike", [(4, False), (5, True)])
def test_cells_of_the_backgrounds_colour_are_not_judged(contrast: int, alike: bool):
    labels = labelled()
    kept = without(labels, 5)
    image = np.full((*labels.shape, 3), 120, np.uint8)
    image[labels > 0] += np.uint8(contrast + 1)
    image[kept > 0] -= np.uint8(1)
    assert names(kept, image) == (["unlabelled look-alikes"] if alike else [])


def test_packaged_samples():
    """Hand-made labels raise no doubts; with every second one erased, nearly all images do."""
    missed = []
    for path in sorted((SAMPLES / "images").glob("*.png")):
        image = rgb_from_pixels(read_image(path).pixels)
        labels = read_labels(SAMPLES / "labels" / path.name).astype(np.int32)
        assert names(labels, image) == []
        if "unlabelled look-alikes" not in names(without(labels, 2), image):
            missed.append(path.stem)
    assert missed == ["1400420310c9"]  # nuclei of very unequal brightness


def test_arguments_stay():
    labels = without(merged(3), 4)
    image = pictured(labels)
    before = labels.copy(), image.copy()
    annotation_warnings(labels, image)
    np.testing.assert_array_equal(labels, before[0])
    np.testing.assert_array_equal(image, before[1])


def test_labels_above_16_bit_are_cells_as_others():
    labels = labelled() * 10_000_000
    assert labels.max() == 2_050_000_000
    assert annotation_warnings(labels, pictured(labels)) == []


LABELS = np.zeros((13, 11), np.int32)
RGB = np.zeros((13, 11, 3), np.uint8)
ALL = np.full((13, 11), 4, np.int32)
NEARLY = np.where(np.arange(143).reshape(13, 11) < 130, 4, 0).astype(np.int32)


@pytest.mark.parametrize(
    "labels, image, message",
    [
        pytest.param(
            LABELS.T,
            RGB,
            "annotation: labels do not match the image; got int32 [11, 13]; "
            "expected int32 [13, 11]",
            id="other-size",
        ),
        pytest.param(
            LABELS, RGB, "annotation: no labelled cell; expected labels from 1 on", id="no-cells"
        ),
        pytest.param(
            ALL,
            RGB,
            "annotation: one cell covers everything; got 100% of the image; expected less than 90%"
            ". Fix: give the background label 0",
            id="one-cell",
        ),
        pytest.param(NEARLY, RGB, "covers everything; got 91% of the image", id="nearly"),
        pytest.param(LABELS - 1, RGB, "annotation: a label below 0; got -1", id="negative"),
        pytest.param(LABELS, RGB[..., 0], "not an RGB image; got uint8 [13, 11]", id="grey"),
    ],
)
def test_what_is_refused_is_named(labels: Any, image: Any, message: str):
    with pytest.raises(InputError) as caught:
        annotation_warnings(labels, image)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_cells_may_cover_everything():
    labels = ALL.copy()
    labels[:5] = 2
    assert names(labels, RGB) == ["few cells", "cut cells"]

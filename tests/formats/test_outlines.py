from __future__ import annotations

import numpy as np
import pytest
from label_scenes import EMPTY, LARGE, SMALL
from plain_filling import plain_polygon

from cellseg1_rt.formats.outlines import outlines_from_labels
from cellseg1_rt.formats.pieces import pieces_from_labels


def neighbours(row, column, shape):
    steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
    around = [(row + down, column + right) for down, right in steps]
    return [(r, c) for r, c in around if 0 <= r < shape[0] and 0 <= c < shape[1]]


def plain_pieces(labels):
    """4-connected pieces by flooding, numbered in reading order."""
    pieces = np.zeros(labels.shape, int)
    for start in zip(*np.nonzero(labels), strict=True):
        if pieces[start]:
            continue
        number, waiting = pieces.max() + 1, [start]
        pieces[start] = number
        while waiting:
            row, column = waiting.pop()
            for r, c in neighbours(row, column, labels.shape):
                if labels[r, c] == labels[start] and not pieces[r, c]:
                    pieces[r, c] = number
                    waiting.append((r, c))
    return pieces


def twice_area(ring):
    x, y = ring.T
    return int(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


SCENES = SMALL | LARGE


@pytest.mark.parametrize("labels", SCENES.values(), ids=SCENES)
def test_pieces_equal_the_plain_reference(labels):
    found = pieces_from_labels(labels)
    numbers, ranks = np.unique(found, return_inverse=True)
    assert numbers[0] == 0 or labels.all()
    ranks = ranks.reshape(labels.shape) + (0 if numbers[0] == 0 else 1)
    np.testing.assert_array_equal(ranks, plain_pieces(labels))


@pytest.mark.parametrize("labels", SMALL.values(), ids=SMALL)
def test_filling_each_polygon_gives_the_pixels_of_its_piece(labels):
    pieces = plain_pieces(labels)
    found = list(outlines_from_labels(labels))
    assert [outline.label for outline in found] == list(range(1, labels.max() + 1))
    for outline in found:
        own = [n for n in np.unique(pieces[labels == outline.label]).tolist() if n]
        assert len(outline.polygons) == len(own)
        for polygon, number in zip(outline.polygons, own, strict=True):
            np.testing.assert_array_equal(plain_polygon(polygon, labels.shape), pieces == number)


@pytest.mark.parametrize("labels", SCENES.values(), ids=SCENES)
def test_rings_are_simple_and_run_along_pixel_edges(labels):
    areas = np.zeros(labels.max() + 1, int)
    for outline in outlines_from_labels(labels):
        for shell, *holes in outline.polygons:
            assert twice_area(shell) > 0
            assert all(twice_area(hole) < 0 for hole in holes)
            for ring in (shell, *holes):
                assert len(np.unique(ring, axis=0)) == len(ring), "meets itself"
                steps = np.roll(ring, -1, axis=0) - ring
                assert (np.count_nonzero(steps, axis=1) == 1).all(), "not along an edge"
                turns = np.count_nonzero(steps[:, 0] * np.roll(steps[:, 0], 1))
                assert turns == 0, "a corner where it goes straight on"
                areas[outline.label] += twice_area(ring) // 2
    np.testing.assert_array_equal(areas[1:], np.bincount(labels.ravel())[1:])


def test_the_ring_of_one_pixel():
    labels = np.zeros((3, 5), np.uint8)
    labels[1, 2] = 9
    (outline,) = outlines_from_labels(labels)
    assert outline.label == 9
    assert outline.polygons[0][0].tolist() == [[2, 1], [3, 1], [3, 2], [2, 2]]


def test_a_piece_that_meets_itself_in_a_corner_has_a_hole_there():
    (outline,) = outlines_from_labels(SMALL["ring_closed_in_a_corner"])
    assert [len(polygon) for polygon in outline.polygons] == [2]
    (outline,) = outlines_from_labels(SMALL["pieces_touch_in_a_corner"])
    assert [len(polygon) for polygon in outline.polygons] == [1, 1]


def test_no_cells():
    assert list(outlines_from_labels(EMPTY)) == []

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plain_filling import plain_polygon

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.polygons import ring_from_points, spans_from_polygons
from cellseg1_rt.formats.spans import Spans, labels_from_spans

SHAPE = (19, 23)
HERE = Path("here.json")


def masks_of(cells, shape=SHAPE):
    masks = []
    for spans in spans_from_polygons(cells, shape):
        mask = np.zeros(shape, bool)
        for start, stop in zip(spans.starts, spans.stops, strict=True):
            assert start < stop
            assert start // shape[1] == (stop - 1) // shape[1], "a run over two rows"
            mask.flat[start:stop] = True
        masks.append(mask)
    return masks


def draw_rings(rng, grid):
    """One to three rings of 3 to 11 points, crossing themselves and the image's sides."""
    rings = []
    for _ in range(rng.integers(1, 4)):
        points = rng.uniform(-6, 30, (rng.integers(3, 12), 2))
        rings.append(points if grid is None else np.round(points * grid) / grid)
    return tuple(rings)


# Whole and half coordinates put corners and edges exactly on centres, all the time.
@pytest.mark.parametrize("grid", [1, 2, 64, None], ids=["whole", "half", "64th", "free"])
@pytest.mark.parametrize("seed", range(15))
def test_random_polygons_equal_the_plain_reference(grid, seed):
    rng = np.random.default_rng(seed)
    polygons = [draw_rings(rng, grid) for _ in range(4)]
    for found, rings in zip(masks_of([[each] for each in polygons]), polygons, strict=True):
        np.testing.assert_array_equal(found, plain_polygon(rings, SHAPE))


def test_edges_through_centres_at_every_slope():
    # All triangles with one corner at a centre and edges through further centres.
    for dx in range(-5, 6):
        for dy in range(1, 7):
            ring = np.array([(9.5, 3.5), (9.5 + 2 * dx, 3.5 + 2 * dy), (9.5 - dy, 3.5 + 2 * dy)])
            (found,) = masks_of([[(ring,)]])
            np.testing.assert_array_equal(found, plain_polygon([ring], SHAPE), str((dx, dy)))


def test_a_rectangle_on_pixel_edges_is_its_pixels():
    (found,) = masks_of([[(np.array([(3.0, 2.0), (7.0, 2.0), (7.0, 5.0), (3.0, 5.0)]),)]])
    expected = np.zeros(SHAPE, bool)
    expected[2:5, 3:7] = True
    np.testing.assert_array_equal(found, expected)


def test_polygons_that_share_edges_share_no_pixel():
    rng = np.random.default_rng(3)
    corners = [(0.0, 0.0), (23.0, 0.0), (23.0, 19.0), (0.0, 19.0)]
    for _ in range(20):
        middle = tuple(rng.integers(2, 36, 2) / 2)
        found = masks_of([[(np.array([middle, corners[i - 1], corners[i]]),)] for i in range(4)])
        np.testing.assert_array_equal(np.sum(found, axis=0), np.ones(SHAPE))


def test_closed_and_reversed_rings_are_the_same_polygon():
    rng = np.random.default_rng(5)
    (ring,) = draw_rings(np.random.default_rng(1), 2)[:1]
    for _ in range(5):
        turned = np.roll(ring, rng.integers(len(ring)), axis=0)
        masks = masks_of([[(r,)] for r in (ring, np.vstack([ring, ring[:1]]), turned[::-1])])
        np.testing.assert_array_equal(masks[1], masks[0])
        np.testing.assert_array_equal(masks[2], masks[0])


def test_polygons_of_one_cell_are_united_and_rings_of_one_polygon_are_not():
    outer = np.array([(2.0, 2.0), (12.0, 2.0), (12.0, 12.0), (2.0, 12.0)])
    inner = np.array([(5.0, 5.0), (9.0, 5.0), (9.0, 9.0), (5.0, 9.0)])
    united, holed, nothing = masks_of([[(outer,), (inner,)], [(outer, inner)], []])
    assert united.sum() == 100
    assert holed.sum() == 84
    assert not nothing.any()


@pytest.mark.parametrize(
    "ring",
    [np.empty((0, 2)), np.array([(3.0, 4.0)]), np.array([(3.0, 4.0), (9.0, 12.0)])],
    ids=["no_points", "a_point", "a_line"],
)
def test_rings_without_area_have_no_pixels(ring):
    (found,) = masks_of([[(ring,)]])
    assert not found.any()


BAD_POINTS = [
    ("flat", [1, 2, 3], r"cell 7 has an outline that is not a list of points; got int64 \(3,\)"),
    ("ragged", [[1, 2], [3]], "not a list of points; got object"),
    ("words", [["a", "b"]], "not a list of points; got <U1"),
    ("truth", [[True, False]], "not a list of points; got bool"),
    ("nan", [[1.0, 2.0], [float("nan"), 3.0]], "a coordinate out of range; got nan; expected pix"),
    ("infinite", [[1.0, -float("inf")]], "a coordinate out of range; got -inf"),
    ("far", [[2e8, 1]], r"a coordinate out of range; got 2e\+08; expected pixels, at most 100,000"),
]


@pytest.mark.parametrize(
    ("points", "message"), [case[1:] for case in BAD_POINTS], ids=[case[0] for case in BAD_POINTS]
)
def test_points_that_are_no_ring(points, message):
    with pytest.raises(InputError, match=message):
        ring_from_points(points, "cell 7", HERE)


def test_a_third_coordinate_is_ignored():
    ring = ring_from_points([[1, 2, 99], [3, 4, 98]], "cell 7", HERE)
    np.testing.assert_array_equal(ring, [[1.0, 2.0], [3.0, 4.0]], strict=True)


def squares(*corners, side=4):
    return [
        [(np.array([(x, y), (x + side, y), (x + side, y + side), (x, y + side)], float),)]
        for x, y in corners
    ]


def painted(cells, said):
    names = [f"cell {i}" for i in range(1, len(cells) + 1)]
    spans = spans_from_polygons(cells, SHAPE)
    return labels_from_spans(spans, names, SHAPE, HERE, said.append)


def test_later_cells_lie_on_top():
    said: list[str] = []
    labels = painted(squares((3, 3), (5, 5), (4, 1)), said)
    expected = np.zeros(SHAPE, np.int32)
    expected[3:7, 3:7], expected[5:9, 5:9], expected[1:5, 4:8] = 1, 2, 3
    np.testing.assert_array_equal(labels, expected, strict=True)
    assert said == []


def test_cells_that_end_without_a_pixel_are_named_and_leave_their_numbers_unused():
    said: list[str] = []
    labels = painted(squares((3, 3), (-9, 2), (3, 3), (40, 40), (10, 10)), said)
    assert set(np.unique(labels)) == {0, 3, 5}
    assert said == [
        "here.json: left out, outside the image or around no pixel's centre: cell 2, cell 4",
        "here.json: left out, hidden under later ones: cell 1",
    ]


def test_many_names_are_counted():
    said: list[str] = []
    painted(squares((3, 3), *[(30 + i, 40) for i in range(9)]), said)
    assert said[0].endswith(": cell 2, cell 3, cell 4, cell 5, cell 6 and 4 more")


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ([(30, 3), (3, 30)], "no cells; got 2 outlines, none around the centre of a pixel"),
        ([], "no cells; got a file without outlines of cells; expected cells in an image of 19 x"),
    ],
    ids=["outside", "none"],
)
def test_no_cell_left_is_an_error(corners, message):
    with pytest.raises(InputError, match=message):
        painted(squares(*corners), [])


def test_an_image_too_large_is_refused_before_it_is_made():
    nothing = Spans(np.empty(0, np.int64), np.empty(0, np.int64))
    with pytest.raises(InputError, match="too large for labels in one piece; got 99999 x 99998"):
        labels_from_spans([nothing], ["cell"], (99_999, 99_998), HERE, print)

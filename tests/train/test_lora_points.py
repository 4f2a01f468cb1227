"""Where points may lie and how many are drawn, against the plain rules and on telling cases."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import training_data as plain

from cellseg1_rt.train.lora_points import (
    background_candidates,
    count_of_background,
    draw_points,
    innermost,
    usable_cells,
)
from cellseg1_rt.train.lora_samples import SampleSettings

SETTINGS = SampleSettings()


def scenes() -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(7)
    return [
        plain.random_cells(rng, 83, 67, 9, (4, 16)),
        plain.random_cells(rng, 61, 97, 23, (2, 13)),
        plain.random_cells(rng, 101, 89, 3, (20, 50)),
        plain.random_cells(rng, 53, 59, 60, (5, 9)),
        plain.random_cells(rng, 47, 43, 4, (60, 70)),
    ]


SCENES = [pytest.param(labels, id=f"{labels.max()}-cells") for labels in scenes()]


def box(labels: NDArray[np.int32], label: int) -> tuple[slice, slice]:
    y, x = np.nonzero(labels == label)
    return slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)


def as_pixels(places: NDArray[np.int64], shape: tuple[int, ...]) -> plain.Pixels:
    y, x = np.unravel_index(places, shape)
    return set(zip(x.tolist(), y.tolist(), strict=True))


@pytest.mark.parametrize("labels", SCENES)
def test_cores_of_cells_equal_the_plain_rule(labels: NDArray[np.int32]):
    for label in range(1, labels.max() + 1):
        rows, columns = box(labels, label)
        inside = labels[rows, columns] == label
        found = {
            (columns.start + x, rows.start + y)
            for x, y in as_pixels(innermost(inside, 0.2), inside.shape)
        }
        assert found == plain.core_of_cell(labels, label)


@pytest.mark.parametrize("labels", SCENES)
def test_background_equals_the_plain_rule(labels: NDArray[np.int32]):
    places = background_candidates(labels, 0.2)
    found = as_pixels(places, labels.shape)
    assert len(found) == len(places)
    assert found == plain.core_of_background(labels)
    assert count_of_background(labels, len(places), SETTINGS) == plain.background_count(labels)


@pytest.mark.parametrize("labels", SCENES)
def test_usable_cells_equal_the_plain_rule(labels: NDArray[np.int32]):
    assert set(np.flatnonzero(usable_cells(labels, SETTINGS))) == plain.usable_labels(labels)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(["#"], id="one-pixel"),
        pytest.param(["####", "####"], id="fills-its-box"),
    ],
)
def test_a_cell_that_fills_its_box_is_equally_deep_everywhere(rows: list[str]):
    inside = np.array([list(row) for row in rows]) == "#"
    np.testing.assert_array_equal(innermost(inside, 0.2), np.arange(inside.size))


def test_nothing_lies_beyond_a_cells_box():
    """The corner farthest from the missing one is the deepest, though at the box's edge."""
    inside = np.ones((5, 7), bool)
    inside[0, 0] = False
    np.testing.assert_array_equal(innermost(inside, 0.03), [34])
    # int(0.2 · 34) = 6. Squared: (6, 4) 52, (6, 3) 45, (5, 4) 41, (6, 2) 40, (6, 1) 37, (6, 0) 36.
    np.testing.assert_array_equal(innermost(inside, 0.2), [6, 13, 20, 27, 33, 34])


def test_ties_of_the_last_rank_are_all_in():
    inside = np.ones((3, 9), bool)
    inside[1, 4] = False  # four corners at squared distance 17
    np.testing.assert_array_equal(innermost(inside, 1 / 26), [0, 8, 18, 26])


@pytest.mark.parametrize("share, count", [(0.03, 1), (0.06, 1), (0.09, 2)])
def test_the_rank_is_cut_to_a_whole_number_and_one_at_least(share: float, count: int):
    """29 pixels at 29 distances: 0.87, 1.74 and 2.61 of them."""
    inside = np.ones((1, 30), bool)
    inside[0, 0] = False
    assert len(innermost(inside, share)) == count


def with_cell(size: int, rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[np.int32]:
    labels = np.zeros((size, size + 6), np.int32)
    labels[slice(*rows), slice(*columns)] = 1
    return labels


@pytest.mark.parametrize("turned", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize(
    "span, usable",
    [
        pytest.param((0, 19), False, id="stops-at-19"),
        pytest.param((3, 20), True, id="stops-at-20"),
        pytest.param((61 - 20, 61), True, id="starts-at-L-20"),
        pytest.param((61 - 19, 61), False, id="starts-at-L-19"),
        pytest.param((61 - 19, 61 - 2), False, id="near-the-edge"),
        pytest.param((30, 37), True, id="middle"),
    ],
)
def test_edge_band(span: tuple[int, int], usable: bool, turned: bool):
    labels = with_cell(61, span, (19, 49))
    if turned:
        labels = np.ascontiguousarray(labels.T)
    assert usable_cells(labels, SETTINGS).tolist() == [False, usable]
    assert plain.usable_labels(labels) == ({1} if usable else set())


@pytest.mark.parametrize("area, usable", [(100, False), (101, True)], ids=str)
def test_smallest_cell(area: int, usable: bool):
    labels = np.zeros((67, 61), np.int32)
    y, x = np.unravel_index(np.arange(area), (11, 11))
    labels[25 + y, 25 + x] = 1
    assert usable_cells(labels, SETTINGS).tolist() == [False, usable]


def grid_of_cells(count: int, size: int = 256, cell: int = 4) -> NDArray[np.int32]:
    """Square cells from the top left on, a pixel apart."""
    labels = np.zeros((size, size), np.int32)
    across = size // (cell + 1)
    for place in range(count):
        y, x = (cell + 1) * (place // across), (cell + 1) * (place % across)
        labels[y : y + cell, x : x + cell] = place + 1
    return labels


@pytest.mark.parametrize(
    "cells, candidates, expected",
    [
        pytest.param(0, 50_000, 1, id="no-cells-one-point"),
        pytest.param(1, 50_000, 1, id="half-rounded-up"),
        pytest.param(2, 50_000, 1, id="half"),
        pytest.param(3, 50_000, 2, id="half-of-three-rounded-up"),
        pytest.param(41, 50_000, 21, id="all-cells-count-not-only-30"),
        pytest.param(60, 50_000, 30, id="thirty"),
        pytest.param(99, 50_000, 30, id="thirty-at-most"),
        pytest.param(41, 999, 1, id="999-candidates"),
        pytest.param(41, 1000, 2, id="1000-candidates"),
        pytest.param(41, 7999, 8, id="7999-candidates"),
        pytest.param(0, 0, 1, id="few-candidates-are-one"),
    ],
)
def test_how_many_background_points(cells: int, candidates: int, expected: int):
    assert count_of_background(grid_of_cells(cells), candidates, SETTINGS) == expected


@pytest.mark.parametrize(
    "columns, expected",
    [
        pytest.param(50, 1, id="five-to-one"),
        pytest.param(51, 0, id="more-than-five-to-one"),
        pytest.param(60, 0, id="no-background"),
    ],
)
def test_crowded_tiles_get_no_background_point(columns: int, expected: int):
    labels = np.zeros((61, 60), np.int32)
    labels[:, :columns] = 1
    places = background_candidates(labels, 0.2)
    assert count_of_background(labels, len(places), SETTINGS) == expected
    assert plain.background_count(labels) == expected
    assert (len(places) == 0) == (columns == 60)


@pytest.mark.parametrize("labels", SCENES)
def test_drawn_points_keep_the_rules(labels: NDArray[np.int32]):
    usable = plain.usable_labels(labels)
    background = plain.core_of_background(labels)
    cores = {label: plain.core_of_cell(labels, label) for label in usable}
    seen: set[int] = set()
    for seed in range(20):
        points, positives = draw_points(np.random.default_rng(seed), labels, SETTINGS)
        assert (points.dtype, points.shape[1]) == (np.int64, 2)
        cells = [int(labels[y, x]) for x, y in points[:positives]]
        assert len(set(cells)) == len(cells) <= 30
        assert set(cells) <= usable
        if labels.max() <= 30:
            assert set(cells) == usable
        seen |= set(cells)
        for label, (x, y) in zip(cells, points[:positives].tolist(), strict=True):
            assert (x, y) in cores[label]
        assert {(x, y) for x, y in points[positives:].tolist()} <= background
        assert len(points) - positives == plain.background_count(labels)
    assert seen == usable


def test_cells_are_chosen_first_and_dropped_after():
    """Of 72 cells, 36 too small: about half of the 30 chosen are left, and all have their turn."""
    labels = np.zeros((256, 256), np.int32)
    for place in range(72):
        y, x = 22 + 24 * (place // 9), 22 + 24 * (place % 9)
        side = 11 if place % 2 else 10
        labels[y : y + side, x : x + side] = place + 1
    counts, seen = [], set()
    for seed in range(80):
        points, positives = draw_points(np.random.default_rng(seed), labels, SETTINGS)
        counts.append(positives)
        seen |= {int(labels[y, x]) for x, y in points[:positives]}
    assert 13.5 < np.mean(counts) < 16.5
    assert max(counts) < 30
    assert seen == set(range(2, 73, 2))


def test_points_are_uniform_over_the_candidates():
    labels = np.zeros((61, 53), np.int32)
    y, x = np.mgrid[:61, :53]
    labels[(y - 33) ** 2 + (x - 29) ** 2 < 90] = 1
    rng = np.random.default_rng(3)
    cell: Counter[tuple[int, int]] = Counter()
    background: Counter[tuple[int, int]] = Counter()
    for _ in range(1000):
        points, positives = draw_points(rng, labels, SETTINGS)
        assert positives == 1
        cell[tuple(points[0].tolist())] += 1
        background.update(tuple(point.tolist()) for point in points[1:])
    core = plain.core_of_cell(labels, 1)
    assert set(cell) == core
    mean = 1000 / len(core)
    assert all(abs(count - mean) < 5 * mean**0.5 for count in cell.values())
    allowed = plain.core_of_background(labels)
    assert set(background) <= allowed
    # With replacement, a share of e^(-draws / candidates) is not met.
    met = 1 - np.exp(-background.total() / len(allowed))
    assert abs(len(background) / len(allowed) - met) < 0.03


def test_background_is_drawn_with_replacement():
    labels = np.zeros((5, 5), np.int32)
    settings = SampleSettings(
        background_per_cell=30, background_px=1, core_share=0.99, most_background=99
    )
    labels[0, 0] = 1
    for seed in range(30):
        points, positives = draw_points(np.random.default_rng(seed), labels, settings)
        assert (len(points), positives) == (25, 0)
        if len({tuple(point) for point in points.tolist()}) < 20:
            return
    raise AssertionError("25 points of 24 pixels never met one twice by chance")


def test_a_tile_full_of_small_cells_has_no_point():
    labels = (np.arange(49 * 49).reshape(49, 49) // 7 + 1).astype(np.int32)
    points, positives = draw_points(np.random.default_rng(0), labels, SETTINGS)
    assert (points.shape, positives) == ((0, 2), 0)


@pytest.mark.parametrize("labels", SCENES)
def test_what_is_not_known_is_passed_over(labels: NDArray[np.int32]):
    """It bounds the background as a cell does, counts as none, and gets no point."""
    unknown = labels.copy()
    unknown[:31, -29:] = -1
    as_a_cell = np.where(unknown < 0, labels.max() + 1, unknown)
    found = background_candidates(unknown, 0.2)
    np.testing.assert_array_equal(found, background_candidates(as_a_cell, 0.2))
    settings = SampleSettings(smallest_cell_px=20, edge_band_px=3)
    usable = usable_cells(unknown, settings)
    np.testing.assert_array_equal(usable, usable_cells(np.maximum(unknown, 0), settings))
    points, positives = draw_points(np.random.default_rng(3), unknown, settings)
    under = unknown[points[:, 1], points[:, 0]]
    assert (under[:positives] > 0).all()
    assert (under[positives:] == 0).all()


def test_what_is_not_known_crowds_nothing_out():
    labels = np.full((40, 40), -1, np.int32)
    labels[:, :20] = 0
    labels[3:9, 3:9] = 1
    assert count_of_background(labels, 160, SETTINGS) == 1

"""Tiles stitched into a plane, against the rule written out on whole masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from plain_stitching import Plain, stitched, windows_of
from tile_scenes import candidates_of, ellipses, found_in_tiles

from cellseg1_rt.formats.planes import ArrayPlane
from cellseg1_rt.runtime.large import segment_plane
from cellseg1_rt.runtime.normalise import stats_from_pixels
from cellseg1_rt.runtime.pieces import pieces_from_candidates
from cellseg1_rt.runtime.stitch import Stitcher, resolve
from cellseg1_rt.runtime.tiles import plan_tiles
from cellseg1_rt.settings import InferenceSettings

EDGE, NMS = 3, 0.05
SETTINGS = InferenceSettings(min_area=0, max_area_ratio=0.4, crop_nms=NMS, box_nms=NMS)


@dataclass(frozen=True)
class Case:
    """A plane, its tiles and its cells; radii in px."""

    shape: tuple[int, int]
    tile: int
    overlap: int
    cells: int
    radii: tuple[float, float]
    missed: float = 0.0
    shaken: int = 0


CASES = {
    "small_cells": Case((97, 131), 41, 17, 60, (2, 4)),
    "shaken": Case((97, 131), 41, 17, 60, (2, 5), missed=0.1, shaken=1),
    "larger_than_the_overlap": Case((83, 149), 47, 13, 14, (5, 11)),
    "larger_and_shaken": Case((83, 149), 47, 13, 14, (4, 12), missed=0.05, shaken=2),
    "crowded": Case((113, 109), 37, 18, 150, (2, 7), missed=0.2, shaken=2),
    "long": Case((23, 227), 31, 11, 40, (2, 6), shaken=1),
    "rows_that_overlap_twice": Case((89, 53), 41, 20, 40, (2, 8), shaken=1),
}


def scene(case: Case, seed: int):
    rng = np.random.default_rng(seed)
    windows = windows_of(case.shape, case.tile, case.overlap)
    masks = ellipses(rng, case.shape, case.cells, case.radii)
    found = found_in_tiles(rng, masks, windows, missed=case.missed, shaken=case.shaken)
    return windows, found, plan_tiles(case.shape, case.tile, case.overlap, EDGE)


def segment(case: Case, windows, found: list[list[Plain]], plan):
    """Labels and cells by the package, tile by tile."""

    def segment_tile(rgb, tile, plan):
        assert rgb.shape[:2] == (plan.window(tile).height, plan.window(tile).width)
        return pieces_from_candidates(
            candidates_of(found[tile], windows[tile], SETTINGS), tile, plan, SETTINGS
        )

    pixels = np.arange(1, 1 + case.shape[0] * case.shape[1]).reshape(case.shape)
    bands, done = [], []
    cells = segment_plane(
        ArrayPlane(pixels),
        plan,
        stats_from_pixels(pixels),
        segment_tile,
        SETTINGS,
        write=bands.append,
        report=done.append,
    )
    assert done == list(range(1, len(windows) + 1))
    return np.concatenate(bands), cells


def same_cells(labels, expected) -> bool:
    """Whether two maps are the same but for their numbers."""
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    one_to_one = all(len(np.unique(side)) == pairs.shape[1] for side in pairs)
    return one_to_one and bool((pairs[:, 0] == 0).all())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", CASES)
def test_tiles_row_by_row_give_what_the_rule_gives_at_once(name, seed):
    case = CASES[name]
    windows, found, plan = scene(case, seed)
    expected, _ = stitched(
        [one for tile in found for one in tile],
        windows,
        case.shape,
        edge=EDGE,
        nms=NMS,
        largest=SETTINGS.max_area_ratio * plan.tile_area_px,
    )
    labels, cells = segment(case, windows, found, plan)

    assert labels.dtype == np.uint32
    assert labels.shape == case.shape
    assert expected.max() > 5
    assert same_cells(labels, expected)
    assert np.array_equal(np.unique(labels[labels > 0]), cells.label)


@pytest.mark.parametrize("name", CASES)
def test_the_table_is_that_of_the_map(name):
    case = CASES[name]
    windows, found, plan = scene(case, 5)
    labels, cells = segment(case, windows, found, plan)
    by_mask = {one.score: one for tile in found for one in tile}
    for row, label in enumerate(cells.label):
        ys, xs = np.nonzero(labels == label)
        assert cells.area_px[row] == len(ys)
        assert tuple(cells.box_xyxy[row]) == (xs.min(), ys.min(), xs.max(), ys.max())
        np.testing.assert_allclose(cells.centroid_xy[row], (xs.mean(), ys.mean()), rtol=1e-12)
        source = by_mask[float(cells.score[row])]
        y0, x0, y1, x1 = source.window
        y, x = np.argwhere(source.mask[y0:y1, x0:x1])[0]
        assert tuple(cells.point_xy[row]) == (x + x0, y + y0)
        assert cells.stability[row] == 1


@pytest.mark.parametrize("name", CASES)
def test_what_is_decided_does_not_depend_on_how_much_was_known(name):
    case = CASES[name]
    windows, found, plan = scene(case, 7)
    pieces = [
        pieces_from_candidates(candidates_of(found[t], windows[t], SETTINGS), t, plan, SETTINGS)
        for t in range(len(plan))
    ]
    at_once = resolve([one for tile in pieces for one in tile], plan, SETTINGS)
    stitcher, streamed, ends = Stitcher(plan, SETTINGS), [], [0]
    for row in range(len(plan.rows)):
        for tile in plan.tiles_of_row(row):
            stitcher.add(pieces[tile])
        last = row + 1 == len(plan.rows)
        cells, end = stitcher.settle(case.shape[0] if last else plan.rows[row + 1][0])
        assert all(cell.box[1] >= ends[-1] for cell in cells)
        streamed += cells
        ends.append(end)
    assert ends == sorted(ends)
    assert ends[-1] == case.shape[0]
    assert sorted((p.tile, p.is_cut, p.place) for p in streamed) == sorted(
        (p.tile, p.is_cut, p.place) for p in at_once
    )


def test_a_cell_longer_than_every_overlap_is_one_cell_without_a_cut():
    case = Case((59, 139), 47, 13, 0, (1, 1))
    windows = windows_of(case.shape, case.tile, case.overlap)
    cell = np.zeros(case.shape, bool)
    cell[21:29, 17:61] = True  # 44 px, over the border of the first column of tiles
    small = np.zeros(case.shape, bool)
    small[40:44, 100:105] = True
    found = found_in_tiles(np.random.default_rng(1), [cell, small], windows, missed=0, shaken=0)
    plan = plan_tiles(case.shape, case.tile, case.overlap, EDGE)
    labels, cells = segment(case, windows, found, plan)
    assert len(cells) == 2
    np.testing.assert_array_equal(labels > 0, cell | small)
    lonely = [tile if number % len(plan.columns) else [] for number, tile in enumerate(found)]
    labels, cells = segment(case, windows, lonely, plan)
    np.testing.assert_array_equal(labels > 0, small)  # what is left would be cut straight


def test_a_plane_without_cells():
    case = CASES["long"]
    windows = windows_of(case.shape, case.tile, case.overlap)
    plan = plan_tiles(case.shape, case.tile, case.overlap, EDGE)
    labels, cells = segment(case, windows, [[] for _ in windows], plan)
    assert not labels.any()
    assert len(cells) == 0

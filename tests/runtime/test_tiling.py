"""Which images are cut into tiles, how large tiles are, and where they lie."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from plain_stitching import axis_windows, clearance

from cellseg1_rt.errors import BundleError, ConfigError, InputError
from cellseg1_rt.runtime.tiles import plan_tiles
from cellseg1_rt.runtime.tiling import Tiling, checked_tile


@pytest.mark.parametrize(
    ("length", "tile", "overlap"),
    [(7, 11, 3), (11, 11, 3), (12, 11, 3), (19, 11, 3), (20, 11, 3), (997, 101, 37), (523, 31, 15)],
)
def test_tiles_cover_a_side_with_enough_overlap(length, tile, overlap):
    plan = plan_tiles((length, 5), tile, overlap, 2)
    assert list(plan.rows) == axis_windows(length, tile, overlap)
    assert plan.columns == ((0, 5),)
    assert plan.rows[0][0] == 0
    assert plan.rows[-1][1] == length
    for before, after in zip(plan.rows, plan.rows[1:], strict=False):
        assert before[1] - after[0] >= overlap
        assert after[1] - after[0] == tile


def test_clearance_is_that_of_each_tile():
    rng = np.random.default_rng(3)
    plan = plan_tiles((97, 131), 41, 17, 3)
    first, second = rng.integers(0, (131, 97), (2, 200, 2))
    boxes = np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)
    every = [
        [
            clearance((y0, x0, y1, x1), (w.y0, w.x0, w.y1, w.x1), (97, 131))
            for w in map(plan.window, range(len(plan)))
        ]
        for x0, y0, x1, y1 in boxes.tolist()
    ]
    expected = np.array(every)
    for tile in range(len(plan)):
        found = plan.clearance(boxes, tile)
        np.testing.assert_array_equal(found.rows, expected[:, tile, 0])
        np.testing.assert_array_equal(found.columns, expected[:, tile, 1])
        np.testing.assert_array_equal(found.best_rows, expected[..., 0].max(axis=1))
        np.testing.assert_array_equal(found.best_columns, expected[..., 1].max(axis=1))


def tiling(tiny, choice="auto", **told) -> Tiling:
    provenance = {f"training_{name}": json.dumps(value) for name, value in told.items()}
    return Tiling.of_bundle(replace(tiny.manifest, provenance=provenance), choice)


KNOWN = {"image_size_px": [383, 512]}
SIZES = [
    ("unknown_small", {}, "auto", (1024, 700), None),
    ("unknown_large", {}, "auto", (1025, 700), 512),
    ("known_small", KNOWN, "auto", (768, 500), None),
    ("known_large", KNOWN, "auto", (500, 769), 512),
    ("known_other", {"image_size_px": [256, 200]}, "auto", (500, 769), 256),
    ("none", KNOWN, "none", (5000, 7000), None),
    ("side_small", KNOWN, 301, (301, 211), None),
    ("side_large", KNOWN, "301", (302, 211), 301),
    ("only_training_um", {**KNOWN, "pixel_size_um": [0.5, 0.5]}, "auto", (769, 701), 512),
]


@pytest.mark.parametrize(
    ("told", "choice", "shape", "tile"), [case[1:] for case in SIZES], ids=[c[0] for c in SIZES]
)
def test_when_an_image_is_cut(tiny, told, choice, shape, tile):
    plan = tiling(tiny, choice, **told).plan(shape)
    assert (None if plan is None else plan.tile_px) == tile


def test_a_tile_covers_as_many_micrometres_as_the_training_image(tiny):
    chosen = tiling(tiny, **KNOWN, pixel_size_um=[0.6, 0.6])
    finer = chosen.plan((3001, 2003), (0.2, 0.2))
    assert finer.tile_px == 3 * 512
    assert finer.edge_px == 3 * 20
    assert chosen.plan((2303, 2003), (0.2, 0.2)) is None  # below 1.5 of those tiles
    assert chosen.plan((701, 503), (1.2, 1.2)).tile_px == 256
    assert chosen.plan((1001, 503), (0.3, 1.2)).tile_px == 512  # the mean of both axes is 0.6
    assert chosen.plan((3001, 2003)).tile_px == 512
    assert tiling(tiny, 301, **KNOWN, pixel_size_um=[0.6, 0.6]).plan((701, 503), (1.2, 1.2)).tile_px
    with pytest.raises(InputError, match=r"plate.tif: pixels of too different a size .* got 20 "):
        chosen.plan((3001, 2003), (12.0, 12.0), "plate.tif")


@pytest.mark.parametrize(
    ("cell", "tile", "overlap"),
    [(None, 512, 128), (21.5, 512, 128), (73.3, 512, 187), (400, 512, 256), (None, 301, 76)],
)
def test_overlap_is_a_quarter_or_what_cells_need(tiny, cell, tile, overlap):
    told = (
        {} if cell is None else {"images": [{"cell_diameter_px": 3.0}, {"cell_diameter_px": cell}]}
    )
    assert tiling(tiny, tile, **told).plan((997, 701)).overlap_px == overlap


@pytest.mark.parametrize("bad", ["8", 63, 8193, "-5", "half", "", 0])
def test_what_is_not_a_tile(bad):
    with pytest.raises(ConfigError, match="not a tile; got .*expected auto, none, or 64 to 8,192"):
        checked_tile(bad)


@pytest.mark.parametrize(
    "told", [{"training_image_size_px": "[5"}, {"training_pixel_size_um": "0.5"}], ids=str
)
def test_provenance_that_cannot_be_read(tiny, told):
    with pytest.raises(BundleError, match="provenance: what the manifest tells of the training"):
        Tiling.of_bundle(replace(tiny.manifest, provenance=told), "auto")

"""What the benchmark of large images counts, on planes small enough to count by hand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from cellseg1_rt.formats.stacks import open_plane
from cellseg1_rt.runtime.tiles import plan_tiles

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "large_images.py"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    pytest.importorskip("zarr")
    spec = importlib.util.spec_from_file_location("large_images", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_a_mosaic_is_made_of_the_images(benchmark: ModuleType, tmp_path: Path):
    rng = np.random.default_rng(1)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (53, 61)).astype(np.uint8)).save(tmp_path / name)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    rows, columns = benchmark.write_mosaic(tmp_path / "m.ome.zarr", paths, 131, seed=3)
    assert rows.tolist() == columns.tolist() == [0, 53, 106]
    with open_plane(tmp_path / "m.ome.zarr") as plane:
        assert plane.shape == (131, 131, 1)
        pixels = plane.read(slice(None), slice(None))[..., 0]
    sources = [np.asarray(Image.open(path)).astype(float) for path in paths]
    stretched = [((s - s.min()) / (s.max() - s.min()) * 255).astype(int)[:53, :53] for s in sources]
    for y in (0, 53):
        for x in (0, 53):
            block = pixels[y : y + 53, x : x + 53]
            assert any(
                np.array_equal(block, source[::dy, ::dx])
                for source in stretched
                for dy in (1, -1)
                for dx in (1, -1)
            )


def test_seams_are_in_the_middle_of_overlaps(benchmark: ModuleType):
    plan = plan_tiles((190, 100), 100, 10, 2)
    rows, columns = benchmark.seams(plan)
    assert rows.tolist() == [95.0]
    assert columns.tolist() == []
    boxes = np.array([[3, 90, 9, 94], [3, 90, 9, 95], [3, 95, 9, 99], [3, 94, 9, 96]])
    over = benchmark.crosses(boxes, (rows, columns))
    assert over.tolist() == [False, True, False, True]
    assert benchmark.crosses(boxes, (rows, columns), near=1).tolist() == [True, True, True, True]
    window = benchmark.owner_window(plan, boxes[2])
    assert (window.y0, window.y1, window.x0, window.x1) == (90, 190, 0, 100)


def test_straight_cuts_and_duplicates_are_counted_by_place(benchmark: ModuleType):
    ys, xs = np.indices((61, 89))
    labels = np.zeros((61, 89), int)
    labels[(ys - 20) ** 2 + (xs - 20) ** 2 <= 100] = 1  # round
    labels[((ys - 20) ** 2 + (xs - 60) ** 2 <= 100) & (xs < 60)] = 2  # half of a disk
    labels[40:44, 10:40] = 3
    labels[50, 10:40] = 3  # of two pieces, around the next
    labels[46:49, 20:30] = 4
    boxes = np.array(
        [
            (x.min(), y.min(), x.max(), y.max())
            for y, x in (np.nonzero(labels == label) for label in range(1, 5))
        ]
    )
    on_seam = np.array([False, True, False, True])
    usable = np.array([True, True, False, True])
    found = benchmark.oddities(labels, boxes, on_seam, usable)
    assert found["straight_cuts_at_seams"] == {"cells": 2, "having": 1, "share": 0.5}
    assert found["straight_cuts_elsewhere"] == {"cells": 1, "having": 0, "share": 0.0}
    assert found["duplicates_at_seams"] == {"cells": 2, "having": 1, "share": 0.5}
    assert found["duplicates_elsewhere"] == {"cells": 1, "having": 0, "share": 0.0}

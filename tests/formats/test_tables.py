from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest

from cellseg1_rt.formats import write_cells_csv
from cellseg1_rt.results import Cells

HEADER = "label,area_px,x0,y0,x1,y1,centroid_x,centroid_y,score,stability,point_x,point_y"


def cells(count):
    rng = np.random.default_rng(11)
    return Cells(
        label=np.arange(1, count + 1, dtype=np.int32),
        area_px=rng.integers(1, 10**7, count),
        box_xyxy=rng.integers(0, 4000, (count, 4), dtype=np.int32),
        centroid_xy=rng.random((count, 2)) * 4000,
        score=rng.random(count, np.float32),
        stability=rng.random(count, np.float32),
        point_xy=rng.random((count, 2), np.float32) * 4000,
    )


@pytest.mark.parametrize("count", [0, 1, 101])
def test_numbers_come_back_to_the_last_bit_of_float32(tmp_path, count):
    table = cells(count)
    write_cells_csv(tmp_path / "cells.csv", table)

    with (tmp_path / "cells.csv").open(newline="") as file:
        rows = list(csv.reader(file))

    assert ",".join(rows[0]) == HEADER
    values = np.array(rows[1:], np.float64).reshape(count, 12)
    expected = np.column_stack(
        [getattr(table, column.name) for column in dataclasses.fields(table)]
    )
    np.testing.assert_array_equal(values[:, :6], expected[:, :6])
    np.testing.assert_allclose(values[:, 6:8], expected[:, 6:8], rtol=5e-9)
    np.testing.assert_array_equal(values[:, 8:].astype(np.float32), expected[:, 8:])


def test_the_file_of_one_cell(tmp_path):
    table = Cells(
        np.array([1], np.int32),
        np.array([40]),
        np.array([[3, 5, 7, 11]], np.int32),
        np.array([[4.5, 1 / 3]]),
        np.array([0.9], np.float32),
        np.array([0.1], np.float32),
        np.array([[4.0, 8.25]], np.float32),
    )
    write_cells_csv(tmp_path / "cells.csv", table, (0.5, 0.25))
    assert (tmp_path / "cells.csv").read_bytes() == (
        f"{HEADER},area_um2\n1,40,3,5,7,11,4.5,0.333333333,0.9,0.1,4.0,8.25,5\n".encode()
    )

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest

from cellseg1_rt.formats import table_from_cells, write_cells_csv, write_table_csv
from cellseg1_rt.formats.measurements import Measurements
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


def measurements(count, channels, *, in_um, dtype=np.uint16):
    rng = np.random.default_rng(13)
    return Measurements(
        perimeter_px=rng.random(count) * 99,
        eccentricity_px=rng.random(count),
        perimeter_um=rng.random(count) * 33 if in_um else None,
        eccentricity_um=rng.random(count) if in_um else None,
        lowest=rng.integers(0, 99, (count, channels)).astype(dtype),
        highest=rng.integers(99, 999, (count, channels)).astype(dtype),
        mean=rng.random((count, channels)) * 99,
        deviation=rng.random((count, channels)),
    )


IN_UM = "centroid_x_um,centroid_y_um,width_um,height_um,perimeter_um,eccentricity_um"
OF_A_CHANNEL = "mean_{0},min_{0},max_{0},std_{0}"
COLUMNS = [
    ("pixels", None, 1, f"{HEADER},perimeter_px,eccentricity,{OF_A_CHANNEL.format(0)}"),
    (
        "micrometres",
        (0.5, 0.25),
        2,
        f"{HEADER},area_um2,perimeter_px,eccentricity,{IN_UM},"
        f"{OF_A_CHANNEL.format(0)},{OF_A_CHANNEL.format(1)}",
    ),
]


@pytest.mark.parametrize(
    ("pixel_size", "channels", "header"), [c[1:] for c in COLUMNS], ids=[c[0] for c in COLUMNS]
)
def test_measured_columns_come_after_the_others(tmp_path, pixel_size, channels, header):
    measured = measurements(7, channels, in_um=pixel_size is not None)
    table = table_from_cells(cells(7), pixel_size, measured)
    write_table_csv(tmp_path / "cells.csv", table)
    with (tmp_path / "cells.csv").open(newline="") as file:
        names, *rows = csv.reader(file)
    assert names == header.split(",")
    found = dict(zip(names, np.array(rows, np.float64).T, strict=True))
    for name, values in table.items():
        read = found[name].astype(values.dtype)
        np.testing.assert_allclose(read, values, rtol=5e-9, err_msg=name)
    np.testing.assert_array_equal(found["max_0"], measured.highest[:, 0])


def test_lengths_in_micrometres():
    table = table_from_cells(cells(5), (0.5, 0.25), measurements(5, 1, in_um=True))
    np.testing.assert_array_equal(table["centroid_x_um"], table["centroid_x"] * 0.25)
    np.testing.assert_array_equal(table["centroid_y_um"], table["centroid_y"] * 0.5)
    np.testing.assert_array_equal(table["width_um"], (table["x1"] - table["x0"] + 1) * 0.25)
    np.testing.assert_array_equal(table["height_um"], (table["y1"] - table["y0"] + 1) * 0.5)
    np.testing.assert_array_equal(table["area_um2"], table["area_px"] * 0.125)


VALUES = [
    ("uint32", np.array([0, 4_294_967_295], np.uint32), ["0", "4294967295"]),
    ("float32", np.array([0.1, 16_777_216], np.float32), ["0.1", "1.6777216e+07"]),
    ("float64", np.array([1 / 3, 65_535]), ["0.333333333", "65535"]),
]


@pytest.mark.parametrize(("values", "texts"), [c[1:] for c in VALUES], ids=[c[0] for c in VALUES])
def test_extremes_are_written_exactly(tmp_path, values, texts):
    write_table_csv(tmp_path / "a.csv", {"max_0": values})
    assert (tmp_path / "a.csv").read_text().split() == ["max_0", *texts]


def test_measurements_of_other_cells_are_refused():
    with pytest.raises(ValueError, match="measured 3 cells of 5"):
        table_from_cells(cells(5), None, measurements(3, 1, in_um=False))

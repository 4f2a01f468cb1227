"""Tables of cells: their columns, and how they are written as CSV.

Imports numpy and the standard library.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.files import atomic_path
from cellseg1_rt.formats.measurements import Measurements
from cellseg1_rt.results import Cells

__all__ = [
    "CELL_COLUMNS",
    "table_from_cells",
    "texts_from_column",
    "write_cells_csv",
    "write_table_csv",
]

CELL_COLUMNS = (
    "label",
    "area_px",
    "x0",
    "y0",
    "x1",
    "y1",
    "centroid_x",
    "centroid_y",
    "score",
    "stability",
    "point_x",
    "point_y",
)
"""What every table starts with."""


def table_from_cells(
    cells: Cells,
    pixel_size_um: tuple[float, float] | None = None,
    measurements: Measurements | None = None,
) -> dict[str, NDArray[Any]]:
    """Columns [K] by name: ``CELL_COLUMNS``, then what the other arguments allow.

    With a pixel size: ``area_um2``. With measurements: ``perimeter_px`` and ``eccentricity``. With
    both: ``centroid_x_um``, ``centroid_y_um`` (from the centre of the first pixel), ``width_um``,
    ``height_um`` (of the box, between its outer edges), ``perimeter_um`` and ``eccentricity_um``
    (of the shape in micrometres; pixels need not be square). Last, with measurements, for each
    channel of the image: ``mean_0``, ``min_0``, ``max_0``, ``std_0``, ``mean_1`` and so on.

    Parameters
    ----------
    pixel_size_um : micrometres a pixel of the labels (y, x).
    measurements : of the same cells, with the same pixel size.

    Raises
    ------
    ValueError : if the measurements are of another number of cells.
    """
    columns = (
        *(cells.label, cells.area_px, *cells.box_xyxy.T, *cells.centroid_xy.T),
        *(cells.score, cells.stability, *cells.point_xy.T),
    )
    table: dict[str, NDArray[Any]] = dict(zip(CELL_COLUMNS, columns, strict=True))
    if pixel_size_um is not None:
        table["area_um2"] = cells.area_px * pixel_size_um[0] * pixel_size_um[1]
    if measurements is None:
        return table
    if len(measurements.perimeter_px) != len(cells):
        raise ValueError(f"measured {len(measurements.perimeter_px)} cells of {len(cells)}")
    table["perimeter_px"] = measurements.perimeter_px
    table["eccentricity"] = measurements.eccentricity_px
    if pixel_size_um is not None:
        table |= _lengths_in_um(cells, pixel_size_um)
    if measurements.perimeter_um is not None and measurements.eccentricity_um is not None:
        table["perimeter_um"] = measurements.perimeter_um
        table["eccentricity_um"] = measurements.eccentricity_um
    for channel in range(measurements.mean.shape[1]):
        table[f"mean_{channel}"] = measurements.mean[:, channel]
        table[f"min_{channel}"] = measurements.lowest[:, channel]
        table[f"max_{channel}"] = measurements.highest[:, channel]
        table[f"std_{channel}"] = measurements.deviation[:, channel]
    return table


def _lengths_in_um(
    cells: Cells, pixel_size_um: tuple[float, float]
) -> dict[str, NDArray[np.float64]]:
    y_um, x_um = pixel_size_um
    x0, y0, x1, y1 = cells.box_xyxy.T
    return {
        "centroid_x_um": cells.centroid_xy[:, 0] * x_um,
        "centroid_y_um": cells.centroid_xy[:, 1] * y_um,
        "width_um": (x1 - x0 + 1) * x_um,
        "height_um": (y1 - y0 + 1) * y_um,
    }


def texts_from_column(values: NDArray[Any]) -> list[str]:
    """Numbers as text: integers in full, float64 with 9 digits, other floats exact and short."""
    if values.dtype.kind in "ui":
        return [str(value) for value in values.tolist()]
    if values.dtype == np.float64:
        return [f"{value:.9g}" for value in values.tolist()]
    return [str(value) for value in values]


def write_cells_csv(
    path: str | PathLike[str],
    cells: Cells,
    pixel_size_um: tuple[float, float] | None = None,
) -> None:
    """Write one row a cell under ``CELL_COLUMNS``, and ``area_um2`` if the pixel size is known.

    Lengths are in pixels, boxes with both ends inclusive.

    Parameters
    ----------
    cells : the table.
    pixel_size_um : micrometres a pixel (y, x).
    """
    write_table_csv(path, table_from_cells(cells, pixel_size_um))


def write_table_csv(path: str | PathLike[str], table: Mapping[str, NDArray[Any]]) -> None:
    """Write columns [K] by name, with a header. Lines end in a newline character.

    Integers are written in full, float32 as short as can be without changing, float64 with 9
    digits.
    """
    with (
        atomic_path(Path(path)) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*map(texts_from_column, table.values()), strict=True))

"""Tables of cells as CSV. Imports numpy and the standard library."""

from __future__ import annotations

import csv
from os import PathLike
from pathlib import Path

import numpy as np

from cellseg1_rt.files import atomic_path
from cellseg1_rt.results import Cells

__all__ = ["CELL_COLUMNS", "write_cells_csv"]

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


def write_cells_csv(
    path: str | PathLike[str],
    cells: Cells,
    pixel_size_um: tuple[float, float] | None = None,
) -> None:
    """Write one row a cell under ``CELL_COLUMNS``, and ``area_um2`` if the pixel size is known.

    Lengths are in pixels, boxes with both ends inclusive. Numbers are as short as a float32 allows
    without changing (centroids too: 9 digits). Lines end in a newline character.

    Parameters
    ----------
    cells : the table.
    pixel_size_um : micrometres a pixel (y, x).
    """
    header = [*CELL_COLUMNS] if pixel_size_um is None else [*CELL_COLUMNS, "area_um2"]
    with (
        atomic_path(Path(path)) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for i in range(len(cells)):
            row: list[object] = [int(cells.label[i]), int(cells.area_px[i])]
            row += [int(edge) for edge in cells.box_xyxy[i]]
            row += [f"{float(mean):.9g}" for mean in cells.centroid_xy[i]]
            row += [_short(cells.score[i]), _short(cells.stability[i])]
            row += [_short(position) for position in cells.point_xy[i]]
            if pixel_size_um is not None:
                row.append(f"{int(cells.area_px[i]) * pixel_size_um[0] * pixel_size_um[1]:.9g}")
            writer.writerow(row)


def _short(value: np.float32) -> str:
    return str(np.float32(value))

"""Cells as GeoJSON for QuPath: detections with their measurements.

Outlines run along pixel edges, in pixels of the full-resolution image, with holes and with several
polygons where a cell is in several pieces. ``geojson`` reads them back to the same pixels.

Imports numpy and the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.files import atomic_path
from cellseg1_rt.formats.outlines import CellOutline, outlines_from_labels
from cellseg1_rt.formats.tables import texts_from_column

__all__ = ["write_detection_outlines", "write_detections"]


def write_detections(
    path: str | PathLike[str],
    labels: NDArray[Any],
    table: Mapping[str, NDArray[Any]],
    scale_xy: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Write a FeatureCollection of one detection a cell, in the order of labels, one a line.

    A detection is named by its label and carries the other columns as measurements, as QuPath
    writes them since 0.4. It has no id: QuPath gives one. Equal arguments give equal bytes.

    Parameters
    ----------
    labels : integer [H, W], 0 is background, cells are 1..K without gaps.
    table : columns [K], of which ``label`` is left out; finite numbers.
    scale_xy : pixels of the image that one pixel of the labels covers, x and y.
    """
    write_detection_outlines(path, outlines_from_labels(labels), table, scale_xy)


def write_detection_outlines(
    path: str | PathLike[str],
    outlines: Iterable[CellOutline],
    table: Mapping[str, NDArray[Any]],
    scale_xy: tuple[float, float] = (1.0, 1.0),
) -> None:
    """The same from outlines, one at a time, in the order of the table."""
    texts = [texts_from_column(values) for name, values in table.items() if name != "label"]
    names = [json.dumps(name) for name in table if name != "label"]
    with (
        atomic_path(Path(path)) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        file.write('{"type":"FeatureCollection","features":[')
        rows = zip(*texts, strict=True)
        for i, (outline, row) in enumerate(zip(outlines, rows, strict=True)):
            measurements = ",".join(f"{n}:{text}" for n, text in zip(names, row, strict=True))
            file.write(",\n" if i else "\n")
            file.write(
                f'{{"type":"Feature","geometry":{_geometry(outline, scale_xy)},'
                f'"properties":{{"objectType":"detection","name":"{outline.label}",'
                f'"measurements":{{{measurements}}}}}}}'
            )
        file.write("\n]}\n")


def _geometry(outline: CellOutline, scale_xy: tuple[float, float]) -> str:
    """The JSON of a polygon, or of a multipolygon if the cell is in several pieces."""
    polygons = [[_closed(ring, scale_xy) for ring in polygon] for polygon in outline.polygons]
    single = len(polygons) == 1
    geometry = {
        "type": "Polygon" if single else "MultiPolygon",
        "coordinates": polygons[0] if single else polygons,
    }
    return json.dumps(geometry, separators=(",", ":"))


def _closed(ring: NDArray[np.int64], scale_xy: tuple[float, float]) -> list[list[float]]:
    """Points with the first repeated at the end: whole numbers if the scale is 1."""
    points = np.concatenate([ring, ring[:1]])
    if scale_xy == (1.0, 1.0):
        return points.tolist()  # type: ignore[no-any-return]
    return (points * scale_xy).tolist()  # type: ignore[no-any-return]

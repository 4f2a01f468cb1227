"""Cells of a label map larger than memory, a window of some of them at a time.

Measures and outlines them with what does so for whole maps: a cell lies whole in its window, so
nothing changes by it. Imports numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.formats.label_rows import LabelRows
from cellseg1_rt.formats.measurements import Measurements, measure_cells
from cellseg1_rt.formats.outlines import CellOutline, outlines_from_labels

__all__ = ["CellWindow", "measure_in_windows", "outlines_in_windows", "windows_of_cells"]

_BLOCK_PX = 1024  # cells whose boxes begin in one block of this side share a window
_CELLS = 4096  # whose outlines are held at a time


@dataclass(frozen=True)
class CellWindow:
    """Some cells of a map.

    Attributes
    ----------
    rows, columns : where the window lies.
    cells : int64 [n], labels less 1, ascending.
    labels : int32 [h, w], these cells as 1..n in this order; 0 is everything else.
    """

    rows: slice
    columns: slice
    cells: NDArray[np.int64]
    labels: NDArray[np.int32]


def windows_of_cells(
    labels: LabelRows, boxes: NDArray[Any], cells: NDArray[np.int64]
) -> Iterator[CellWindow]:
    """Windows that hold some cells, each cell whole and in one of them.

    Parameters
    ----------
    boxes : int [K, 4] of all cells 1..K, (x0, y0, x1, y1), both ends inclusive.
    cells : int64 [n], labels less 1.
    """
    blocks = boxes[cells, :2] // _BLOCK_PX
    order = np.lexsort((cells, blocks[:, 0], blocks[:, 1]))
    is_first = np.any(np.diff(blocks[order], axis=0, prepend=-1) != 0, axis=1)
    for members in np.split(cells[order], np.flatnonzero(is_first)[1:]):
        if len(members) == 0:  # of no cells
            continue
        x0, y0 = boxes[members, :2].min(axis=0).tolist()
        x1, y1 = boxes[members, 2:].max(axis=0).tolist()
        rows, columns = slice(y0, y1 + 1), slice(x0, x1 + 1)
        read = labels.read(rows, columns)
        place = np.searchsorted(members, read.astype(np.int64) - 1).clip(max=len(members) - 1)
        numbers = np.where(members[place] == read.astype(np.int64) - 1, place + 1, 0)
        yield CellWindow(rows, columns, members, numbers.astype(np.int32))


def measure_in_windows(
    labels: LabelRows,
    boxes: NDArray[Any],
    read_pixels: Callable[[slice, slice], NDArray[Any]],
    pixel_size_um: tuple[float, float] | None = None,
) -> Measurements:
    """What ``measure_cells`` measures, with no more than a window of pixels in memory.

    Parameters
    ----------
    boxes : int [K, 4] of all cells.
    read_pixels : samples [h, w, C] of a window (rows, columns).
    pixel_size_um : micrometres a pixel (y, x).
    """
    nothing = np.zeros((1, 1), np.int32)
    corner = read_pixels(slice(0, 1), slice(0, 1))
    parts = [measure_cells(nothing, corner, pixel_size_um)]
    cells = [np.zeros(0, np.int64)]
    for window in windows_of_cells(labels, boxes, np.arange(len(boxes))):
        pixels = read_pixels(window.rows, window.columns)
        parts.append(measure_cells(window.labels, pixels, pixel_size_um))
        cells.append(window.cells)
    order = np.argsort(np.concatenate(cells))

    def column(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)[order]

    return Measurements(**{name: column(name) for name in Measurements.__dataclass_fields__})


def outlines_in_windows(labels: LabelRows, boxes: NDArray[Any]) -> Iterator[CellOutline]:
    """What ``outlines_from_labels`` gives, with no more than some windows in memory."""
    for first in range(0, len(boxes), _CELLS):
        cells = np.arange(first, min(first + _CELLS, len(boxes)))
        found: list[CellOutline] = []
        for window in windows_of_cells(labels, boxes, cells):
            corner = np.array([window.columns.start, window.rows.start])
            for outline in outlines_from_labels(window.labels):
                polygons = tuple(
                    tuple(ring + corner for ring in polygon) for polygon in outline.polygons
                )
                label = int(window.cells[outline.label - 1]) + 1
                found.append(replace(outline, label=label, polygons=polygons))
        yield from sorted(found, key=lambda outline: outline.label)

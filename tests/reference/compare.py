"""Whether a result is the reference's: label maps pixel by pixel, tables row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from reference.records import ReferenceResult

POINT_TOLERANCE_PX = 1e-4
"""Points are float32 in one place and float64 in the other."""
FIRM = 1e-4
"""Scores and logits of two float32 implementations differ by less."""


def table_of(result: ReferenceResult) -> dict[str, np.ndarray]:
    """The reference's cells as columns, by the names of the runtime's table."""
    cells, count = result.cells, len(result.cells)
    return {
        "label": np.array([cell.label for cell in cells], int),
        "area_px": np.array([cell.area_px for cell in cells], int),
        "box_xyxy": np.array([cell.box_xyxy for cell in cells], int).reshape(count, 4),
        "centroid_xy": np.array([cell.centroid_xy for cell in cells], float).reshape(count, 2),
        "score": np.array([cell.score for cell in cells], np.float32),
        "stability": np.array([cell.stability for cell in cells], np.float32),
        "point_xy": np.array([cell.point_xy for cell in cells], float).reshape(count, 2),
    }


def differs(a: ReferenceResult, b: ReferenceResult) -> bool:
    """Whether two results of the reference differ in a label or in a cell."""
    if not np.array_equal(a.labels, b.labels):
        return True
    first, second = table_of(a), table_of(b)
    return any(
        len(first[name]) != len(second[name])
        or not np.allclose(first[name], second[name], rtol=0, atol=1e-6, equal_nan=True)
        for name in first
    )


def assert_same(result: Any, reference: ReferenceResult) -> None:
    """Fail unless a runtime's ``Result`` is the reference's.

    Labels, areas, boxes, scores and stabilities must be equal; points and centroids up to
    rounding.
    """
    np.testing.assert_array_equal(result.labels, reference.labels)
    expected = table_of(reference)
    for name in ("label", "area_px", "box_xyxy", "score", "stability"):
        np.testing.assert_array_equal(getattr(result.cells, name), expected[name], err_msg=name)
    for name in ("centroid_xy", "point_xy"):
        np.testing.assert_allclose(
            getattr(result.cells, name),
            expected[name],
            rtol=0,
            atol=POINT_TOLERANCE_PX,
            err_msg=name,
        )


def assert_same_within_margins(result: Any, reference: ReferenceResult, firm: float = FIRM) -> None:
    """Fail unless a runtime's ``Result`` is the reference's but for decisions that were too close.

    A patch of pixels whose labels differ must meet a mask one of whose decisions has a margin below
    ``firm``. Labels are compared by their cells' prompts, since one cell more shifts all numbers.
    Where none differs, the tables must be equal too, stabilities up to pixels that close. Rows are
    matched by their prompts: a hidden pixel more or less can swap the numbers of two cells.
    """
    ours = points_on_pixels(result.labels, result.cells.point_xy)
    theirs = points_on_pixels(reference.labels, table_of(reference)["point_xy"])
    differing = np.abs(ours - theirs).max(axis=-1) > POINT_TOLERANCE_PX
    patches, count = ndimage.label(differing, structure=np.ones((3, 3)))
    for patch in range(1, count + 1):
        pixels = patches == patch
        margin = reference.min_margin_near(pixels)
        y, x = (int(values[0]) for values in np.nonzero(pixels))
        assert margin < firm, (
            f"{np.count_nonzero(pixels)} pixels from ({x}, {y}) on differ; "
            f"the closest decision there has a margin of {margin:.1e}"
        )
    if not count:
        assert_same_rows(result, reference, firm)


def assert_same_rows(result: Any, reference: ReferenceResult, firm: float) -> None:
    """Fail unless the tables have the same cells, with scores and stabilities up to ``firm``."""
    expected = table_of(reference)
    rows, rows_expected = row_order(result.cells.point_xy), row_order(expected["point_xy"])
    for name, tolerance in (
        ("point_xy", POINT_TOLERANCE_PX),
        ("area_px", 0),
        ("box_xyxy", 0),
        ("centroid_xy", POINT_TOLERANCE_PX),
        ("score", firm),
    ):
        np.testing.assert_allclose(
            getattr(result.cells, name)[rows],
            expected[name][rows_expected],
            rtol=0,
            atol=tolerance,
            err_msg=name,
        )
    for row, row_expected in zip(rows, rows_expected, strict=True):
        cell, stability = reference.cells[row_expected], result.cells.stability[row]
        least, greatest = reference.log.evidence[cell.prompt].stability_range(firm)
        unknown = np.isnan(stability) and np.isnan(cell.stability)
        assert unknown or least - 1e-6 <= stability <= greatest + 1e-6, f"cell {cell.label}"


def row_order(points: np.ndarray) -> np.ndarray:
    """Rows by their prompts' (y, x), int [K]."""
    return np.lexsort(np.round(np.asarray(points, float).reshape(-1, 2), 3).T)


def points_on_pixels(labels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Float [H, W, 2]: the prompt of each pixel's cell, far outside for the background."""
    table = np.concatenate([[(-1e9, -1e9)], np.asarray(points, float).reshape(-1, 2)])
    return table[labels]

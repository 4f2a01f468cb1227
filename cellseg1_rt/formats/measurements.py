"""What can be measured of each cell: outline, elongation, and the brightness of its pixels.

Computed on demand from a label map and the image as read, before any normalisation. Area, box and
centroid are in ``Cells`` already. Imports numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError

__all__ = ["Measurements", "measure_cells", "pixels_under_labels"]


@dataclass(frozen=True)
class Measurements:
    """One row a cell, in the order of the labels 1..K. C is the number of the image's channels.

    Attributes
    ----------
    perimeter_px : float64 [K], in pixels of the labels.
    eccentricity_px : float64 [K], 0 (round) to 1, of the shape in pixels.
    perimeter_um, eccentricity_um : the same of the shape in micrometres; None without a pixel size.
    lowest, highest : [K, C], the image's dtype (uint8 for bool).
    mean, deviation : float64 [K, C]; the deviation is that of a population, divided by the area.
    """

    perimeter_px: NDArray[np.float64]
    eccentricity_px: NDArray[np.float64]
    perimeter_um: NDArray[np.float64] | None
    eccentricity_um: NDArray[np.float64] | None
    lowest: NDArray[Any]
    highest: NDArray[Any]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def measure_cells(
    labels: NDArray[Any], pixels: NDArray[Any], pixel_size_um: tuple[float, float] | None = None
) -> Measurements:
    """Measure every cell of a label map in one pass over its pixels.

    Parameters
    ----------
    labels : integer [H, W], 0 is background, cells are 1..K without gaps.
    pixels : [H, W] or [H, W, C], real numbers, finite.
    pixel_size_um : micrometres a pixel of the labels (y, x), which need not be equal.

    Raises
    ------
    InputError : if the two do not fit each other or a label is missing.
    """
    if pixels.shape[:2] != labels.shape:
        raise InputError(
            "labels that do not fit the image",
            where="measurements",
            got=f"labels {labels.shape} for pixels {pixels.shape}",
            expected="the same height and width",
        )
    rows, columns = np.nonzero(labels)
    of_pixels = labels[rows, columns]
    order = np.argsort(of_pixels, kind="stable")
    rows, columns = rows[order], columns[order]
    areas = np.bincount(of_pixels)[1:]
    if not areas.all():
        raise InputError(
            "a label that no pixel carries",
            where="measurements",
            got=f"no label {int(np.argmin(areas)) + 1:,} below {len(areas):,}",
            expected="labels 1..K without gaps",
        )
    starts = np.cumsum(areas) - areas
    crossings = _crossings(labels, len(areas))
    moments = _second_moments(rows, columns, starts, areas)
    in_um = None if pixel_size_um is None else _perimeters(crossings, pixel_size_um)
    shape_um = None if pixel_size_um is None else _eccentricities(moments, pixel_size_um)
    planes = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    return Measurements(
        _perimeters(crossings, (1.0, 1.0)),
        _eccentricities(moments, (1.0, 1.0)),
        in_um,
        shape_um,
        *_brightness(planes[rows, columns], starts, areas),
    )


def pixels_under_labels(pixels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """For each pixel of a label map, the pixel of the image [H, W] or [H, W, C] under its centre.

    The same array where the sizes agree. Otherwise values are taken, not blended, so they are ones
    that were measured.

    Parameters
    ----------
    shape : height and width of the labels.
    """
    if pixels.shape[:2] == tuple(shape):
        return pixels
    rows, columns = (
        (2 * np.arange(size) + 1) * of_image // (2 * size)
        for size, of_image in zip(shape, pixels.shape[:2], strict=True)
    )
    return np.asarray(pixels[rows[:, np.newaxis], columns])


def _crossings(labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    """How often lines of pixels enter or leave each cell; what is outside the image is no cell.

    Returns
    -------
    int64 [4, K]: along rows, columns, and the diagonals down to the right and down to the left.
    """
    padded = np.pad(labels, 1)
    here, right, below, below_right = (
        padded[top : padded.shape[0] - 1 + top, left : padded.shape[1] - 1 + left]
        for top, left in ((0, 0), (0, 1), (1, 0), (1, 1))
    )
    found = np.zeros((4, count), np.int64)
    pairs = ((here, right), (here, below), (here, below_right), (right, below))
    for direction, (first, second) in enumerate(pairs):
        differs = first != second
        for side in (first, second):
            found[direction] += np.bincount(side[differs], minlength=count + 1)[1:]
    return found


def _perimeters(
    crossings: NDArray[np.int64], pixel_size: tuple[float, float]
) -> NDArray[np.float64]:
    """Perimeters by the formula of Cauchy and Crofton in four directions.

    The length of a curve is half the integral, over directions from 0 to π and all parallel lines,
    of how often a line crosses it. Each direction stands for the angles nearest to it and each line
    for the space to the next: Legland, Kiêu and Devaux, Computation of Minkowski measures on 2D and
    3D binary images, Image Analysis & Stereology 26 (2007), 83-92. With square pixels it is
    scikit-image's ``perimeter_crofton(directions=4)``.
    """
    y, x = pixel_size
    diagonal = np.arctan2(y, x)
    angles = np.array([diagonal, np.pi / 2 - diagonal, np.pi / 4, np.pi / 4])
    spacing = np.array([y, x, x * y / np.hypot(x, y), x * y / np.hypot(x, y)])
    return np.asarray((angles * spacing / 2) @ crossings)


def _second_moments(
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    starts: NDArray[np.int64],
    areas: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Central second moments [3, K] (yy, xx, xy) of areas made of square pixels, by area.

    A pixel's own extent counts: 1/12, the second moment of a unit square about its centre (Haralick
    and Shapiro, Computer and Robot Vision I, 1992, appendix A). Sums are of whole numbers counted
    from each cell's first pixel, so they are exact.
    """
    y = rows - np.repeat(rows[starts], areas)
    x = columns - np.repeat(columns[starts], areas)
    mean_y, mean_x, yy, xx, xy = (
        np.add.reduceat(values, starts) / areas for values in (y, x, y * y, x * x, x * y)
    )
    return np.stack([yy - mean_y**2 + 1 / 12, xx - mean_x**2 + 1 / 12, xy - mean_y * mean_x])


def _eccentricities(
    moments: NDArray[np.float64], pixel_size: tuple[float, float]
) -> NDArray[np.float64]:
    """Of the ellipse with the same second moments: √(1 − λ₂/λ₁), λ₁ ≥ λ₂ their eigenvalues."""
    y, x = pixel_size
    yy, xx, xy = moments * np.array([[y * y], [x * x], [y * x]])
    half_gap = np.hypot((yy - xx) / 2, xy)
    return np.asarray(np.sqrt(2 * half_gap / ((yy + xx) / 2 + half_gap)))


def _brightness(
    values: NDArray[Any], starts: NDArray[np.int64], areas: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Lowest, highest, mean and deviation, each [K, C], of pixels [N, C] sorted by cell."""
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    lowest = np.minimum.reduceat(values, starts)
    highest = np.maximum.reduceat(values, starts)
    real = values.astype(np.float64)
    mean = np.add.reduceat(real, starts) / areas[:, np.newaxis]
    real -= np.repeat(mean, areas, axis=0)
    deviation = np.sqrt(np.add.reduceat(real * real, starts) / areas[:, np.newaxis])
    return lowest, highest, mean, deviation

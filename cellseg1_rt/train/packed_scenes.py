"""Cells packed side by side: sheets, bent rows and clumps, as in tissue, colonies and embryos.

Cells are the Voronoi cells of a jittered, bent lattice with gaps between them. Pure functions of a
random generator; numpy, OpenCV and SciPy only.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["pack_cells", "smooth_noise"]

WIDTHS_PX = (7.0, 40.0)
MOST_ELONGATED = 3.0


def pack_cells(rng: np.random.Generator, size: int) -> NDArray[np.int32]:
    """Labels [size, size] of cells from 7 px wide, up to three times as long, all side by side."""
    low, high = np.log(WIDTHS_PX[0]), np.log(min(WIDTHS_PX[1], size / 5))
    width = float(np.exp(rng.uniform(low, high)))
    length = width * float(rng.uniform(1, MOST_ELONGATED))
    place = _bent_lattice_places(rng, size, width, length)
    seeds = _seeds(rng, place)
    distance, nearest = cKDTree(seeds).query(place.reshape(-1, 2), k=2)
    gap, reach = rng.uniform(0.03, 0.25), rng.uniform(0.5, 0.9)
    inside = (distance[:, 1] - distance[:, 0] > gap) & (distance[:, 0] < reach)
    row, column = rng.integers(0, size, 2)
    kept = _is_kept(rng, seeds, place[row, column])
    labels = np.where(inside & kept[nearest[:, 0]], nearest[:, 0] + 1, 0).reshape(size, size)
    return np.asarray(labels, np.int32)


def smooth_noise(rng: np.random.Generator, size: int, scale_px: float) -> NDArray[np.float32]:
    """Zero-mean, unit-variance noise [size, size] whose features are about ``scale_px`` wide."""
    cells = max(2, int(size / scale_px) + 2)
    noise = rng.normal(0, 1, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _bent_lattice_places(
    rng: np.random.Generator, size: int, width: float, length: float
) -> NDArray[np.float64]:
    """Where each pixel lies in the lattice, [size, size, 2]; the lattice's own step is 1."""
    bend_px = rng.uniform(50, 250)
    # Bent by less than a tenth of what it is bent over, the lattice does not fold.
    x, y = (
        axis + rng.uniform(0, 0.1) * bend_px * smooth_noise(rng, size, bend_px)
        for axis in np.mgrid[:size, :size][::-1]
    )
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    return np.stack([along / width, across / length], axis=2)


def _seeds(rng: np.random.Generator, place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points [K, 2] of a lattice whose rows are shifted by half a step, each moved a little."""
    first, last = place.min(axis=(0, 1)) - 2, place.max(axis=(0, 1)) + 2
    columns, rows = np.arange(np.floor(first[0]), last[0]), np.arange(np.floor(first[1]), last[1])
    u, v = np.meshgrid(columns, rows)
    lattice = np.stack([u + 0.5 * (v % 2), v], axis=2).reshape(-1, 2)
    return np.asarray(lattice + rng.normal(0, rng.uniform(0.03, 0.2), lattice.shape))


def _is_kept(
    rng: np.random.Generator, seeds: NDArray[np.float64], middle: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which seeds are cells [K]: a sheet, rows or a clump around ``middle``; less some."""
    there = rng.random(len(seeds)) > rng.uniform(0, 0.2)
    form = rng.choice(["sheet", "rows", "clump"], p=[0.3, 0.4, 0.3])
    if form == "rows":
        there &= np.abs(seeds[:, 1] - middle[1]) < rng.uniform(0.5, 2.5)
    elif form == "clump":
        there &= np.hypot(*(seeds - middle).T) < rng.uniform(1.5, 6)
    return np.asarray(there)

"""The data side of training, cell by cell and pixel by pixel: tiles, points, augmentation.

Imports NumPy and SciPy, and nothing of the package.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Pixels = set[tuple[int, int]]


def tile_starts(length: int, tile: int = 256) -> list[int]:
    if length <= tile:
        return [0]
    count = math.ceil(2 * length / tile)
    return [(length - tile) * i // (count - 1) for i in range(count)]


def repeated(count: int, smallest: int = 32) -> int:
    return count if count >= smallest else count * (smallest // count + 1)


def is_usable(mask: NDArray[np.bool_], smallest: int = 100, band: int = 20) -> bool:
    """Larger than ``smallest`` px and not wholly in the band at an edge. (Exclusive stops.)"""
    if mask.sum() <= smallest:
        return False
    height, width = mask.shape
    y, x = np.nonzero(mask)
    if y.max() + 1 < band or y.min() > height - band:
        return False
    return not (x.max() + 1 < band or x.min() > width - band)


def usable_labels(labels: NDArray[np.int32], smallest: int = 100, band: int = 20) -> set[int]:
    present = set(np.unique(labels).tolist()) - {0}
    return {label for label in present if is_usable(labels == label, smallest, band)}


def core_of_cell(labels: NDArray[np.int32], label: int, share: float = 0.2) -> Pixels:
    """The (x, y) of a cell that a point may take, every distance by hand."""
    y, x = np.nonzero(labels == label)
    top, left = int(y.min()), int(x.min())
    box = labels[top : y.max() + 1, left : x.max() + 1] == label
    outside = np.argwhere(~box)
    depth: dict[tuple[int, int], float] = {}
    for row, column in np.argwhere(box):
        squared = ((outside - (row, column)) ** 2).sum(axis=1)
        place = (left + int(column), top + int(row))
        depth[place] = float(squared.min()) if len(squared) else math.inf
    return _deepest(depth, share)


def core_of_background(labels: NDArray[np.int32], share: float = 0.2) -> Pixels:
    height, width = labels.shape
    with_border = np.zeros((height + 2, width + 2), bool)
    with_border[1:-1, 1:-1] = labels == 0
    distance = ndimage.distance_transform_edt(with_border)
    depth = {}
    for row, column in np.argwhere(labels == 0):
        squared = round(float(distance[row + 1, column + 1]) ** 2)
        depth[(int(column), int(row))] = float(squared)
    return _deepest(depth, share)


def _deepest(depth: dict[tuple[int, int], float], share: float) -> Pixels:
    if not depth:
        return set()
    falling = sorted(depth.values(), reverse=True)
    limit = falling[max(1, int(share * len(falling))) - 1]
    return {place for place, value in depth.items() if value >= limit}


def background_count(labels: NDArray[np.int32]) -> int:
    cells = len(set(np.unique(labels).tolist()) - {0})
    background = int((labels == 0).sum())
    foreground = int((labels != 0).sum())
    if background == 0 or foreground / background > 5:
        return 0
    candidates = len(core_of_background(labels))
    wanted = math.ceil(0.5 * cells) if cells else 1
    return min(wanted, 30, int(candidates / 1000) + 1)


def jittered(value: int, brightness: float, contrast: float) -> int:
    return int(min(255.0, max(0.0, value * (1 + contrast) + 255 * brightness)))


def moved_point(
    x: int,
    y: int,
    size: tuple[int, int],
    *,
    flip_x: bool,
    flip_y: bool,
    crop: tuple[int, int, int, int] | None,
    affine: tuple[float, float, float, float] | None,
    side: int,
) -> tuple[float, float]:
    """Where the centre of pixel (x, y) of an image of ``size`` goes; pixel 0 spans 0 to 1.

    ``affine`` is (shift x, shift y, scale, degrees), shifts as shares of the sides.
    """
    height, width = size
    u, v = x + 0.5, y + 0.5
    if flip_x:
        u = width - u
    if flip_y:
        v = height - v
    if crop is not None:
        top, left, crop_height, crop_width = crop
        u, v = (u - left) * side / crop_width, (v - top) * side / crop_height
        height = width = side
    if affine is not None:
        shift_x, shift_y, scale, degrees = affine
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        du, dv = u - width / 2, v - height / 2
        u = scale * (cos * du - sin * dv) + width / 2 + shift_x * width
        v = scale * (sin * du + cos * dv) + height / 2 + shift_y * height
    return u * side / width, v * side / height


def warped(
    image: NDArray[np.uint8],
    labels: NDArray[np.int32],
    affine: tuple[float, float, float, float],
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Image (bilinear) and labels (nearest) under ``affine``, zero beyond the border."""
    height, width = labels.shape
    shift_x, shift_y, scale, degrees = affine
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = np.mgrid[:height, :width]
    du = x + 0.5 - width / 2 - shift_x * width
    dv = y + 0.5 - height / 2 - shift_y * height
    u = (cos * du + sin * dv) / scale + width / 2 - 0.5
    v = (-sin * du + cos * dv) / scale + height / 2 - 0.5
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)))
    u0 = np.clip(np.floor(u).astype(int), -2, width)
    v0 = np.clip(np.floor(v).astype(int), -2, height)
    pixels = np.zeros(image.shape)
    for row, column, weight in (
        (v0, u0, (v0 + 1 - v) * (u0 + 1 - u)),
        (v0, u0 + 1, (v0 + 1 - v) * (u - u0)),
        (v0 + 1, u0, (v - v0) * (u0 + 1 - u)),
        (v0 + 1, u0 + 1, (v - v0) * (u - u0)),
    ):
        seen = (row >= -1) & (row <= height) & (column >= -1) & (column <= width)
        values = padded[np.clip(row + 1, 0, height + 1), np.clip(column + 1, 0, width + 1)]
        pixels += np.where(seen, weight, 0)[..., None] * values
    row, column = np.floor(v + 0.5).astype(int), np.floor(u + 0.5).astype(int)
    seen = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    nearest = labels[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return pixels, np.where(seen, nearest, 0).astype(np.int32)


def random_cells(
    rng: np.random.Generator, height: int, width: int, count: int, radius: tuple[float, float]
) -> NDArray[np.int32]:
    """Overlapping ellipses, the later one on top, numbered 1..n without gaps."""
    labels = np.zeros((height, width), np.int32)
    y, x = np.mgrid[:height, :width]
    for label in range(1, count + 1):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = rng.uniform(*radius, 2)
        labels[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = label
    _, numbered = np.unique(labels, return_inverse=True)
    first = 0 if (labels == 0).any() else 1
    return (numbered.reshape(labels.shape) + first).astype(np.int32)

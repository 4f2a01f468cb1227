"""Tiles: the square pieces of annotated images that LoRA training draws its samples from.

Numpy and OpenCV only. What is random about a sample is in ``lora_samples``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.contract import PIXEL_MEAN
from cellseg1_rt.errors import InputError
from cellseg1_rt.geometry import crops_of_image
from cellseg1_rt.train.lora_sample_settings import SampleSettings

__all__ = ["Tile", "number_cells", "require_pair", "tile_starts", "tiles_of_pairs"]


@dataclass(frozen=True)
class Tile:
    """A square piece of an annotated image.

    Attributes
    ----------
    image : uint8 [T, T, 3], RGB.
    labels : int32 [T, T], 0 is background, the cells are numbered 1..n without gaps; -1 is where
        nothing is known: beyond the image, or held out.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]


def tiles_of_pairs(
    pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.int32]]],
    settings: SampleSettings,
    crops: int,
) -> list[Tile]:
    """The tiles of all pairs, one pair after the other, row by row.

    A list shorter than ``smallest_set`` is repeated (smallest_set // length + 1) times, as a whole.

    Parameters
    ----------
    pairs : image uint8 [H, W, 3] RGB and labels int32 [H, W], 0 is background, -1 is not known.
    crops : layers of crops that inference will look at, where ``windows`` is ``crops``.

    Raises
    ------
    InputError : if there is no pair, or a pair's arrays are of another kind or differ in size.
    """
    if not pairs:
        raise InputError("no annotated image to train on", expected="one pair at least")
    tiles: list[Tile] = []
    for number, (image, labels) in enumerate(pairs, start=1):
        require_pair(image, labels, where=f"training pair {number}", lowest=-1)
        if settings.windows == "crops":
            tiles += _crops_of_pair(image, labels, crops)
        else:
            tiles += _tiles_of_pair(*_at_least_a_tile(image, labels, settings.tile_px), settings)
    if len(tiles) < settings.smallest_set:
        tiles *= settings.smallest_set // len(tiles) + 1
    return tiles


def tile_starts(length: int, tile_px: int) -> list[int]:
    """First pixels of the tiles along a side of ``length`` px (no shorter than a tile).

    Tiles overlap by half or more, and the last one ends where the side does.
    """
    count = 1 if length <= tile_px else -(-2 * length // tile_px)
    return [int(start) for start in np.linspace(0, length - tile_px, count)]


def _tiles_of_pair(
    image: NDArray[np.uint8], labels: NDArray[np.int32], settings: SampleSettings
) -> list[Tile]:
    side = settings.tile_px
    height, width = labels.shape
    tiles = []
    for top in tile_starts(height, side):
        for left in tile_starts(width, side):
            window = (slice(top, top + side), slice(left, left + side))
            tiles.append(Tile(image[window], number_cells(labels[window])))
    return tiles


def _crops_of_pair(image: NDArray[np.uint8], labels: NDArray[np.int32], crops: int) -> list[Tile]:
    """The windows of inference, made square as it does: to the right and below, in mean colour."""
    tiles = []
    height, width = labels.shape
    for crop in crops_of_image(height, width, crops):
        window = (slice(crop.y0, crop.y1), slice(crop.x0, crop.x1))
        side = max(crop.height, crop.width)
        square = np.tile(np.rint(PIXEL_MEAN).astype(np.uint8), (side, side, 1))
        numbers = np.full((side, side), -1, np.int32)
        square[: crop.height, : crop.width] = image[window]
        numbers[: crop.height, : crop.width] = labels[window]
        tiles.append(Tile(square, number_cells(numbers)))
    return tiles


def _at_least_a_tile(
    image: NDArray[np.uint8], labels: NDArray[np.int32], tile_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Both enlarged until the short side is a tile's, if it is not."""
    height, width = labels.shape
    factor = tile_px / min(height, width)
    if factor <= 1:
        return image, labels
    size = (int(width * factor + 0.5), int(height * factor + 0.5))
    larger = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR_EXACT)
    return (
        np.asarray(larger, np.uint8),
        np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.int32),
    )


def number_cells(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """The same cells as 1..n, in the order of their labels; 0 and -1 stay what they are."""
    present, places = np.unique(labels, return_inverse=True)
    first = 1 - np.count_nonzero(present <= 0)
    numbers = (places + first).reshape(labels.shape).astype(np.int32)
    return np.where(labels > 0, numbers, labels).astype(np.int32)


def require_pair(image: NDArray[Any], labels: NDArray[Any], *, where: str, lowest: int = 0) -> None:
    """Refuse what is not an image uint8 [H, W, 3] with labels int32 [H, W] from ``lowest`` on.

    Raises
    ------
    InputError : that names ``where``.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(
            "not an RGB image",
            where=where,
            got=f"{image.dtype} {list(image.shape)}",
            expected="uint8 [H, W, 3]",
        )
    if labels.dtype != np.int32 or labels.shape != image.shape[:2]:
        raise InputError(
            "labels do not match the image",
            where=where,
            got=f"{labels.dtype} {list(labels.shape)}",
            expected=f"int32 {list(image.shape[:2])}",
        )
    if labels.size == 0:
        raise InputError("an image without pixels", where=where, got=list(image.shape))
    if labels.min() < lowest:
        raise InputError(f"a label below {lowest}", where=where, got=int(labels.min()))

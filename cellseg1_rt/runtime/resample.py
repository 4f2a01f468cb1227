"""How a crop's pixels read the low-resolution logits: rule 3's two bilinear steps, axis by axis.

Logits go from cells (4g) to input pixels (S), are cut to the valid part, and go to the crop's size.
Both steps are separable and local, so one table an axis says it all. Imports numpy only.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["AxisMap", "axis_map"]


class AxisMap(NamedTuple):
    """One axis from cells to the crop's pixels; a tuple, so that kernels take it as it is.

    A pixel is a weighted mean of two input pixels, an input pixel of two cells; ``share`` is the
    weight of ``after``, 0..1. Cells of the padding are read by the last valid input pixels.

    Attributes
    ----------
    input_before, input_after : int32 [n], for each of the crop's pixels, 0..v-1.
    input_share : float32 [n].
    cell_before, cell_after : int32 [v], for each valid input pixel, 0..4g-1.
    cell_share : float32 [v].
    lowest_cell, highest_cell : int32 [n], first and last cell that a pixel reads, at most 3 apart.
    first_reader, end_reader : int32 [4g]; the pixels that read a cell are ``first..end-1``.
    """

    input_before: NDArray[np.int32]
    input_after: NDArray[np.int32]
    input_share: NDArray[np.float32]
    cell_before: NDArray[np.int32]
    cell_after: NDArray[np.int32]
    cell_share: NDArray[np.float32]
    lowest_cell: NDArray[np.int32]
    highest_cell: NDArray[np.int32]
    first_reader: NDArray[np.int32]
    end_reader: NDArray[np.int32]


@lru_cache(maxsize=64)
def axis_map(cells: int, model_px: int, valid_px: int, crop_px: int) -> AxisMap:
    """The map of one axis.

    Parameters
    ----------
    cells : 4g, logits along the axis.
    model_px : side S of the model's input.
    valid_px : pixels of it that are not padding.
    crop_px : pixels of the crop.
    """
    cell_before, cell_after, cell_share = _linear_taps(cells, model_px)
    input_before, input_after, input_share = _linear_taps(valid_px, crop_px)
    lowest, highest = cell_before[input_before], cell_after[input_after]
    every = np.arange(cells)
    axis = AxisMap(
        input_before=input_before,
        input_after=input_after,
        input_share=input_share,
        cell_before=cell_before[:valid_px],
        cell_after=cell_after[:valid_px],
        cell_share=cell_share[:valid_px],
        lowest_cell=lowest,
        highest_cell=highest,
        first_reader=np.searchsorted(highest, every, "left").astype(np.int32),
        end_reader=np.searchsorted(lowest, every, "right").astype(np.int32),
    )
    for array in axis:
        array.flags.writeable = False
    return axis


def _linear_taps(
    old: int, new: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """What each of ``new`` samples reads of ``old``: before, after, and the share of ``after``.

    In float32 throughout, as PyTorch's ``interpolate(mode="bilinear", align_corners=False)``
    computes source positions (ATen/native/UpSample.h).
    """
    half = np.float32(0.5)
    scale = np.float32(old) / np.float32(new)
    place = np.maximum(scale * (np.arange(new, dtype=np.float32) + half) - half, np.float32(0))
    before = np.minimum(place.astype(np.int32), old - 1).astype(np.int32)
    after = np.minimum(before + 1, old - 1).astype(np.int32)
    share = np.clip(place - before.astype(np.float32), 0, 1).astype(np.float32)
    return before, after, share

"""The steps of candidates and NMS on the CPU; ``on_cuda`` has the same ones for a GPU.

Each function makes room for what its kernel writes, and calls it. Imports numpy and the kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime.kernels import logits as kernels
from cellseg1_rt.runtime.kernels import overlaps
from cellseg1_rt.runtime.packed import PackedMasks
from cellseg1_rt.runtime.resample import AxisMap

__all__ = ["evaluate_masks", "find_extents", "gather_words", "keep_greedily", "take_logits"]


def take_logits(logits: Any) -> NDArray[np.float32]:
    """Logits [M, c, c] as the kernels want them: float32, C order, read only."""
    taken = np.ascontiguousarray(logits, np.float32).view()
    taken.flags.writeable = False  # whoever made them: one compiled kernel for all
    return taken


def find_extents(
    logits: NDArray[np.float32], floor: float
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Extents [M, c, 2], bounds [M, 4] and finiteness [M] of ``kernels.logits.find_extents``."""
    count, cells = logits.shape[:2]
    extents, bounds = np.empty((count, cells, 2), np.int32), np.empty((count, 4), np.int32)
    finite = np.empty(count, bool)
    bits = logits.view(np.int32)
    kernels.find_extents(logits, bits, np.float32(floor), extents, bounds, finite)
    return extents, bounds, finite


def evaluate_masks(
    logits: NDArray[np.float32],
    extents: NDArray[np.int32],
    regions: NDArray[np.int32],
    rows: AxisMap,
    columns: AxisMap,
    crop_x0: int,
    offset: float,
    start: NDArray[np.int64],
    size: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint32]]:
    """Counts [M, 3], boxes [M, 4] and words [size] of ``kernels.logits.evaluate_masks``."""
    counts, boxes = np.zeros((len(logits), 3), np.int64), np.zeros((len(logits), 4), np.int32)
    words = np.zeros(size, np.uint32)
    kernels.evaluate_masks(
        logits, extents, regions, rows, columns, crop_x0, np.float32(offset),
        start, words, counts, boxes,
    )  # fmt: skip
    return counts, boxes, words


def gather_words(
    words: NDArray[np.uint32],
    start: NDArray[np.int64],
    regions: NDArray[np.int32],
    crop_x0: int,
    chosen: NDArray[np.int64],
    boxes: NDArray[np.int32],
    new_start: NDArray[np.int64],
    size: int,
) -> NDArray[np.uint32]:
    """Words [size] of ``kernels.logits.gather_words``."""
    gathered = np.zeros(size, np.uint32)
    kernels.gather_words(words, start, regions, crop_x0, chosen, boxes, new_start, gathered)
    return gathered


def keep_greedily(
    order: NDArray[np.int64],
    masks: PackedMasks,
    pair_boxes: NDArray[np.int32],
    threshold: float,
) -> NDArray[np.bool_]:
    """Which masks are kept, bool [N] by their places in ``order``; see ``kernels.overlaps``."""
    kept = np.empty(len(order), bool)
    overlaps.keep_greedily(
        order, pair_boxes, masks.box, masks.area_px, masks.start, masks.words,
        np.float32(threshold), kept,
    )  # fmt: skip
    return kept

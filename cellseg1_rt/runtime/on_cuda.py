"""The steps of candidates and NMS on an NVIDIA GPU; ``on_cpu`` has the same ones for the CPU.

Logits come as any array with ``__cuda_array_interface__`` (numba's, PyCUDA's, PyTorch's, CuPy's)
and are not copied; packed masks stay on the device. What the host decides by comes back: bounds,
counts and boxes. Import this module only where there are such arrays.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numba.cuda
import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import BundleError
from cellseg1_rt.extras import require
from cellseg1_rt.runtime.packed import PackedMasks
from cellseg1_rt.runtime.resample import AxisMap

require("numba_cuda", extra="gpu", needed_for="masks on a GPU")
from cellseg1_rt.runtime.kernels import cuda as kernels  # noqa: E402

cuda: Any = numba.cuda

__all__ = [
    "evaluate_masks", "find_extents", "gather_words", "join_words", "keep_greedily", "take_logits",
]  # fmt: skip

# A block a mask is all there is to do; numba warns where that makes fewer than 128 blocks.
warnings.filterwarnings("ignore", message=r"Grid size \d+ will likely result in GPU")

THREADS = 128
"""Threads of a block: four warps. Work of a block is spread over them, so any number is right."""

FARTHEST = 2**31 - 1


def take_logits(logits: Any) -> Any:
    """Logits [M, c, c] as a numba array over the same memory.

    Raises
    ------
    BundleError : if they are not float32 in C order.
    """
    taken = cuda.as_cuda_array(logits)
    if taken.dtype != np.float32 or not taken.is_c_contiguous():
        raise BundleError(
            "logits on a GPU are not as the contract has them",
            where="graph mask_head",
            got=f"{taken.dtype}, strides {taken.strides}",
            expected="float32 in C order",
            fix="export the bundle again",
        )
    return taken


def find_extents(logits: Any, floor: float) -> tuple[Any, NDArray[np.int32], NDArray[np.bool_]]:
    """Extents (on the device), bounds and finiteness, as ``on_cpu``'s."""
    count, cells = logits.shape[:2]
    extents = cuda.device_array((count, cells, 2), np.int32)
    bounds = cuda.to_device(np.tile(np.array([cells, cells, -1, -1], np.int32), (count, 1)))
    finite = cuda.to_device(np.ones(count, np.int32))
    if count:
        kernels.find_extents[count, THREADS](
            logits, logits.view(np.int32), np.float32(floor), extents, bounds, finite
        )
    return extents, bounds.copy_to_host(), finite.copy_to_host().astype(bool)


def evaluate_masks(
    logits: Any,
    extents: Any,
    regions: NDArray[np.int32],
    rows: AxisMap,
    columns: AxisMap,
    crop_x0: int,
    offset: float,
    start: NDArray[np.int64],
    size: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], Any]:
    """Counts, boxes and words (on the device), as ``on_cpu``'s."""
    count = len(regions)
    counts = cuda.to_device(np.zeros((count, 3), np.int32))
    boxes = cuda.to_device(np.tile(np.array([FARTHEST, FARTHEST, -1, -1], np.int32), (count, 1)))
    words = cuda.to_device(np.zeros(max(size, 1), np.uint32))
    if count:
        kernels.evaluate_masks[count, THREADS](
            logits, extents, cuda.to_device(regions), _on_device(rows), _on_device(columns),
            crop_x0, np.float32(offset), cuda.to_device(start), words, counts, boxes,
        )  # fmt: skip
    found, found_boxes = counts.copy_to_host().astype(np.int64), boxes.copy_to_host()
    found_boxes[found[:, 2] == 0] = 0
    return found, found_boxes, words


def gather_words(
    words: Any,
    start: NDArray[np.int64],
    regions: NDArray[np.int32],
    crop_x0: int,
    chosen: NDArray[np.int64],
    boxes: NDArray[np.int32],
    new_start: NDArray[np.int64],
    size: int,
) -> Any:
    """Words (on the device), as ``on_cpu``'s."""
    gathered = cuda.to_device(np.zeros(size, np.uint32))
    if len(chosen):
        kernels.gather_words[len(chosen), THREADS](
            words, cuda.to_device(start), cuda.to_device(regions), crop_x0,
            cuda.to_device(chosen), cuda.to_device(boxes), cuda.to_device(new_start), gathered,
        )  # fmt: skip
    return gathered


def keep_greedily(
    order: NDArray[np.int64],
    masks: PackedMasks,
    pair_boxes: NDArray[np.int32],
    threshold: float,
) -> NDArray[np.bool_]:
    """Which masks are kept, as ``on_cpu``'s; needs N² / 8 bytes on the device."""
    count = len(order)
    if not count:
        return np.zeros(0, bool)
    width = -(-count // 32)
    conflicts = cuda.to_device(np.zeros((count, width), np.uint32))
    kernels.find_conflicts[count, THREADS](
        cuda.to_device(order), cuda.to_device(pair_boxes), cuda.to_device(masks.box),
        cuda.to_device(masks.area_px), cuda.to_device(masks.start), masks.words,
        np.float32(threshold), conflicts,
    )  # fmt: skip
    kept = cuda.to_device(np.zeros(width, np.uint32))
    everyone = np.packbits(np.arange(width * 32) < count, bitorder="little").view(np.uint32)
    verdicts = cuda.device_array(count, np.int32)
    kernels.settle[1, THREADS](conflicts, kept, cuda.to_device(everyone), verdicts)
    bits = np.unpackbits(kept.copy_to_host().view(np.uint8), count=count, bitorder="little")
    return bits.astype(bool)


def join_words(parts: Sequence[Any]) -> Any:
    """The words of several sets one after another, on the device."""
    joined = cuda.device_array(sum(len(part) for part in parts), np.uint32)
    end = 0
    for part in parts:
        if len(part):
            joined[end : end + len(part)].copy_to_device(part)
            end += len(part)
    return joined


def _on_device(axis: AxisMap) -> AxisMap:
    return AxisMap(*(cuda.to_device(array) for array in axis))

"""The CUDA twins of ``logits`` and ``overlaps``, over the same scalar functions.

Imports numba.cuda: import this module only where masks are on a GPU. Each kernel says what a block
is; threads of a block share its work by strides, so that any block size is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba.cuda
import numba.cuda.libdevice
import numpy as np

from cellseg1_rt.runtime.kernels import scalars
from cellseg1_rt.runtime.kernels.logits import EXPONENT

__all__ = ["evaluate_masks", "find_conflicts", "find_extents", "gather_words", "settle"]


cuda: Any = numba.cuda
libdevice: Any = numba.cuda.libdevice


def _kernel(function: Callable[..., None]) -> Any:
    return cuda.jit(function)


def _device(function: Any) -> Any:
    """A function of kernels; of one compiled for the CPU, the Python function it was made from."""
    return cuda.jit(device=True)(getattr(function, "py_func", function))


@_device
def _product(a: Any, b: Any) -> Any:
    return libdevice.fmul_rn(a, b)


_blend = _device(scalars.make_blend(_product))
_word_of = _device(scalars.word_of)
_count_bits = _device(scalars.count_bits)
_boxes_overlap = _device(scalars.boxes_overlap)
_suppresses = _device(scalars.suppresses)


@_kernel
def find_extents(
    logits: Any, bits: Any, floor: Any, extents: Any, bounds: Any, finite: Any
) -> None:
    """As in ``logits``; a block a mask, a thread a row.

    ``bounds`` begins as c, c, -1, -1 and ``finite``, int32 here, as ones.
    """
    mask = cuda.blockIdx.x
    cells = logits.shape[1]
    for row in range(cuda.threadIdx.x, cells, cuda.blockDim.x):
        first, last, largest = cells, -1, np.int32(0)
        for column in range(cells):
            if logits[mask, row, column] > floor:
                first, last = min(first, column), column
            largest = max(largest, bits[mask, row, column] & EXPONENT)
        extents[mask, row, 0], extents[mask, row, 1] = first, last
        if last >= 0:
            cuda.atomic.min(bounds, (mask, 0), first)
            cuda.atomic.min(bounds, (mask, 1), row)
            cuda.atomic.max(bounds, (mask, 2), last)
            cuda.atomic.max(bounds, (mask, 3), row)
        if largest == EXPONENT:
            finite[mask] = 0


@_device
def _input_logit(logits: Any, mask: Any, rows: Any, columns: Any, y: Any, x: Any) -> Any:
    """The logit of an input pixel: the first bilinear step."""
    left, right, share = columns.cell_before[x], columns.cell_after[x], columns.cell_share[x]
    before, after = rows.cell_before[y], rows.cell_after[y]
    upper = _blend(logits[mask, before, left], logits[mask, before, right], share)
    lower = _blend(logits[mask, after, left], logits[mask, after, right], share)
    return _blend(upper, lower, rows.cell_share[y])


@_device
def _pixel_logit(logits: Any, mask: Any, rows: Any, columns: Any, y: Any, x: Any) -> Any:
    """The logit of a crop's pixel: the second step, on four input pixels."""
    left, right, share = columns.input_before[x], columns.input_after[x], columns.input_share[x]
    before, after = rows.input_before[y], rows.input_after[y]
    upper = _blend(
        _input_logit(logits, mask, rows, columns, before, left),
        _input_logit(logits, mask, rows, columns, before, right),
        share,
    )
    lower = _blend(
        _input_logit(logits, mask, rows, columns, after, left),
        _input_logit(logits, mask, rows, columns, after, right),
        share,
    )
    return _blend(upper, lower, rows.input_share[y])


@_kernel
def evaluate_masks(
    logits: Any, extents: Any, regions: Any, rows: Any, columns: Any, crop_x0: Any, offset: Any,
    start: Any, words: Any, counts: Any, boxes: Any,
) -> None:  # fmt: skip
    """As in ``logits``; a block a mask, a thread a word of its region.

    ``boxes`` begins as 2**31 - 1 twice and -1 twice, and keeps that where nothing is above 0.
    """
    mask = cuda.blockIdx.x
    x0, y0, x1, y1 = (
        regions[mask, 0], regions[mask, 1], regions[mask, 2], regions[mask, 3],
    )  # fmt: skip
    if x0 >= x1 or y0 >= y1:
        return
    first_word = _word_of(x0 + crop_x0)
    width = _word_of(x1 - 1 + crop_x0) - first_word + 1
    for place in range(cuda.threadIdx.x, width * (y1 - y0), cuda.blockDim.x):
        y = y0 + place // width
        base = ((first_word + place % width) << 5) - crop_x0
        first_cell, last_cell = extents.shape[1], -1
        for row in range(rows.lowest_cell[y], rows.highest_cell[y] + 1):
            first_cell = min(first_cell, extents[mask, row, 0])
            last_cell = max(last_cell, extents[mask, row, 1])
        if last_cell < 0:
            continue
        first = max(columns.first_reader[first_cell], base)
        end = min(columns.end_reader[last_cell], base + 32)
        word, above, near, left, right = np.int64(0), 0, 0, -1, -1
        for x in range(first, end):
            value = _pixel_logit(logits, mask, rows, columns, y, x)
            if value > -offset:
                near += 1
            if value > offset:
                above += 1
            if value > np.float32(0):
                word |= np.int64(1) << (x - base)
                left, right = x if left < 0 else left, x
        words[start[mask] + place] = word
        cuda.atomic.add(counts, (mask, 0), above)
        cuda.atomic.add(counts, (mask, 1), near)
        cuda.atomic.add(counts, (mask, 2), _count_bits(word))
        if word != 0:
            cuda.atomic.min(boxes, (mask, 0), left)
            cuda.atomic.min(boxes, (mask, 1), y)
            cuda.atomic.max(boxes, (mask, 2), right)
            cuda.atomic.max(boxes, (mask, 3), y)


@_kernel
def gather_words(
    words: Any, start: Any, regions: Any, crop_x0: Any, chosen: Any, boxes: Any,
    new_start: Any, new_words: Any,
) -> None:  # fmt: skip
    """As in ``logits``; a block a chosen mask, a thread a word."""
    place = cuda.blockIdx.x
    mask = chosen[place]
    left = _word_of(regions[mask, 0] + crop_x0)
    old_width = _word_of(regions[mask, 2] - 1 + crop_x0) - left + 1
    first = _word_of(boxes[place, 0] + crop_x0)
    width = _word_of(boxes[place, 2] + crop_x0) - first + 1
    source = start[mask] + (boxes[place, 1] - regions[mask, 1]) * old_width + first - left
    size = width * (boxes[place, 3] - boxes[place, 1] + 1)
    for word in range(cuda.threadIdx.x, size, cuda.blockDim.x):
        old = source + word // width * old_width + word % width
        new_words[new_start[place] + word] = words[old]


@_device
def _shared_pixels(boxes: Any, start: Any, words: Any, a: Any, b: Any) -> Any:
    """Pixels that the masks ``a`` and ``b`` share."""
    top, bottom = max(boxes[a, 1], boxes[b, 1]), min(boxes[a, 3], boxes[b, 3])
    left, right = max(boxes[a, 0], boxes[b, 0]), min(boxes[a, 2], boxes[b, 2])
    if left > right or top > bottom:
        return 0
    a_first, b_first = _word_of(boxes[a, 0]), _word_of(boxes[b, 0])
    a_width = _word_of(boxes[a, 2]) - a_first + 1
    b_width = _word_of(boxes[b, 2]) - b_first + 1
    shared = 0
    for y in range(top, bottom + 1):
        a_line = start[a] + (y - boxes[a, 1]) * a_width - a_first
        b_line = start[b] + (y - boxes[b, 1]) * b_width - b_first
        for column in range(_word_of(left), _word_of(right) + 1):
            shared += _count_bits(words[a_line + column] & words[b_line + column])
    return shared


@_kernel
def find_conflicts(
    order: Any, pair_boxes: Any, boxes: Any, area_px: Any, start: Any, words: Any, threshold: Any,
    conflicts: Any,
) -> None:  # fmt: skip
    """Which earlier masks would drop a later one; a block a later mask, a thread an earlier one.

    ``conflicts`` uint32 [N, ceil(N / 32)] of zeros, written: bit e of row l, by places in
    ``order``, is 1 where the mask at e, if it is kept, drops the mask at l.
    """
    later = cuda.blockIdx.x
    b = order[later]
    for earlier in range(cuda.threadIdx.x, later, cuda.blockDim.x):
        a = order[earlier]
        if _boxes_overlap(
            pair_boxes[a, 0], pair_boxes[a, 1], pair_boxes[a, 2], pair_boxes[a, 3],
            pair_boxes[b, 0], pair_boxes[b, 1], pair_boxes[b, 2], pair_boxes[b, 3],
        ):  # fmt: skip
            shared = _shared_pixels(boxes, start, words, a, b)
            if _suppresses(shared, area_px[a], area_px[b], threshold):
                bit = np.uint32(1 << (earlier & 31))
                cuda.atomic.or_(conflicts, (later, earlier >> 5), bit)


@_kernel
def settle(conflicts: Any, kept: Any, undecided: Any, verdicts: Any) -> None:
    """The greedy choice as a fixed point, in one block: kept is what no kept mask before it drops.

    A mask is dropped once a kept one conflicts with it, and kept once all that do are dropped. The
    first undecided mask can always be decided, so the rounds end.

    Parameters
    ----------
    conflicts : of ``find_conflicts``.
    kept, undecided : uint32 [ceil(N / 32)], a bit a mask; zeros and N ones at first.
    verdicts : int32 [N], room for a round's decisions.
    """
    count, width = conflicts.shape
    remaining = cuda.shared.array(1, np.int32)
    while True:
        if cuda.threadIdx.x == 0:
            remaining[0] = 0
        cuda.syncthreads()
        for place in range(cuda.threadIdx.x, count, cuda.blockDim.x):
            dropped, waiting = 0, 0
            if (undecided[place >> 5] >> (place & 31)) & 1:
                for word in range(width):
                    dropped |= conflicts[place, word] & kept[word]
                    waiting |= conflicts[place, word] & undecided[word]
                verdicts[place] = 1 if dropped else (0 if waiting else 2)
                if verdicts[place] == 0:
                    cuda.atomic.add(remaining, 0, 1)
            else:
                verdicts[place] = 0
        cuda.syncthreads()
        for place in range(cuda.threadIdx.x, count, cuda.blockDim.x):
            bit = np.uint32(1 << (place & 31))
            if verdicts[place] == 2:
                cuda.atomic.or_(kept, place >> 5, bit)
            if verdicts[place] != 0:
                cuda.atomic.xor(undecided, place >> 5, bit)
        cuda.syncthreads()
        if remaining[0] == 0:
            break
        cuda.syncthreads()

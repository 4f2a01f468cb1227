"""Pixels that packed masks share, and the greedy choice that rests on them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime.kernels.compiling import compiled
from cellseg1_rt.runtime.kernels.scalars import boxes_overlap, count_bits, suppresses, word_of

__all__ = ["keep_greedily", "shared_pixels"]

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


@compiled
def keep_greedily(
    order: Longs,
    pair_boxes: Ints,
    boxes: Ints,
    area_px: Longs,
    start: Longs,
    words: NDArray[np.uint32],
    threshold: np.float32,
    kept: NDArray[np.bool_],
) -> None:
    """Walk through masks in order; each that is kept drops later ones it overlaps too much.

    Parameters
    ----------
    order : int64 [N], best first.
    pair_boxes : int32 [N, 4], boxes that decide which pairs are compared.
    boxes, area_px, start, words : of ``PackedMasks``.
    threshold : IoU above which a mask is dropped.
    kept : bool [N], written, by position in ``order``.
    """
    kept[:] = True
    for place in range(len(order)):
        if not kept[place]:
            continue
        mask = order[place]
        a = pair_boxes[mask]
        for later in range(place + 1, len(order)):
            if not kept[later]:
                continue
            other = order[later]
            b = pair_boxes[other]
            if boxes_overlap(a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]):
                shared = shared_pixels(
                    boxes[mask], words[start[mask] :], boxes[other], words[start[other] :]
                )
                kept[later] = not suppresses(shared, area_px[mask], area_px[other], threshold)


@compiled
def shared_pixels(
    box: Ints, words: NDArray[np.uint32], other_box: Ints, other_words: NDArray[np.uint32]
) -> int:
    """Pixels that two masks share. Boxes are int32 [4]; words begin with the mask's own."""
    top, bottom = max(box[1], other_box[1]), min(box[3], other_box[3])
    left, right = max(box[0], other_box[0]), min(box[2], other_box[2])
    if left > right or top > bottom:
        return 0
    left, right = word_of(left), word_of(right)
    first, other_first = word_of(box[0]), word_of(other_box[0])
    width = word_of(box[2]) - first + 1
    other_width = word_of(other_box[2]) - other_first + 1
    shared = 0
    for y in range(top, bottom + 1):
        line = (y - box[1]) * width - first
        other_line = (y - other_box[1]) * other_width - other_first
        for column in range(left, right + 1):
            shared += count_bits(words[line + column] & other_words[other_line + column])
    return shared

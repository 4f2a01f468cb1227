"""Pixels that two masks of runs have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime.kernels.compiling import compiled

__all__ = ["count_common"]


@compiled
def count_common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Pixels in both of two masks, each as runs int32 [R, 3] (row, first, end) in raster order."""
    common, a, b = 0, 0, 0
    while a < len(one) and b < len(other):
        if one[a, 0] == other[b, 0]:
            common += max(0, min(one[a, 2], other[b, 2]) - max(one[a, 1], other[b, 1]))
            a_ends_first = one[a, 2] <= other[b, 2]
        else:
            a_ends_first = one[a, 0] < other[b, 0]
        if a_ends_first:
            a += 1
        else:
            b += 1
    return common

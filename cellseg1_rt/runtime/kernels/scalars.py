"""What a kernel computes of single numbers: the same functions on the CPU and in the CUDA twin.

They are compiled for the CPU here; ``cuda`` compiles the same Python functions for the device.

Masks are rows of 32-bit words. Bit b of the word in column k of the image's words is the pixel
32·k + b of its row, so that the words of two masks lie over each other wherever their boxes do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cellseg1_rt.runtime.kernels.compiling import inlined

__all__ = ["blend", "boxes_overlap", "count_bits", "make_blend", "suppresses", "word_of"]


@inlined
def word_of(x: Any) -> Any:
    """The column of words that holds pixel column ``x``."""
    return x >> 5


def make_blend(product: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """One linear step in float32, in the order in which PyTorch's bilinear resize computes it.

    Parameters
    ----------
    product : of two float32 numbers, rounded before it is added to anything. CUDA would contract a
        plain one with the sum, and a logit near 0 could have another sign than on the CPU.
    """

    def blend(before: Any, after: Any, share: Any) -> Any:
        return product(np.float32(1) - share, before) + product(share, after)

    return blend


@inlined
def _product(a: Any, b: Any) -> Any:
    """LLVM contracts nothing that it was not told to."""
    return a * b


blend = inlined(make_blend(_product))


@inlined
def count_bits(word: Any) -> Any:
    """Set bits of a 32-bit word, by sums of neighbours (Hacker's Delight, 5-1)."""
    word = np.int64(word)
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24) & 0xFF


@inlined
def boxes_overlap(
    ax0: Any, ay0: Any, ax1: Any, ay1: Any, bx0: Any, by0: Any, bx1: Any, by1: Any
) -> Any:
    """Whether the intersection has an area when last pixels are taken as ends, as upstream does."""
    return min(ax1, bx1) > max(ax0, bx0) and min(ay1, by1) > max(ay0, by0)


@inlined
def suppresses(shared_px: Any, area_px: Any, other_area_px: Any, threshold: Any) -> Any:
    """Whether the IoU of two masks is above ``threshold``, both float32; of two empty ones it is.

    Upstream divides in float32, and its NaN for two empty masks suppresses.
    """
    union = area_px + other_area_px - shared_px
    if union == 0:
        return True
    return np.float32(shared_px) / np.float32(union) > threshold

"""Masks as bits: what candidates hold, and what NMS counts on.

Imports numpy; ``on_cuda`` for masks on a GPU only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PackedMasks", "is_on_gpu", "row_widths", "word_starts"]


@dataclass(frozen=True)
class PackedMasks:
    """N masks, each over its own box.

    A mask is rows of 32-bit words from ``y0`` to ``y1``, each row from the word of ``x0`` to that
    of ``x1``. Words lie at multiples of 32 px of the image, the same for all masks: bit b of word k
    is the image's column 32·k + b. Bits outside the box are 0.

    Attributes
    ----------
    box : int32 [N, 4], first and last set pixel (x0, y0, x1, y1), both inclusive, image pixels; an
        empty mask has the first pixel of its crop four times over.
    area_px : int64 [N], set pixels.
    start : int64 [N], first word of each mask in ``words``.
    words : uint32 [...]; a numba.cuda array where the masks' logits were on a GPU.
    """

    box: NDArray[np.int32]
    area_px: NDArray[np.int64]
    start: NDArray[np.int64]
    words: Any

    def __len__(self) -> int:
        return len(self.box)

    def take(self, index: NDArray[Any]) -> PackedMasks:
        """The masks of an index, which share their words with these."""
        return PackedMasks(self.box[index], self.area_px[index], self.start[index], self.words)

    def on_host(self) -> PackedMasks:
        """The same masks with their words in host memory."""
        return replace(self, words=self.words.copy_to_host()) if is_on_gpu(self.words) else self

    def pixels(self, index: int) -> NDArray[np.bool_]:
        """One mask inside its box, bool [y1 - y0 + 1, x1 - x0 + 1]."""
        x0, y0, x1, y1 = self.box[index].tolist()
        width = (x1 >> 5) - (x0 >> 5) + 1
        first = int(self.start[index])
        words = self.on_host().words[first : first + (y1 - y0 + 1) * width].reshape(-1, width)
        bits = (words[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1
        inside = bits.reshape(len(words), -1)[:, x0 & 31 : (x0 & 31) + x1 - x0 + 1]
        return np.asarray(inside, bool)

    @staticmethod
    def concatenate(parts: Sequence[PackedMasks]) -> PackedMasks:
        """All masks of some sets, in their order, where their words are."""
        before = np.cumsum([0, *(len(part.words) for part in parts)])
        none = np.zeros(0, np.int64)
        return PackedMasks(
            np.concatenate([np.zeros((0, 4), np.int32), *(part.box for part in parts)]),
            np.concatenate([none, *(part.area_px for part in parts)]),
            np.concatenate(
                [none, *(part.start + at for part, at in zip(parts, before, strict=False))]
            ),
            _joined([part.words for part in parts]),
        )


def _joined(words: list[Any]) -> Any:
    if any(map(is_on_gpu, words)):
        from cellseg1_rt.runtime.on_cuda import join_words

        return join_words(words)
    return np.concatenate([np.zeros(0, np.uint32), *words])


def is_on_gpu(array: object) -> bool:
    """Whether an array lies in a GPU's memory: numba's, PyCUDA's, PyTorch's, CuPy's ..."""
    return hasattr(array, "__cuda_array_interface__")


def row_widths(x0: NDArray[Any], x1: NDArray[Any]) -> NDArray[np.int64]:
    """Words that a row from column ``x0`` to ``x1`` (inclusive, image pixels) lies in."""
    return np.asarray((x1 >> 5) - (x0 >> 5) + 1, np.int64)


def word_starts(sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Where each of several blocks of words begins when they lie one after another, and the end."""
    ends = np.cumsum(sizes)
    return ends - sizes, int(ends[-1]) if len(ends) else 0

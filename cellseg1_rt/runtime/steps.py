"""Where masks are worked on: on the GPU if that is where they are, else on the CPU.

Imports numpy; ``on_cuda`` for arrays on a GPU only.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime import on_cpu
from cellseg1_rt.runtime.packed import PackedMasks, is_on_gpu
from cellseg1_rt.runtime.resample import AxisMap

__all__ = ["Steps", "steps_for"]


class Steps(Protocol):
    """What ``on_cpu`` and ``on_cuda`` both offer; ``on_cpu`` says what each does.

    Extents and words live where the logits do, everything else in host memory.
    """

    def take_logits(self, logits: Any) -> Any:
        """Logits as the other steps take them."""

    def find_extents(
        self, logits: Any, floor: float
    ) -> tuple[Any, NDArray[np.int32], NDArray[np.bool_]]:
        """Extents, bounds [M, 4], and whether each mask is finite [M]."""

    def evaluate_masks(
        self, logits: Any, extents: Any, regions: NDArray[np.int32], rows: AxisMap,
        columns: AxisMap, crop_x0: int, offset: float, start: NDArray[np.int64], size: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], Any]:  # fmt: skip
        """Counts [M, 3], boxes [M, 4] and words."""

    def gather_words(
        self, words: Any, start: NDArray[np.int64], regions: NDArray[np.int32], crop_x0: int,
        chosen: NDArray[np.int64], boxes: NDArray[np.int32], new_start: NDArray[np.int64],
        size: int,
    ) -> Any:  # fmt: skip
        """Words of the chosen masks over their own boxes."""

    def keep_greedily(
        self, order: NDArray[np.int64], masks: PackedMasks, pair_boxes: NDArray[np.int32],
        threshold: float,
    ) -> NDArray[np.bool_]:  # fmt: skip
        """Which masks an NMS keeps, by their places in ``order``."""


def steps_for(array: object) -> Steps:
    """The steps for masks whose logits or words are ``array``."""
    if is_on_gpu(array):
        from cellseg1_rt.runtime import on_cuda

        return on_cuda
    return on_cpu

"""Small holes filled and small islands dropped; masks as runs of pixels from here on.

Rule 6 of CellSeg1's inference, but for its NMS. Imports numpy and the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime.kernels.cleaning import clean_masks, count_all_runs
from cellseg1_rt.runtime.packed import PackedMasks

__all__ = ["RunMasks", "clean"]


@dataclass(frozen=True)
class RunMasks:
    """N cleaned masks as runs.

    Attributes
    ----------
    box : int32 [N, 4], first and last set pixel (x0, y0, x1, y1), both inclusive, image pixels;
        zeros for an empty mask.
    area_px : int64 [N], set pixels.
    changed : bool [N], whether the mask had a small hole or island.
    start, end : int64 [N], the mask's rows of ``runs`` are ``start..end-1``.
    runs : int32 [R, 3], (row, first column, column after the last), in raster order, image pixels.
    """

    box: NDArray[np.int32]
    area_px: NDArray[np.int64]
    changed: NDArray[np.bool_]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    runs: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.box)

    def take(self, index: NDArray[Any]) -> RunMasks:
        """The masks of an index, which share their runs with these."""
        return RunMasks(
            self.box[index],
            self.area_px[index],
            self.changed[index],
            self.start[index],
            self.end[index],
            self.runs,
        )


def clean(masks: PackedMasks, min_area: int, image_size: tuple[int, int]) -> RunMasks:
    """Masks without small holes and islands.

    A hole is any 8-connected piece of background smaller than ``min_area`` px, one at the image's
    border included. Where all islands are small the largest stays; that too counts as a change.

    Parameters
    ----------
    min_area : px; smaller holes and islands go. 0 changes nothing.
    image_size : (height, width): background outside a mask's box belongs to the image too.
    """
    # Background that leaves a margin of `min_area` px has filled the margin's depth, so it is not
    # small; only where the image ends before can a hole reach the window's edge.
    height, width = image_size
    margin = min(min_area, max(height, width))
    low = np.maximum(masks.box[:, :2] - margin, 0)
    high = np.minimum(masks.box[:, 2:] + 1 + margin, [width, height])
    windows = np.concatenate([low, high], axis=1).astype(np.int32)
    counts = np.empty(len(masks), np.int64)
    count_all_runs(masks.box, masks.start, masks.words, counts)
    room = int((counts + windows[:, 3] - windows[:, 1]).sum())
    runs = np.empty((room, 3), np.int32)
    starts, changed = np.empty(len(masks) + 1, np.int64), np.empty(len(masks), bool)
    clean_masks(
        masks.box, masks.start, masks.words, counts, windows, min_area, runs, starts, changed
    )
    runs = runs[: starts[-1]].copy()
    box, area = _boxes_and_areas(runs, starts)
    return RunMasks(box, area, changed, starts[:-1], starts[1:], runs)


def _boxes_and_areas(
    runs: NDArray[np.int32], starts: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Box and area of each mask from its runs; zeros where it has none."""
    count = len(starts) - 1
    box, area = np.zeros((count, 4), np.int32), np.zeros(count, np.int64)
    full = np.flatnonzero(starts[1:] > starts[:-1])
    if len(full):
        at, rows = starts[full], runs[:, 0]
        lengths = (runs[:, 2] - runs[:, 1]).astype(np.int64)
        area[full] = np.add.reduceat(lengths, at)
        box[full, 0] = np.minimum.reduceat(runs[:, 1], at)
        box[full, 1] = rows[at]
        box[full, 2] = np.maximum.reduceat(runs[:, 2], at) - 1
        box[full, 3] = rows[starts[full + 1] - 1]
    return box, area

"""Survivors' logits become pixels: counted, boxed and packed, each mask in its own region.

The numbers of rule 3; ``candidates`` judges them. Imports numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.geometry import Crop, input_size_of_crop
from cellseg1_rt.runtime.packed import PackedMasks, row_widths, word_starts
from cellseg1_rt.runtime.prompts import require_finite
from cellseg1_rt.runtime.resample import AxisMap, axis_map
from cellseg1_rt.runtime.steps import Steps, steps_for

__all__ = ["Evaluated", "evaluate", "masks_of"]

ROUNDING = 2e-6
"""Share by which the rounding of four float32 means, 12 · 2**-24, can lift a value towards 0."""


@dataclass(frozen=True)
class Evaluated:
    """M masks of a crop.

    Attributes
    ----------
    counts : int64 [M, 3], logits above +offset, above -offset, above 0.
    boxes : int32 [M, 4], first and last pixel above 0, inclusive, in the crop; zeros for none.
    regions : int32 [M, 4], the crop's pixels that were evaluated, exclusive ends.
    start, words : the masks' bits over their regions, where the logits are.
    crop_x0 : first column of the crop in the image.
    steps : what made them.
    """

    counts: NDArray[np.int64]
    boxes: NDArray[np.int32]
    regions: NDArray[np.int32]
    start: NDArray[np.int64]
    words: Any
    crop_x0: int
    steps: Steps


def evaluate(logits: Any, crop: Crop, model_size: int, offset: float) -> Evaluated:
    """Evaluate all masks of a batch.

    Parameters
    ----------
    logits : float32 [M, S/4, S/4], over the padded input; on the CPU or on a GPU.
    crop : where the input lies in the image.
    model_size : side S of the model's input.
    offset : of the stability.

    Raises
    ------
    VerificationError : on a logit that is not finite.
    """
    steps = steps_for(logits)
    logits = steps.take_logits(logits)
    cells = logits.shape[1]
    extents, bounds, finite = steps.find_extents(logits, -offset * (1 + ROUNDING))
    if not finite.all():
        on_host = logits if isinstance(logits, np.ndarray) else logits.copy_to_host()
        require_finite(on_host, "mask_head", "logits")
    height, width = input_size_of_crop(crop, model_size)
    rows = axis_map(cells, model_size, height, crop.height)
    columns = axis_map(cells, model_size, width, crop.width)
    regions = _regions_of(bounds, rows, columns)
    widths = row_widths(regions[:, 0] + crop.x0, regions[:, 2] - 1 + crop.x0)
    start, size = word_starts(np.maximum(widths, 0) * (regions[:, 3] - regions[:, 1]))
    counts, boxes, words = steps.evaluate_masks(
        logits, extents, regions, rows, columns, crop.x0, offset, start, size
    )
    return Evaluated(counts, boxes, regions, start, words, crop.x0, steps)


def _regions_of(bounds: NDArray[np.int32], rows: AxisMap, columns: AxisMap) -> NDArray[np.int32]:
    """Pixels that read a cell within ``bounds``: int32 [M, 4], x0, y0, x1, y1, exclusive ends."""
    regions = np.zeros((len(bounds), 4), np.int32)
    full = np.flatnonzero(bounds[:, 2] >= 0)
    left, top, right, bottom = bounds[full].T
    regions[full, 0], regions[full, 1] = columns.first_reader[left], rows.first_reader[top]
    regions[full, 2] = np.maximum(columns.end_reader[right], regions[full, 0])
    regions[full, 3] = np.maximum(rows.end_reader[bottom], regions[full, 1])
    return regions


def masks_of(
    evaluated: Evaluated, chosen: NDArray[np.int64], box: NDArray[np.int32]
) -> PackedMasks:
    """The chosen masks over their own boxes, which ``box`` int32 [N, 4] has in image pixels."""
    area = evaluated.counts[chosen, 2]
    start, size = word_starts(row_widths(box[:, 0], box[:, 2]) * (box[:, 3] - box[:, 1] + 1))
    full = area > 0
    words = evaluated.steps.gather_words(
        evaluated.words, evaluated.start, evaluated.regions, evaluated.crop_x0,
        chosen[full], evaluated.boxes[chosen[full]], start[full], size,
    )  # fmt: skip
    return PackedMasks(box, area, start, words)

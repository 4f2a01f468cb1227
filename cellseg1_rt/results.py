"""What a segmentation returns: a label map and a table of its cells.

Imports numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cells", "Result"]


@dataclass(frozen=True)
class Cells:
    """One row a cell, in the order of the labels 1..K. Columns are arrays of the same length K.

    Attributes
    ----------
    label : int32 [K], 1..K without gaps.
    area_px : int64 [K], pixels of the label map that carry the label.
    box_xyxy : int32 [K, 4], first and last pixel (x0, y0, x1, y1), both inclusive, image pixels.
    centroid_xy : float64 [K, 2], mean pixel position (x, y), image pixels.
    score : float32 [K], the model's cell probability.
    stability : float32 [K], #(logit > +offset) / #(logit > -offset), 0..1.
    point_xy : float32 [K, 2], the prompt that found the cell (x, y), image pixels.
    """

    label: NDArray[np.int32]
    area_px: NDArray[np.int64]
    box_xyxy: NDArray[np.int32]
    centroid_xy: NDArray[np.float64]
    score: NDArray[np.float32]
    stability: NDArray[np.float32]
    point_xy: NDArray[np.float32]

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Result:
    """A segmented image.

    Attributes
    ----------
    labels : uint16 (uint32 from 65,536 cells on) [H, W], 0 is background, cells are 1..K.
    cells : the table of the K cells.
    """

    labels: NDArray[np.uint16] | NDArray[np.uint32]
    cells: Cells

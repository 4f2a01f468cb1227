"""How far label maps of the same images agree: what stands beside every speed.

Imports numpy and the metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.evaluate import average_precision, match_cells

__all__ = ["Agreement", "agreement_of"]


@dataclass(frozen=True)
class Agreement:
    """Labels of one path against another's.

    Attributes
    ----------
    ap50 : mean over the images of AP@0.5, 0..1, the other path's labels taken as true.
    matched_iou : mean IoU of all matched cells, 0..1; None where none match.
    equal_images, images : images whose maps mark the same pixels as cells, cell by cell, and all.
    """

    ap50: float
    matched_iou: float | None
    equal_images: int
    images: int

    def __str__(self) -> str:
        iou = "no matches" if self.matched_iou is None else f"mean IoU {self.matched_iou:.4f}"
        return f"AP@0.5 {self.ap50:.4f}, {iou}, {self.equal_images} of {self.images} maps equal"


def agreement_of(labels: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]) -> Agreement:
    """Compare maps pair by pair.

    Parameters
    ----------
    labels, reference : integer label maps [H, W] of the same images in the same order.
    """
    pairs = list(zip(labels, reference, strict=True))
    iou = np.concatenate([match_cells(ours, theirs).iou for ours, theirs in pairs])
    return Agreement(
        ap50=float(np.mean([average_precision(ours, theirs) for ours, theirs in pairs])),
        matched_iou=float(iou.mean()) if len(iou) else None,
        equal_images=sum(_mark_the_same(ours, theirs) for ours, theirs in pairs),
        images=len(pairs),
    )


def _mark_the_same(ours: NDArray[Any], theirs: NDArray[Any]) -> bool:
    """Whether maps differ in the cells' numbers at most."""
    pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
    one_to_one = all(len(np.unique(side)) == pairs.shape[1] for side in pairs)
    return one_to_one and bool(((pairs[0] == 0) == (pairs[1] == 0)).all())

"""The figures of an evaluation: of one image, or of many together.

Imports numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.evaluate.metrics import match_cells, match_counts
from cellseg1_rt.evaluate.mistakes import MATCH_IOU, find_mistakes

__all__ = ["THRESHOLDS", "Figures", "figures_from_maps", "narrowed_labels", "pooled_figures"]

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""The IoU thresholds of AP: 0.5, 0.55 … 0.95."""


@dataclass(frozen=True)
class Figures:
    """How well predicted cells agree with true ones.

    Of several images, APs are means over the images (the published mAP), counts are sums, and
    ``f1`` and ``mean_iou`` are those of all cells together.

    Attributes
    ----------
    average_precision : AP at each of ``THRESHOLDS``, 0..1.
    true, predicted : cells in the two maps.
    tp, fp, fn : matched cells at IoU 0.5, predicted cells without a match, true ones without.
    mean_iou : mean IoU of the pairs matched at IoU 0.5, 0.5..1; None without a pair.
    missed, false, split, merged : cells, as ``cellseg1_rt.evaluate.mistakes`` defines them.
    """

    average_precision: tuple[float, ...]
    true: int
    predicted: int
    tp: int
    fp: int
    fn: int
    mean_iou: float | None
    missed: int
    false: int
    split: int
    merged: int

    @property
    def mean_average_precision(self) -> float:
        """The mean of AP over ``THRESHOLDS``."""
        return float(np.mean(self.average_precision))

    @property
    def f1(self) -> float:
        """2·tp / (2·tp + fp + fn); 1 if there are no cells at all."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. Names and order are part of the stable layout."""
        return {
            "average_precision": list(self.average_precision),
            "mean_average_precision": self.mean_average_precision,
            "f1": self.f1,
            "mean_iou": self.mean_iou,
            **{name: getattr(self, name) for name in _COUNTS},
        }


_COUNTS = ("true", "predicted", "tp", "fp", "fn", "missed", "false", "split", "merged")


def figures_from_maps(pred: NDArray[Any], true: NDArray[Any]) -> Figures:
    """Compare two label maps.

    Parameters
    ----------
    pred, true : integer label maps of one shape, 0 is background, gaps are fine.

    Raises
    ------
    InputError : if the maps differ in shape, are not integers, or hold a negative label.
    """
    pred, true = narrowed_labels(pred), narrowed_labels(true)
    counts = match_counts(pred, true, THRESHOLDS)
    ious = match_cells(pred, true, MATCH_IOU).iou
    mistakes = find_mistakes(pred, true)
    tp, fp, fn = counts[0].tp, counts[0].fp, counts[0].fn
    return Figures(
        average_precision=tuple(count.average_precision for count in counts),
        true=tp + fn,
        predicted=tp + fp,
        tp=tp,
        fp=fp,
        fn=fn,
        mean_iou=float(ious.mean()) if len(ious) else None,
        missed=len(mistakes.missed),
        false=len(mistakes.false),
        split=len(mistakes.split),
        merged=len(mistakes.merged),
    )


def narrowed_labels(labels: NDArray[Any]) -> NDArray[Any]:
    """The same labels as uint16 where they fit, which NumPy sorts by radix, many times as fast."""
    fits = labels.dtype.kind in "bui" and labels.size and 0 <= labels.min() <= labels.max() < 2**16
    return labels.astype(np.uint16) if fits else labels


def pooled_figures(figures: Sequence[Figures]) -> Figures:
    """The figures of several images (at least one) together: see ``Figures``."""
    precision = np.mean([one.average_precision for one in figures], axis=0)
    totals = {name: sum(getattr(one, name) for one in figures) for name in _COUNTS}
    iou_sum = sum(one.mean_iou * one.tp for one in figures if one.mean_iou is not None)
    mean_iou = iou_sum / totals["tp"] if totals["tp"] else None
    return Figures(average_precision=tuple(precision.tolist()), mean_iou=mean_iou, **totals)

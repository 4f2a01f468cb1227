"""The columns of the per-image table, the same in the console and in the report.

Imports nothing but the figures.
"""

from __future__ import annotations

from collections.abc import Callable

from cellseg1_rt.evaluate.figures import THRESHOLDS, Figures

__all__ = ["COLUMNS"]


def _ap_at(threshold: float) -> Callable[[Figures], str]:
    index = THRESHOLDS.index(threshold)
    return lambda figures: f"{figures.average_precision[index]:.3f}"


COLUMNS: dict[str, Callable[[Figures], str]] = {
    "AP@0.5": _ap_at(0.5),
    "AP@0.75": _ap_at(0.75),
    "mean AP": lambda figures: f"{figures.mean_average_precision:.3f}",
    "true": lambda figures: str(figures.true),
    "pred": lambda figures: str(figures.predicted),
    "TP": lambda figures: str(figures.tp),
    "FP": lambda figures: str(figures.fp),
    "FN": lambda figures: str(figures.fn),
    "F1": lambda figures: f"{figures.f1:.3f}",
    "IoU": lambda figures: "–" if figures.mean_iou is None else f"{figures.mean_iou:.3f}",
    "missed": lambda figures: str(figures.missed),
    "false": lambda figures: str(figures.false),
    "split": lambda figures: str(figures.split),
    "merged": lambda figures: str(figures.merged),
}
"""Heads and how each figure is written, in order."""

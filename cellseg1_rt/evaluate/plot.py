"""The plot of the report: AP over IoU thresholds, as SVG that takes its colours from the page.

Imports numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellseg1_rt.evaluate.figures import THRESHOLDS, Figures, pooled_figures

__all__ = ["plot_of_precision"]

_WIDTH, _HEIGHT = 480, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 44
_FEWEST_FOR_A_BAND = 4


def plot_of_precision(figures: Sequence[Figures]) -> str:
    """SVG: the mean AP of images at each threshold and, from four on, the band of half of them."""
    overall = pooled_figures(figures)
    spoken = ", ".join(
        f"{ap:.3f} at {threshold:.2f}"
        for threshold, ap in zip(THRESHOLDS, overall.average_precision, strict=True)
    )
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Average precision over IoU thresholds: {spoken}.">'
        + _axes()
        + _band(figures)
        + _line(overall.average_precision)
        + "</svg>"
    )


def _axes() -> str:
    parts = []
    for tenths in range(0, 11, 2):
        y = _y(tenths / 10)
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" class="end">{tenths / 10:.1f}</text>')
    parts += [
        f'<text x="{_x(threshold)}" y="{_HEIGHT - _BOTTOM + 18}" class="middle">'
        f"{threshold:.2f}</text>"
        for threshold in THRESHOLDS
    ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 6}" class="middle">IoU threshold</text>'
        f'<text x="12" y="{_y(0.5)}" class="middle" transform="rotate(-90 12 {_y(0.5)})">AP</text>'
    )
    return "".join(parts)


def _band(figures: Sequence[Figures]) -> str:
    if len(figures) < _FEWEST_FOR_A_BAND:
        return ""
    low, high = np.percentile([one.average_precision for one in figures], (25, 75), axis=0)
    upper = list(zip(THRESHOLDS, high.tolist(), strict=True))
    lower = list(zip(THRESHOLDS, low.tolist(), strict=True))
    return f'<path class="band" d="M{_points([*upper, *reversed(lower)])}z"/>'


def _line(precision: Sequence[float]) -> str:
    points = list(zip(THRESHOLDS, precision, strict=True))
    dots = "".join(f'<circle cx="{_x(t)}" cy="{_y(ap)}" r="3.5"/>' for t, ap in points)
    return f'<path class="line" d="M{_points(points)}"/>{dots}'


def _points(points: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{_x(threshold)} {_y(ap)}" for threshold, ap in points)


def _x(threshold: float) -> float:
    share = (threshold - THRESHOLDS[0]) / (THRESHOLDS[-1] - THRESHOLDS[0])
    return round(_LEFT + 14 + share * (_WIDTH - _LEFT - _RIGHT - 28), 1)


def _y(ap: float) -> float:
    return round(_TOP + (1 - ap) * (_HEIGHT - _TOP - _BOTTOM), 1)

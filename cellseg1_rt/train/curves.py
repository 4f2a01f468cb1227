"""The curves of a training's log as a picture. Imports numpy and OpenCV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.files import atomic_path

__all__ = ["write_curves"]

PANEL_WIDTH, PANEL_HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 84, 16, 28, 28
INK, GRID = (60, 60, 60), (225, 225, 225)
COLOURS = ((180, 119, 31), (14, 127, 255), (44, 160, 44))  # blue, green, red order

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss", "score_loss", "mask_loss")),
    ("learning rate", ("learning_rate",)),
    ("held-out corner", ("held_out_score", "held_out_iou")),
)


def write_curves(path: Path, lines: Sequence[Mapping[str, float]]) -> None:
    """Draw losses, learning rate and validation over steps, one panel each, as a PNG.

    Parameters
    ----------
    path : the picture.
    lines : of the log; each has ``step`` and some of the figures.
    """
    panels = [
        _panel(title, {name: _curve(lines, name) for name in names})
        for title, names in PANELS
        if any(names[0] in line for line in lines)
    ]
    if not panels:
        return
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), np.vstack(panels))


def _curve(lines: Sequence[Mapping[str, float]], name: str) -> NDArray[np.float64]:
    """Steps and values [K, 2] of the lines that have a figure."""
    found = [(line["step"], line[name]) for line in lines if name in line]
    return np.array(found, np.float64).reshape(-1, 2)


def _panel(title: str, curves: Mapping[str, NDArray[np.float64]]) -> NDArray[np.uint8]:
    picture = np.full((PANEL_HEIGHT, PANEL_WIDTH, 3), 255, np.uint8)
    everything = np.concatenate(list(curves.values()))
    low, high = everything.min(axis=0), everything.max(axis=0)
    span = np.where(high > low, high - low, 1)
    size = np.array([PANEL_WIDTH - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM])

    def place(points: NDArray[np.float64]) -> NDArray[np.int32]:
        share = (points - low) / span
        share[:, 1] = 1 - share[:, 1]
        return np.asarray(np.rint(share * size + (LEFT, TOP)), np.int32)

    for share in (0.0, 0.5, 1.0):
        value = low + share * span
        x, y = place(value[None])[0].tolist()
        cv2.line(picture, (LEFT, y), (PANEL_WIDTH - RIGHT, y), GRID, 1)
        _write(picture, f"{value[1]:.3g}", (6, y + 4), INK)
        _write(picture, f"{value[0]:.0f}", (min(x, PANEL_WIDTH - 44), PANEL_HEIGHT - 8), INK)
    _write(picture, title, (LEFT, 18), INK)
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number]
        line = [place(points)[:, None]]
        cv2.polylines(picture, line, False, colour, 2)
        if len(points) == 1:
            cv2.circle(picture, place(points)[0].tolist(), 2, colour, -1)
        _write(picture, name, (LEFT + 170 + 150 * number, 18), colour)
    return picture


def _write(
    picture: NDArray[np.uint8], text: str, at: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)

"""The picture of a training's log."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cellseg1_rt.train.curves import COLOURS, PANEL_HEIGHT, PANEL_WIDTH, write_curves

LOG = [
    {"step": 1, "loss": 1.5, "score_loss": 0.5, "mask_loss": 1.0, "learning_rate": 1e-4},
    {"step": 1, "held_out_score": 0.1, "held_out_iou": 0.3},
    {"step": 2, "loss": 0.5, "score_loss": 0.2, "mask_loss": 0.3, "learning_rate": 3e-3},
    {"step": 2, "held_out_score": 0.6, "held_out_iou": 0.7},
]


@pytest.mark.parametrize(
    "lines, panels",
    [(LOG, 3), (LOG[:2], 3), (LOG[::2], 2), (LOG[:1], 2)],
    ids=["whole", "one-step", "nothing-held-out", "one-line"],
)
def test_a_panel_for_what_there_is(tmp_path: Path, lines: list[dict[str, float]], panels: int):
    write_curves(tmp_path / "c.png", lines)
    picture = cv2.imread(str(tmp_path / "c.png"))
    assert picture.shape == (panels * PANEL_HEIGHT, PANEL_WIDTH, 3)
    for number in range(panels):
        panel = picture[number * PANEL_HEIGHT : (number + 1) * PANEL_HEIGHT]
        assert (panel == COLOURS[0]).all(axis=2).any()


def test_a_curve_falls_where_its_values_do(tmp_path: Path):
    lines = [{"step": step, "loss": 10.0 - step} for step in range(1, 8)]
    write_curves(tmp_path / "c.png", [{**line, "score_loss": 0, "mask_loss": 0} for line in lines])
    panel = cv2.imread(str(tmp_path / "c.png"))[30:PANEL_HEIGHT]
    y, x = np.nonzero((panel == COLOURS[0]).all(axis=2))
    assert np.corrcoef(x, y)[0, 1] > 0.99  # rows count downwards


def test_an_empty_log_draws_nothing(tmp_path: Path):
    write_curves(tmp_path / "c.png", [])
    assert list(tmp_path.iterdir()) == []

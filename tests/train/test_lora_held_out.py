"""The corner that is held out: what is left to train on, which corner, and how it is judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from annotated import SETTINGS, disks
from drawing import draw_weights
from segment_anything.modeling import Sam

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.model.lora import add_lora
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.train import lora_held_out as module
from cellseg1_rt.train.lora_held_out import judge, split_pair
from cellseg1_rt.train.lora_loss import TileTensors, tensors_from_sample
from cellseg1_rt.train.lora_step import StepOptions

HEIGHT, WIDTH, SHARE = 131, 167, 0.3
ROWS, COLUMNS = 39, 50  # int(0.3 · side)


def numbered_pixels() -> np.ndarray:
    """A picture in which every pixel is another colour."""
    number = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    return np.stack([number % 251, number // 251, np.zeros_like(number)], axis=2).astype(np.uint8)


def labels_with(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Cells as boxes (top, left, height, width)."""
    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    for label, (top, left, height, width) in enumerate(boxes, start=1):
        labels[top : top + height, left : left + width] = label
    return labels


# One cell in the upper left corner, three in the upper right, two and two in the lower ones, of
# which the lower left is the first.
CORNERS = labels_with(
    (3, 5, 9, 7),
    (3, 120, 9, 7), (3, 140, 9, 7), (20, 140, 9, 7),
    (100, 5, 9, 7), (115, 20, 9, 7),
    (100, 120, 9, 7), (115, 140, 9, 7),
)  # fmt: skip


def test_the_rest_is_all_but_the_corner():
    image = numbered_pixels() + np.uint8(1)
    split = split_pair(image, CORNERS, SHARE, SETTINGS, 67)
    corner = np.zeros(CORNERS.shape, bool)
    corner[-ROWS:, :COLUMNS] = True
    for found, given, nothing in zip(split.rest, (image, CORNERS), (0, -1), strict=True):
        np.testing.assert_array_equal(found[~corner], given[~corner])
        assert (found[corner] == nothing).all()
    assert image[corner].all(), "what was given is as it was"
    assert split.cells == 2


def test_the_corner_is_the_most_ordinary_one():
    """1, 3, 2 and 2 cells: the first of the two with the mean number."""
    split = split_pair(numbered_pixels(), CORNERS, SHARE, SETTINGS, 67)
    assert sorted(split.held_out.cell[split.held_out.cell > 0].tolist()) == [5, 6]


@pytest.mark.parametrize(
    "box, cells",
    [
        pytest.param((100, 5, 9, 7), 2, id="whole"),
        pytest.param((95, 45, 9, 7), 1, id="cut-by-the-corner"),
        pytest.param((100, 5, 5, 6), 1, id="too-small"),
    ],
)
def test_which_cells_count(box: tuple[int, int, int, int], cells: int):
    labels = labels_with((3, 5, 9, 7), (115, 20, 9, 7), box)
    corner = slice(HEIGHT - ROWS, None), slice(0, COLUMNS)
    found = module._whole_cells(labels, corner, SETTINGS.smallest_cell_px)
    assert len(found) == cells
    assert found[0] == 2


def test_points_lie_deep_in_their_cells_and_clear_of_all():
    image, labels = disks(3, HEIGHT, WIDTH)
    split = split_pair(image, labels, SHARE, SETTINGS, 67)
    held = split.held_out
    assert held.image.shape == (112, 112, 3)
    x, y = held.points_xy.astype(int).T
    assert np.array_equal(held.labels[y, x], held.cell)
    assert split.cells == np.count_nonzero(held.cell) > 1
    for (px, py), cell in zip(held.points_xy.astype(int), held.cell, strict=True):
        near = held.labels[max(0, py - 3) : py + 4, max(0, px - 3) : px + 4]
        assert (near == cell).all()


def test_at_most_a_tile_is_held_out():
    image, labels = disks(3, 401, 307)
    tile = 73
    split = split_pair(image, labels, 0.5, SETTINGS, tile)
    assert np.count_nonzero((split.rest[0] == 0).all(axis=2)) == tile**2


def test_a_picture_smaller_than_a_tile():
    image, labels = disks(3, 61, 97)
    split = split_pair(image, labels, 0.4, SETTINGS, 201)
    assert split.held_out.labels.shape == (112, 112)
    assert split.cells > 0


class Answers:
    """Stands for ``predict``: gives what a test says."""

    def __init__(self, score: list[float], logits: torch.Tensor) -> None:
        self.score, self.logits = torch.tensor(score), logits

    def __call__(self, sam: Sam, tile: TileTensors, options: StepOptions):
        return self.score, self.logits


def held_out_tile() -> TileTensors:
    split = split_pair(numbered_pixels(), CORNERS, SHARE, SETTINGS, 67)
    return tensors_from_sample(split.held_out)


@pytest.fixture(scope="module")
def sam() -> Sam:
    return draw_weights(add_lora(build_sam(Backbone("s", 24, 2, 2, (1,), 2), 112)), 3)


@pytest.mark.parametrize(
    "of_cells, of_background, kept, expected",
    [
        pytest.param(1.0, 0.0, 1.0, 1.0, id="perfect"),
        pytest.param(0.5, 0.0, 1.0, 0.5, id="unsure"),
        pytest.param(1.0, 0.25, 1.0, 0.75, id="false-cells"),
        pytest.param(1.0, 0.0, 0.0, 0.0, id="no-masks"),
        pytest.param(7.0, -3.0, 1.0, 1.0, id="clipped"),
    ],
)
def test_the_score(
    monkeypatch: pytest.MonkeyPatch,
    sam: Sam,
    of_cells: float,
    of_background: float,
    kept: float,
    expected: float,
):
    tile = held_out_tile()
    truth = tile.labels == tile.cell[: tile.masked, None, None]
    logits = torch.where(truth, 5.0, -5.0) * (1 if kept else -1)
    if not kept:
        logits = torch.full_like(logits, -5.0)
    background = len(tile.target) - tile.masked
    score = [of_cells] * tile.masked + [of_background] * background
    monkeypatch.setattr(module, "predict", Answers(score, logits))
    found = judge(sam, [tile], StepOptions(1))
    assert found["held_out_score"] == pytest.approx(expected)
    assert found["held_out_iou"] == kept


def test_judging_leaves_no_trace(sam: Sam):
    """Neither the mode nor dropout's generator moves."""
    sam.train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = judge(sam, [held_out_tile()], StepOptions(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert sam.training
    assert judge(sam, [held_out_tile()], StepOptions(1)) == first

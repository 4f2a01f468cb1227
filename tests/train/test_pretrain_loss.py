"""Losses and targets against formulas written out one number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellseg1_rt.train.pretrain_loss import (
    DenseHead,
    dense_targets,
    mask_loss,
    mask_targets,
    score_targets,
)
from cellseg1_rt.train.pretrain_recipe import LossWeights


def weights(
    focal: float = 0.0, dice: float = 0.0, gamma: float = 2.0, neighbours: float = 0.0
) -> LossWeights:
    return LossWeights(
        focal=focal,
        focal_gamma=gamma,
        dice=dice,
        neighbours=neighbours,
        quality=0.0,
        score=1.0,
        dense=1.0,
    )


def loss_alone(logits: Tensor, target: Tensor, terms: LossWeights) -> Tensor:
    """Masks without other cells around."""
    return mask_loss(logits, target, torch.zeros_like(target), terms)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def drawn(seed: int, hard: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (3, 5, 7)).astype(np.float32)
    target = rng.random((3, 5, 7)).astype(np.float32)
    return logits, np.round(target) if hard else target


@pytest.mark.parametrize("gamma", [2.0, 1.5])
@pytest.mark.parametrize("hard", [False, True], ids=["shares", "zeros-and-ones"])
def test_focal_is_quality_focal(hard: bool, gamma: float):
    logits, target = drawn(11, hard)
    expected = []
    for mask, wanted in zip(logits.tolist(), target.tolist(), strict=True):
        terms = []
        for x_row, t_row in zip(mask, wanted, strict=True):
            for x, t in zip(x_row, t_row, strict=True):
                p = sigmoid(x)
                entropy = -t * math.log(p) - (1 - t) * math.log(1 - p)
                terms.append(abs(t - p) ** gamma * entropy)
        expected.append(13 * sum(terms) / len(terms))
    found = loss_alone(
        torch.from_numpy(logits), torch.from_numpy(target), weights(focal=13, gamma=gamma)
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_focal_of_zeros_and_ones_is_the_usual_focal():
    """Lin et al. 2017, eq. 4: -(1 - p_t)^γ log p_t."""
    logits, target = drawn(13, hard=True)
    found = loss_alone(torch.from_numpy(logits), torch.from_numpy(target), weights(focal=1))
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    p_t = np.where(target == 1, p, 1 - p)
    expected = (-((1 - p_t) ** 2) * np.log(p_t)).mean(axis=(1, 2))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("hard", [False, True], ids=["shares", "zeros-and-ones"])
def test_dice(hard: bool):
    logits, target = drawn(17, hard)
    expected = []
    for mask, wanted in zip(logits.tolist(), target.tolist(), strict=True):
        pairs = [
            (sigmoid(x), t)
            for x_row, t_row in zip(mask, wanted, strict=True)
            for x, t in zip(x_row, t_row, strict=True)
        ]
        overlap = sum(p * t for p, t in pairs)
        expected.append(3 * (1 - (2 * overlap + 0.2) / (sum(p + t for p, t in pairs) + 0.2)))
    found = loss_alone(torch.from_numpy(logits), torch.from_numpy(target), weights(dice=3))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_mask_loss_adds_both_terms_and_is_finite_far_out():
    logits, target = drawn(19, hard=False)
    x, t = torch.from_numpy(logits), torch.from_numpy(target)
    both = loss_alone(x, t, weights(focal=20, dice=1))
    apart = loss_alone(x, t, weights(focal=20)) + loss_alone(x, t, weights(dice=1))
    torch.testing.assert_close(both, apart)
    extreme = torch.full((1, 3, 5), -300.0, requires_grad=True)
    loss = loss_alone(extreme, torch.ones(1, 3, 5), weights(focal=20, dice=1)).sum()
    torch.autograd.backward(loss)
    assert torch.isfinite(loss)
    assert extreme.grad is not None
    assert torch.isfinite(extreme.grad).all()


def test_perfect_masks_cost_nothing_and_wrong_ones_do():
    target = torch.zeros(1, 8, 8)
    target[:, 2:5, 1:6] = 1
    right = loss_alone(target * 200 - 100, target, weights(focal=20, dice=1))
    wrong = loss_alone(100 - target * 200, target, weights(focal=20, dice=1))
    assert float(right) < 1e-3
    assert float(wrong) > 100


def test_a_mask_on_a_neighbour_counts_again():
    logits, target = drawn(43, hard=False)
    others = np.random.default_rng(47).random(target.shape).astype(np.float32)
    expected = []
    for mask, wanted, around in zip(logits, target, others, strict=True):
        p = 1 / (1 + np.exp(-mask.astype(np.float64)))
        total = (p + wanted + 2.5 * p * around).sum() + 0.2
        expected.append(1 - (2 * (p * wanted).sum() + 0.2) / total)
    x, t, o = (torch.from_numpy(values) for values in (logits, target, others))
    found = mask_loss(x, t, o, weights(dice=1, neighbours=2.5))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    focal = weights(focal=20, neighbours=2.5)
    torch.testing.assert_close(mask_loss(x, t, o, focal), loss_alone(x, t, focal))


def test_score_targets_tell_good_masks_from_bad_ones():
    """Two windows of 2 points in cells and 1 beside: IoU 1, 1/2; 0, 1/3."""
    truth = torch.zeros(4, 2, 3)
    truth[:, 0, :2] = 1
    logits = torch.full((4, 2, 3), -9.0)
    logits[0, 0, :2] = 9
    logits[1, 0, 0] = 9
    logits[2, 1] = 9
    logits[3, 0, 1:] = 9
    in_cell = torch.tensor([[1.0, 1, 0], [1, 1, 0]])
    found = score_targets(in_cell, logits, truth, 0.4)
    expected = torch.tensor([[1, 0.8, 0], [0.6, 1 - 0.4 * 2 / 3, 0]])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(score_targets(in_cell, logits, truth, 0.0), in_cell)


def test_mask_targets_are_shares_of_squares():
    labels = np.zeros((16, 16), np.int32)
    labels[0:4, 4:8] = 7  # one whole square
    labels[4:6, 4:8] = 7  # half of the one below
    labels[9, 2] = 3  # one pixel of 16
    targets = mask_targets(labels, np.array([3, 7, 3], np.int32))
    assert targets.dtype == np.float32
    assert targets.shape == (3, 4, 4)
    expected = np.zeros((3, 4, 4))
    expected[1, 0, 1], expected[1, 1, 1] = 1, 0.5
    expected[[0, 2], 2, 0] = 1 / 16
    np.testing.assert_allclose(targets, expected, atol=1e-7)


def test_mask_targets_by_counting():
    rng = np.random.default_rng(23)
    labels = rng.integers(0, 5, (32, 32)).astype(np.int32)
    found = mask_targets(labels, np.array([1, 4], np.int32))
    for index, cell in enumerate((1, 4)):
        for y in range(8):
            for x in range(8):
                square = labels[4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
                assert found[index, y, x] == pytest.approx(np.mean(square == cell), abs=1e-6)


def test_mask_targets_of_no_cells():
    found = mask_targets(np.zeros((16, 16), np.int32), np.zeros(0, np.int32))
    assert found.shape == (0, 4, 4)


def test_dense_targets_by_hand():
    """A cell of 8×5 px whose centre is (x, y) = (9.5, 12); another touches it on the right."""
    labels = np.zeros((24, 24), np.int32)
    labels[10:15, 6:14] = 2
    labels[10:15, 14:19] = 5
    cell, border, way_x, way_y = dense_targets(labels)
    assert cell.dtype == np.float32
    # Pixels 2, 6, 10, ... are looked up: the cells are in rows 10 and 14, columns 6, 10 and 14, 18.
    expected_cell = np.zeros((6, 6))
    expected_cell[2:4, 1:5] = 1
    np.testing.assert_array_equal(cell, expected_cell)
    # A border is where the value differs from the one above or to the left.
    expected_border = np.zeros((6, 6))
    expected_border[2:4, [1, 3, 5]] = 1
    expected_border[[2, 4], 1:5] = 1
    np.testing.assert_array_equal(border, expected_border)
    radius = math.sqrt(40 / math.pi)
    assert way_x[2, 1:3] == pytest.approx([(9.5 - 6) / radius, (9.5 - 10) / radius])
    assert way_y[2:4, 1] == pytest.approx([(12 - 10) / radius, (12 - 14) / radius])
    narrow = math.sqrt(25 / math.pi)
    assert way_x[3, 3:5] == pytest.approx([(16 - 14) / narrow, (16 - 18) / narrow])
    assert not way_x[expected_cell == 0].any()
    assert not way_y[expected_cell == 0].any()


def test_dense_targets_of_an_empty_scene_are_zero():
    targets = dense_targets(np.zeros((48, 48), np.int32))
    assert targets.shape == (4, 12, 12)
    assert not targets.any()


def drawn_head(seed: int) -> DenseHead:
    head = DenseHead()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.1, generator=generator)
    return head


def test_dense_head_puts_16_values_of_a_token_on_its_4_by_4_square():
    head = drawn_head(29)
    embedding = torch.randn(2, 256, 3, 3, generator=torch.Generator().manual_seed(31))
    with torch.no_grad():
        found = head(embedding)
    assert found.shape == (2, 4, 12, 12)
    weight, bias = head.project.weight[:, :, 0, 0], head.project.bias
    for image, channel, y, x in ((0, 0, 0, 0), (1, 2, 5, 11), (0, 3, 10, 1), (1, 1, 7, 7)):
        row = 16 * channel + 4 * (y % 4) + x % 4
        expected = weight[row] @ embedding[image, :, y // 4, x // 4] + bias[row]
        torch.testing.assert_close(found[image, channel, y, x], expected)


def test_dense_loss_by_the_formula():
    head = drawn_head(37)
    rng = np.random.default_rng(41)
    embedding = torch.from_numpy(rng.normal(0, 1, (1, 256, 2, 2)).astype(np.float32))
    target = np.zeros((1, 4, 8, 8), np.float32)
    target[:, :2] = rng.random((1, 2, 8, 8)) < 0.4
    target[:, 2:] = rng.normal(0, 1, (1, 2, 8, 8))
    with torch.no_grad():
        found = head(embedding).double().numpy()
        loss = float(head.loss(embedding, torch.from_numpy(target)))
    entropy, way = [], 0.0
    for y in range(8):
        for x in range(8):
            for channel in (0, 1):
                p = sigmoid(found[0, channel, y, x])
                t = target[0, channel, y, x]
                entropy.append(-t * math.log(p) - (1 - t) * math.log(1 - p))
            if target[0, 0, y, x]:
                way += sum(abs(found[0, c, y, x] - target[0, c, y, x]) for c in (2, 3))
    expected = sum(entropy) / len(entropy) + way / (2 * target[0, 0].sum() + 1)
    assert loss == pytest.approx(expected, rel=1e-5)

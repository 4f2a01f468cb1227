"""Targets and loss terms of LoRA training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from cellseg1_rt.train.lora_loss import loss_sums, tensors_from_sample
from cellseg1_rt.train.lora_samples import LoraSample

SIZE = 32


def sample(labels: np.ndarray, cell: list[int]) -> LoraSample:
    image = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    points = np.arange(2 * len(cell), dtype=np.float32).reshape(-1, 2)
    return LoraSample(image, labels, points, np.array(cell, np.int32))


def test_pixels_are_normalised():
    made = sample(np.zeros((SIZE, SIZE), np.int32), [0])
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    expected = ((made.image - mean) / std).transpose(2, 0, 1)
    found = tensors_from_sample(made).pixels
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_truth_is_nearest_as_torch_resizes():
    labels = np.random.default_rng(5).integers(0, 4, (SIZE, SIZE)).astype(np.int32)
    found = tensors_from_sample(sample(labels, [1, 2, 3])).labels
    as_image = torch.from_numpy(labels).float()[None, None]
    expected = functional.interpolate(as_image, size=(SIZE // 4, SIZE // 4), mode="nearest")
    assert torch.equal(found, expected[0, 0].int())


def test_a_positive_whose_small_mask_is_empty_is_a_negative():
    labels = np.zeros((SIZE, SIZE), np.int32)
    labels[1:4, 1:4] = 7  # between the samples at 0 and 4
    labels[8:13, 8:13] = 9
    made = tensors_from_sample(sample(labels, [7, 9, 0, 7, 9]))
    assert made.masked == 2
    assert made.target.tolist() == [1, 1, 0, 0, 0]
    assert made.cell.tolist() == [9, 9, 7, 0, 7]
    assert made.points_xy[:, 0].tolist() == [2, 8, 0, 4, 6]  # each point kept its place


def test_terms_by_the_formula():
    generator = torch.Generator().manual_seed(7)
    score, target = torch.rand(5, generator=generator), torch.tensor([1.0, 1, 0, 0, 0])
    logits = torch.randn(2, 3, 7, generator=generator)
    truth = torch.rand(2, 3, 7, generator=generator) > 0.5
    squared, entropy = loss_sums(score, target, logits, truth)
    assert float(squared / 5) == pytest.approx(float(functional.mse_loss(score, target)))
    expected = functional.binary_cross_entropy_with_logits(logits, truth.float())
    assert float(entropy / 2) == pytest.approx(float(expected))


def test_no_mask_no_term():
    nothing = torch.zeros(0, 3, 7)
    squared, entropy = loss_sums(torch.ones(2), torch.zeros(2), nothing, nothing > 0)
    assert (float(squared), float(entropy)) == (2, 0)

"""Held-out figures against plain modules, and the calibration of mask logits and score."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import cv2
import numpy as np
import pytest
import torch
from drawing import draw_weights
from segment_anything.modeling import Sam
from torch.nn import functional

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.model.decoding import Decoded
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.train import pretrain_validation as module
from cellseg1_rt.train.pretrain_batch import Batch, collate
from cellseg1_rt.train.pretrain_data import Pair, whole_image_sample
from cellseg1_rt.train.pretrain_validation import mask_logit_scale, score_scale, validate

SMALL = Backbone("small", 48, 3, 3, (1,), 5)


def pair(height: int, width: int, seed: int) -> Pair:
    labels = np.zeros((height, width), np.int32)
    for label, x in enumerate(range(11, width - 9, 19), start=1):
        cv2.circle(labels, (x, height // 2), 8, label, -1)
    noise = np.random.default_rng(seed).integers(0, 40, labels.shape)
    grey = (np.where(labels > 0, 180, 30) + noise).astype(np.uint8)
    return Pair(f"p{seed}", f"{seed:064x}", np.repeat(grey[..., None], 3, axis=2), labels)


PAIRS = [pair(47, 59, 2), pair(61, 43, 3)]


@pytest.fixture
def sam(monkeypatch: pytest.MonkeyPatch) -> Sam:
    """In float32, so that plain modules can be compared with."""

    monkeypatch.setattr(module.torch, "autocast", lambda *_: nullcontext())
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    return draw_weights(build_sam(SMALL, 64), 7)


def plain(sam: Sam, of: Pair) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores and truth of all points, logits and truth of those in cells."""
    batch = collate([whole_image_sample(of, 64, points=module.POINTS)])
    with torch.no_grad():
        points = (batch.points_xy[0][:, None], torch.ones(module.POINTS, 1))
        sparse, dense = sam.prompt_encoder(points, None, None)
        logits, scores = sam.mask_decoder(
            sam.image_encoder(batch.pixels),
            sam.prompt_encoder.get_dense_pe(),
            sparse,
            dense,
            multimask_output=False,
        )
    return scores[:, 0], batch.in_cell[0], logits[: len(batch.masks[0]), 0], batch.masks[0]


def test_figures_are_those_of_plain_modules(sam: Sam):
    overlaps, right = [], []
    for each in PAIRS:
        scores, in_cell, logits, truth = plain(sam, each)
        for found, wanted in zip(logits.numpy() > 0, truth.numpy() > 0.5, strict=True):
            overlaps.append((found & wanted).sum() / max(1, (found | wanted).sum()))
        right += [(s > 0.8) == bool(c) for s, c in zip(scores.tolist(), in_cell, strict=True)]
    figures = validate(sam, PAIRS)
    assert figures["validation_iou"] == pytest.approx(np.mean(overlaps), abs=1e-3)
    assert figures["validation_score_accuracy"] == pytest.approx(np.mean(right), abs=0.02)


def test_no_pairs_give_no_figures():
    assert validate(build_sam(SMALL, 64), []) == {}
    assert mask_logit_scale(build_sam(SMALL, 64), []) == 1
    assert score_scale(build_sam(SMALL, 64), []) == 1


def noisy_truth(factor: float) -> Callable[[Sam, Decoded | None, Batch], torch.Tensor]:
    """Stands for the masks of a model that is right more often than not."""

    def masks(sam: Sam, decoded: Decoded | None, batch: Batch) -> torch.Tensor:
        truth = batch.masks.flatten(0, 1)
        noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(len(truth)))
        return factor * (2 * truth - 1 + noise)

    return masks


@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
def test_the_scale_is_the_most_likely_one(sam: Sam, factor: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "masks_of_cells", noisy_truth(factor))
    batches = [collate([whole_image_sample(each, 64, points=module.POINTS)]) for each in PAIRS]
    truth = torch.cat([batch.masks[0] for batch in batches])
    logits = torch.cat([noisy_truth(factor)(sam, None, batch) for batch in batches])

    def loss(scale: float) -> float:
        return float(functional.binary_cross_entropy_with_logits(scale * logits, truth))

    scale = mask_logit_scale(sam, PAIRS)
    assert scale * factor > 1.2
    assert loss(scale) < min(loss(scale / 1.05), loss(scale * 1.05))


def every_third_wrong(sam: Sam, decoded: Decoded | None, batch: Batch) -> torch.Tensor:
    truth = batch.masks.flatten(0, 1) > 0.5
    truth[::3] = ~truth[::3]
    return 2.0 * truth - 1


def test_as_many_points_pass_as_have_a_good_mask(sam: Sam, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "masks_of_cells", every_third_wrong)
    last = sam.mask_decoder.iou_prediction_head.layers[2]
    with torch.no_grad():  # scores on both sides of a half, none near 1
        last.weight.mul_(0.1 / plain(sam, PAIRS[0])[0].std())
        last.bias.add_(0.5 - plain(sam, PAIRS[0])[0].mean())
    scores, good = [], 0
    for each in PAIRS:
        score, _, logits, _ = plain(sam, each)
        good += len(logits) - len(logits[::3])
        scores += score.tolist()
    assert 0 < good < len(scores)
    scale = score_scale(sam, PAIRS)
    passing = [1 - scale * (1 - score) > 0.8 for score in scores]
    assert abs(sum(passing) - good) <= 1


@pytest.mark.parametrize("sign", [-1, 1], ids=["none-good", "all-good"])
def test_a_score_without_a_choice_is_left_alone(
    sam: Sam, monkeypatch: pytest.MonkeyPatch, sign: int
):
    def masks(sam: Sam, decoded: Decoded | None, batch: Batch) -> torch.Tensor:
        return sign * (2 * batch.masks.flatten(0, 1) - 1)

    monkeypatch.setattr(module, "masks_of_cells", masks)
    full = Pair("full", "ab" * 32, np.full((61, 61, 3), 90, np.uint8), np.ones((61, 61), np.int32))
    assert score_scale(sam, [full]) == 1

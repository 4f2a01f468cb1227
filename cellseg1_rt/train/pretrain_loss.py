"""The losses of ``pretrain``: masks, scores, and an auxiliary dense loss on the embedding."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cellseg1_rt.train.pretrain_recipe import LossWeights

__all__ = ["DenseHead", "dense_targets", "mask_loss", "mask_targets", "score_targets"]

_DENSE_CHANNELS = 4  # cell or not, border or not, and the (x, y) way to the cell's centre
_CELLS_PER_TOKEN = 4  # a token of 16 px predicts 4×4 positions
_SMOOTH = 0.2
"""In squares of 4×4 px. The usual 1 would forgive half of a cell of 6 px."""


class DenseHead(torch.nn.Module):
    """A linear map from the embedding [B, 256, g, g] to dense targets [B, 4, 4g, 4g].

    It gives the encoder a signal at every pixel from the first step on; prompts alone give it one
    per point. It is dropped when training ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Conv2d(256, _DENSE_CHANNELS * _CELLS_PER_TOKEN**2, 1)

    def forward(self, embedding: Tensor) -> Tensor:
        """Predictions [B, 4, 4g, 4g]."""
        return functional.pixel_shuffle(self.project(embedding), _CELLS_PER_TOKEN)

    def loss(self, embedding: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropies (cell, border) plus the way to the centre (L1, in radii)."""
        found = self(embedding).float()
        binary = functional.binary_cross_entropy_with_logits(found[:, :2], target[:, :2])
        inside = target[:, :1]
        way: Tensor = ((found[:, 2:] - target[:, 2:]).abs() * inside).sum() / (2 * inside.sum() + 1)
        loss: Tensor = binary + way
        return loss


def dense_targets(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Targets [4, S/4, S/4] of labels [S, S]: cell, border, way to the centre in radii."""
    small = labels[2::4, 2::4]
    inside = small > 0
    border = np.zeros_like(inside)
    border[1:] |= small[1:] != small[:-1]
    border[:, 1:] |= small[:, 1:] != small[:, :-1]
    count = int(labels.max()) + 1
    flat = labels.ravel()
    areas = np.maximum(np.bincount(flat, minlength=count), 1)
    ys, xs = np.divmod(np.arange(labels.size), labels.shape[1])
    centre_y = np.bincount(flat, ys, count) / areas
    centre_x = np.bincount(flat, xs, count) / areas
    radius = np.sqrt(areas / np.pi)
    y, x = np.mgrid[2 : labels.shape[0] : 4, 2 : labels.shape[1] : 4]
    way_x = np.where(inside, (centre_x[small] - x) / radius[small], 0)
    way_y = np.where(inside, (centre_y[small] - y) / radius[small], 0)
    return np.stack([inside, border, way_x, way_y]).astype(np.float32)


def mask_targets(labels: NDArray[np.int32], cells: NDArray[np.int32]) -> NDArray[np.float32]:
    """Share of each 4×4 px square that belongs to the cell: float32 [M, S/4, S/4], 0..1."""
    side = labels.shape[0] // _CELLS_PER_TOKEN
    masks = [
        cv2.resize((labels == cell).astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        for cell in cells
    ]
    return np.stack(masks) if masks else np.zeros((0, side, side), np.float32)


def mask_loss(logits: Tensor, target: Tensor, others: Tensor, weights: LossWeights) -> Tensor:
    """Focal and dice loss [M] of logits [M, h, w] against shares 0..1.

    The focal term is the quality focal loss |t - p|^γ · BCE (Li et al. 2020, eq. 3), which is the
    usual focal loss where the target is 0 or 1. In the dice term, what lies on other cells,
    ``others`` [M, h, w], counts ``1 + weights.neighbours`` times as a false positive: NMS drops a
    cell that its neighbour's mask covers by a twentieth.
    """
    logits = logits.float()
    probability = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = ((target - probability).abs() ** weights.focal_gamma * entropy).mean(dim=(1, 2))
    overlap = (probability * target).sum(dim=(1, 2))
    total = probability.sum(dim=(1, 2)) + target.sum(dim=(1, 2))
    total = total + weights.neighbours * (probability * others).sum(dim=(1, 2))
    dice = 1 - (2 * overlap + _SMOOTH) / (total + _SMOOTH)
    return weights.focal * focal + weights.dice * dice


@torch.no_grad()
def score_targets(in_cell: Tensor, logits: Tensor, target: Tensor, quality: float) -> Tensor:
    """What the score should be: 0 in background, in a cell 1 less ``quality`` × (1 - IoU).

    NMS keeps the best score of all points in a cell, so the best mask should have it.

    Parameters
    ----------
    in_cell : float32 [B, N], 1 or 0; the first P points of every window are 1.
    logits, target : mask logits and true shares of these points, [B·P, h, w].
    quality : share of the score that tells good masks from bad ones, 0..1.
    """
    found, truth = logits > 0, target > 0.5
    both = (found & truth).sum(dim=(1, 2))
    overlap = both / (found | truth).sum(dim=(1, 2)).clamp(min=1)
    score = in_cell.clone()
    positives = len(overlap) // len(in_cell)
    score[:, :positives] -= quality * (1 - overlap.unflatten(0, (len(in_cell), -1)))
    return score

"""Samples as tensors, and the masks of a batch's cells. May import torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from cellseg1_rt.contract import PIXEL_MEAN, PIXEL_STD
from cellseg1_rt.model.decoding import Decoded
from cellseg1_rt.model.upscaling import upscale_masks
from cellseg1_rt.train.pretrain_data import Sample
from cellseg1_rt.train.pretrain_loss import dense_targets, mask_targets
from cellseg1_rt.train.pretrain_points import count_of_positives

__all__ = ["Batch", "collate", "masks_of_cells"]

_MEAN, _STD = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)


@dataclass(frozen=True)
class Batch:
    """B windows of W px with N points each, the first P of them in cells, as tensors.

    Attributes
    ----------
    pixels : float32 [B, 3, W, W], normalised, then padded with zeros, as at inference.
    origins : int64 [B, 2], (top, left) in tokens.
    points_xy : float32 [B, N, 2].
    in_cell : float32 [B, N], 1 or 0.
    masks : float32 [B, P, W/4, W/4], shares of the cells under the first P points.
    dense : float32 [B, 4, W/4, W/4].
    """

    pixels: Tensor
    origins: Tensor
    points_xy: Tensor
    in_cell: Tensor
    masks: Tensor
    dense: Tensor


def collate(samples: list[Sample]) -> Batch:
    """One batch of samples of one size."""
    pixels = []
    for sample in samples:
        normalised = (sample.image - _MEAN) / _STD
        normalised[sample.size[0] :], normalised[:, sample.size[1] :] = 0, 0
        pixels.append(normalised.transpose(2, 0, 1))
    cells = np.stack([sample.cell for sample in samples])
    positives = count_of_positives(cells.shape[1])
    masks = [mask_targets(sample.labels, sample.cell[:positives]) for sample in samples]
    return Batch(
        pixels=torch.from_numpy(np.stack(pixels)),
        origins=torch.tensor([sample.origin for sample in samples]),
        points_xy=torch.from_numpy(np.stack([sample.points_xy for sample in samples])),
        in_cell=torch.from_numpy((cells > 0).astype(np.float32)),
        masks=torch.from_numpy(np.stack(masks)),
        dense=torch.from_numpy(np.stack([dense_targets(sample.labels) for sample in samples])),
    )


def masks_of_cells(sam: Sam, decoded: Decoded, batch: Batch) -> Tensor:
    """Logits [B·P, W/4, W/4] of the first P points of every window."""
    images, positives, side = batch.masks.shape[:3]
    keys, hyper = (
        values.unflatten(0, (images, -1))[:, :positives].flatten(0, 1)
        for values in (decoded.keys, decoded.hyper)
    )
    return upscale_masks(sam, keys, hyper, (side // 4, side // 4))

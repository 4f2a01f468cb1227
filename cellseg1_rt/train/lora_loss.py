"""The loss that a LoRA is trained with, and its targets.

CellSeg1's code, not its text, which swaps the two terms: the mean squared error of the scores over
all points, plus binary cross-entropy on mask logits over positive points only. May import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cellseg1_rt.contract import PIXEL_MEAN, PIXEL_STD

if TYPE_CHECKING:
    from cellseg1_rt.train.lora_samples import LoraSample

__all__ = ["TileTensors", "loss_sums", "tensors_from_sample"]

_MEAN, _STD = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)

PIXELS_PER_LOGIT = 4
"""A mask logit stands for a square of 4×4 px of the model's input."""


@dataclass(frozen=True)
class TileTensors:
    """A sample as the step reads it, points with a mask first.

    Attributes
    ----------
    pixels : float32 [3, S, S], normalised.
    points_xy : float32 [N, 2], (x, y) in pixels of the model's input.
    target : float32 [N], what the score should be: 1 or 0.
    masked : how many of the points, the first ones, have a mask and so a mask loss.
    cell : int32 [N], the label under each point, 0 in background.
    labels : int32 [S/4, S/4], at the size of mask logits.
    """

    pixels: Tensor
    points_xy: Tensor
    target: Tensor
    masked: int
    cell: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> TileTensors:
        """The same on another device."""
        return TileTensors(
            self.pixels.to(device),
            self.points_xy.to(device),
            self.target.to(device),
            self.masked,
            self.cell.to(device),
            self.labels.to(device),
        )


def tensors_from_sample(sample: LoraSample) -> TileTensors:
    """Normalise the pixels, shrink the labels, and put points with a mask first.

    A mask is nearest-resized as torch's ``interpolate(mode="nearest")`` does it: of each square of
    4×4 px the upper left one counts. A positive whose mask is empty at that size gets target 0 and
    has no mask loss.
    """
    labels = np.ascontiguousarray(sample.labels[::PIXELS_PER_LOGIT, ::PIXELS_PER_LOGIT])
    has_mask = (sample.cell > 0) & np.isin(sample.cell, labels)
    order = np.argsort(~has_mask, kind="stable")
    normalised = (sample.image - _MEAN) / _STD
    return TileTensors(
        pixels=torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1))),
        points_xy=torch.from_numpy(sample.points_xy[order]),
        target=torch.from_numpy(has_mask[order].astype(np.float32)),
        masked=int(has_mask.sum()),
        cell=torch.from_numpy(sample.cell[order]),
        labels=torch.from_numpy(labels),
    )


def loss_sums(
    score: Tensor, target: Tensor, logits: Tensor, truth: Tensor
) -> tuple[Tensor, Tensor]:
    """Both terms of some points, not yet divided by the batch's counts.

    Parameters
    ----------
    score, target : [N], of all points.
    logits, truth : [M, S/4, S/4], of those with a mask; truth is bool.

    Returns
    -------
    The sum of squared errors over points, and the sum over masks of the mean cross-entropy of a
    mask's pixels; float32 scalars.
    """
    squared = ((score.float() - target) ** 2).sum()
    if not len(logits):
        return squared, squared.new_zeros(())
    entropy = functional.binary_cross_entropy_with_logits(
        logits.float(), truth.float(), reduction="sum"
    )
    return squared, entropy / truth[0].numel()

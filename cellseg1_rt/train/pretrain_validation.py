"""How a small SAM does on held-out pairs, and the two numbers that are set from them.

May import torch and scipy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional

from cellseg1_rt.model.decoding import decode_points
from cellseg1_rt.model.encoding import encode_window
from cellseg1_rt.settings import InferenceSettings
from cellseg1_rt.train.pretrain_batch import Batch, collate, masks_of_cells
from cellseg1_rt.train.pretrain_data import Pair, whole_image_sample

__all__ = ["mask_logit_scale", "score_scale", "validate"]

POINTS = 32
"""Points on each held-out image."""

GOOD_IOU = 0.5
PUBLISHED_SCORE = InferenceSettings().score


def validate(sam: Sam, pairs: list[Pair]) -> dict[str, float]:
    """Mean IoU of the masks of points in cells, and the share of points with the right score.

    Parameters
    ----------
    sam : the model, at its full size.
    pairs : held-out pairs; none give no figures.
    """
    overlaps, right = [], []
    for batch, score, logits in _predictions(sam, pairs):
        overlaps.append(_overlaps(logits, batch))
        right.append((score > PUBLISHED_SCORE) == (batch.in_cell[0] > 0.5))
    if not overlaps:
        return {}
    return {
        "validation_iou": float(torch.cat(overlaps).mean()),
        "validation_score_accuracy": float(torch.cat(right).float().mean()),
    }


def mask_logit_scale(sam: Sam, pairs: list[Pair]) -> float:
    """The factor on mask logits that makes them most likely on held-out pairs; 1 without pairs.

    Temperature scaling (Guo et al. 2017, section 4.2): the focal loss leaves logits too near to 0,
    which moves no mask but counts against its stability, #(logit > 0.8) / #(logit > -0.8).

    Parameters
    ----------
    sam : the model, at its full size.
    pairs : held-out pairs.
    """
    held = [(logits, batch.masks[0]) for batch, _, logits in _predictions(sam, pairs)]
    if not held:
        return 1.0
    logits, truth = (torch.cat(part) for part in zip(*held, strict=True))

    def loss(log_scale: float) -> float:
        scaled = logits * float(np.exp(log_scale))
        return float(functional.binary_cross_entropy_with_logits(scaled, truth))

    found = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def score_scale(sam: Sam, pairs: list[Pair]) -> float:
    """The factor on 1 - score with which as many points pass 0.8 as have a good mask; 1 without.

    Good is an IoU of at least 0.5 with the cell. At that score, precision and recall of good masks
    are equal on held-out pairs. A score of 1 stays 1.

    Parameters
    ----------
    sam : the model, at its full size.
    pairs : held-out pairs.
    """
    scores, good = [], []
    for batch, score, logits in _predictions(sam, pairs):
        # Points in cells beyond the first P have no mask here: of a picture without background.
        scores += [score[: len(logits)], score[batch.in_cell[0] == 0]]
        good.append((_overlaps(logits, batch) >= GOOD_IOU).float())
    if not scores:
        return 1.0
    passing = int(torch.cat(good).sum())
    ranked = torch.cat(scores).sort(descending=True).values
    # No point passes where no mask is good; then there is nothing to go by.
    if not 0 < passing < len(ranked):
        return 1.0
    between = float(ranked[passing - 1] + ranked[passing]) / 2
    return (1 - PUBLISHED_SCORE) / (1 - between) if between < 1 else 1.0


def _overlaps(logits: Tensor, batch: Batch) -> Tensor:
    """IoU [P] of the masks of a batch of one with their cells."""
    found, truth = logits > 0, batch.masks[0] > 0.5
    both = (found & truth).sum(dim=(1, 2))
    return both / (found | truth).sum(dim=(1, 2)).clamp(min=1)


@torch.no_grad()
def _predictions(sam: Sam, pairs: list[Pair]) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Each pair as a batch of one, its scores [N], and its cells' logits [P, S/4, S/4], float32."""
    size = sam.image_encoder.img_size
    for pair in pairs:
        batch = collate([whole_image_sample(pair, size, points=POINTS)])
        with torch.autocast("cpu", torch.bfloat16):
            embedding = encode_window(sam.image_encoder, batch.pixels)
            decoded = decode_points(sam, embedding.bfloat16(), batch.points_xy)
            logits = masks_of_cells(sam, decoded, batch)
        yield batch, decoded.score.float(), logits.float()

"""One batch forward and backward: gradients of CellSeg1's loss in a LoRA, in bounded memory.

A tile is encoded once for all its points. Points are decoded a few at a time, each group's
gradients flowing to the embedding before the next one starts, so that only one group's activations
exist; then the encoder's gradients follow in one pass. The sums are those of one large batch. Mask
logits stay at S/4 and exist for points with a mask only. May import torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cellseg1_rt.model.decoding import decode_points
from cellseg1_rt.model.encoding import Way, encode_window
from cellseg1_rt.model.upscaling import upscale_masks
from cellseg1_rt.train.lora_loss import PIXELS_PER_LOGIT, TileTensors, loss_sums

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = ["StepLosses", "StepOptions", "add_gradients", "autocast", "predict"]


@dataclass(frozen=True)
class StepOptions:
    """How a batch is worked through; none of it changes what is computed.

    Attributes
    ----------
    tiles_at_once : tiles that the encoder sees together, at least 1.
    points_at_once : points of a tile that are decoded together, at least 1.
    precision : ``fp32``, or ``bf16`` for autocast, which does round.
    checkpointing : keep only the encoder's tokens between blocks, for less memory and more time.
    """

    tiles_at_once: int
    points_at_once: int = 16
    precision: str = "fp32"
    checkpointing: bool = False


@dataclass(frozen=True)
class StepLosses:
    """Mean losses of a batch: of scores over all points, of masks over points with a mask."""

    score: float
    mask: float

    @property
    def total(self) -> float:
        """What is minimised."""
        return self.score + self.mask


def add_gradients(
    sam: Sam, tiles: Sequence[TileTensors], options: StepOptions, divisor: int
) -> StepLosses:
    """Add the gradients of a batch's loss / ``divisor`` to the LoRA's.

    Parameters
    ----------
    sam : with a LoRA; its mode says whether there is dropout.
    tiles : on the model's device, at least one, each with at least one point.
    options : memory and precision.
    divisor : batches that a step is made of.
    """
    points = sum(len(tile.target) for tile in tiles)
    masks = max(1, sum(tile.masked for tile in tiles))
    sums = torch.zeros(2, device=tiles[0].pixels.device)
    for first in range(0, len(tiles), options.tiles_at_once):
        group = tiles[first : first + options.tiles_at_once]
        with autocast(group[0].pixels.device, options.precision):
            embedding = encode_window(
                sam.image_encoder,
                torch.stack([tile.pixels for tile in group]),
                way=_way_of_attention(group[0].pixels.device, options.precision),
                checkpointing=options.checkpointing,
            )
        leaf = embedding.detach().requires_grad_()
        for index, tile in enumerate(group):
            for start in range(0, len(tile.target), options.points_at_once):
                part = slice(start, start + options.points_at_once)
                squared, entropy = _losses(sam, leaf[index : index + 1], tile, part, options)
                torch.autograd.backward((squared / points + entropy / masks) / divisor)
                sums += torch.stack([squared.detach(), entropy.detach()])
        torch.autograd.backward(embedding, leaf.grad)
    score, mask = (sums / torch.tensor([points, masks], device=sums.device)).tolist()
    return StepLosses(score, mask)


@torch.no_grad()
def predict(sam: Sam, tile: TileTensors, options: StepOptions) -> tuple[Tensor, Tensor]:
    """Scores [N] of a tile's points and mask logits [M, S/4, S/4] of those with a mask, float32."""
    with autocast(tile.pixels.device, options.precision):
        way = _way_of_attention(tile.pixels.device, options.precision)
        embedding = encode_window(sam.image_encoder, tile.pixels[None], way=way)
        parts = [
            _decode(sam, embedding, tile, slice(start, start + options.points_at_once))
            for start in range(0, len(tile.target), options.points_at_once)
        ]
    scores, logits = zip(*parts, strict=True)
    return torch.cat(scores).float(), torch.cat(logits).float()


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """bfloat16 where its range is enough, or nothing for ``fp32``."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _way_of_attention(device: torch.device, precision: str) -> Way:
    """The quickest where it was measured, on a CPU; on a card the one that keeps the least."""
    if device.type != "cpu":
        return "fused"
    return "blocks" if precision == "fp32" else "products"


def _losses(
    sam: Sam, embedding: Tensor, tile: TileTensors, part: slice, options: StepOptions
) -> tuple[Tensor, Tensor]:
    with autocast(embedding.device, options.precision):
        score, logits = _decode(sam, embedding, tile, part)
    cells = tile.cell[part][: len(logits)]
    truth = tile.labels == cells[:, None, None]
    return loss_sums(score, tile.target[part], logits, truth)


def _decode(sam: Sam, embedding: Tensor, tile: TileTensors, part: slice) -> tuple[Tensor, Tensor]:
    """Scores of some points, and mask logits of those of them that have a mask."""
    if torch.is_autocast_enabled(embedding.device.type):
        embedding = embedding.bfloat16()
    decoded = decode_points(sam, embedding, tile.points_xy[None, part])
    masked = max(0, min(tile.masked, part.stop) - part.start)
    side = tile.labels.shape[0] // PIXELS_PER_LOGIT
    logits = upscale_masks(sam, decoded.keys[:masked], decoded.hyper[:masked], (side, side))
    return decoded.score, logits

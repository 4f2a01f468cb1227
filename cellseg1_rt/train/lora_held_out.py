"""A corner of an image that is not trained on, and how good a LoRA is there. May import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from cellseg1_rt.train.lora_loss import TileTensors, loss_sums
from cellseg1_rt.train.lora_sample_settings import SampleSettings
from cellseg1_rt.train.lora_samples import LoraSample
from cellseg1_rt.train.lora_step import StepOptions, predict

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = ["Pair", "SplitPair", "judge", "split_pair"]

Pair = tuple[NDArray[np.uint8], NDArray[np.int32]]

MOST_BACKGROUND = 16
CLEAR_PX = 4
"""Background points lie at least this far from every cell, in pixels of the image."""


@dataclass(frozen=True)
class SplitPair:
    """An annotated image without one of its corners, and that corner as a sample.

    Attributes
    ----------
    rest : the pair with a black corner, of which nothing is known (label -1). It keeps its size, so
        its tiles, and the cells in them, have the size that they would have without a corner held
        out; black is what augmentation puts beyond an edge too.
    held_out : the tile at that corner, [S, S], with points in the corner's cells and background.
    cells : whole cells of the corner, each of which has a point.
    """

    rest: Pair
    held_out: LoraSample
    cells: int


def split_pair(
    image: NDArray[np.uint8],
    labels: NDArray[np.int32],
    corner_share: float,
    settings: SampleSettings,
    tile_px: int,
) -> SplitPair:
    """Hold out the corner whose number of whole cells is nearest to the mean of the four.

    Parameters
    ----------
    image : uint8 [H, W, 3].
    labels : int32 [H, W].
    corner_share : sides of the corner over the image's; at most a tile is held out.
    settings : size of samples, and the area up to which cells do not count.
    tile_px : side of the window that is judged, px of the image; that of the tiles trained on.
    """
    height, width = labels.shape
    tile = min(tile_px, height, width)
    rows, columns = (max(1, min(tile, int(corner_share * side))) for side in (height, width))
    corners = [(bottom, right) for bottom in (False, True) for right in (False, True)]
    windows = {
        (bottom, right): (_end(height, rows, bottom), _end(width, columns, right))
        for bottom, right in corners
    }
    cells = {
        corner: _whole_cells(labels, window, settings.smallest_cell_px)
        for corner, window in windows.items()
    }
    mean = sum(len(found) for found in cells.values()) / 4
    chosen = min(corners, key=lambda corner: abs(len(cells[corner]) - mean))
    bottom, right = chosen
    rest = image.copy(), labels.copy()
    rest[0][windows[chosen]], rest[1][windows[chosen]] = 0, -1
    around = _end(height, tile, bottom), _end(width, tile, right)
    inside = np.zeros(labels.shape, np.bool_)
    inside[windows[chosen]] = True
    sample = _sample(image[around], labels[around], inside[around], cells[chosen], settings)
    return SplitPair(rest, sample, len(cells[chosen]))


def _end(length: int, part: int, last: bool) -> slice:
    """The first or the last ``part`` of ``length``."""
    return slice(length - part, length) if last else slice(0, part)


def _whole_cells(
    labels: NDArray[np.int32], window: tuple[slice, slice], smallest_px: int
) -> NDArray[np.int32]:
    """Labels that lie in a window and nowhere else, above an area."""
    present, areas = np.unique(labels[window], return_counts=True)
    found, whole_areas = np.unique(labels, return_counts=True)
    whole = areas == whole_areas[np.searchsorted(found, present)]
    chosen: NDArray[np.int32] = present[(present > 0) & whole & (areas > smallest_px)]
    return chosen


def _sample(
    image: NDArray[np.uint8],
    labels: NDArray[np.int32],
    inside: NDArray[np.bool_],
    cells: NDArray[np.int32],
    settings: SampleSettings,
) -> LoraSample:
    """A square window of the image at the model's size; its points are always the same."""
    points = [_deepest(labels == cell) for cell in cells]
    clear = ndimage.distance_transform_edt(labels == 0) >= CLEAR_PX if cells.size else labels == 0
    places = np.argwhere(clear & inside)
    spread = np.linspace(0, len(places) - 1, min(MOST_BACKGROUND, len(places))).astype(int)
    points += [(int(y), int(x)) for y, x in places[spread]]
    size = (settings.image_size, settings.image_size)
    yx = (np.array(points, np.float64).reshape(-1, 2) + 0.5) * (size[0] / labels.shape[0])
    return LoraSample(
        image=np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8),
        labels=np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.int32),
        points_xy=np.ascontiguousarray(yx[:, ::-1].astype(np.int64), np.float32),
        cell=np.concatenate([cells, np.zeros(len(spread))]).astype(np.int32),
    )


def _deepest(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """(y, x) of the pixel of a mask farthest from its outside."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(y), int(x)


@torch.no_grad()
def judge(sam: Sam, tiles: Sequence[TileTensors], options: StepOptions) -> dict[str, float]:
    """How good a LoRA is on held-out tiles, without dropout; the model's mode is left as it was.

    Returns
    -------
    ``held_out_score``, what early stop goes by: over cells the mean of score × IoU of the mask,
    less the mean score over background points, scores clipped to 0..1. Besides it
    ``held_out_iou`` and ``held_out_loss``.
    """
    was_training = sam.training
    sam.eval()
    overlaps, of_cells, of_background, squared, entropy = [], [], [], 0.0, 0.0
    for tile in tiles:
        score, logits = predict(sam, tile, options)
        truth = tile.labels == tile.cell[: tile.masked, None, None]
        terms = loss_sums(score, tile.target, logits, truth)
        squared, entropy = squared + float(terms[0]), entropy + float(terms[1])
        both = ((logits > 0) & truth).sum(dim=(1, 2))
        either = ((logits > 0) | truth).sum(dim=(1, 2)).clamp(min=1)
        overlaps.append(both / either)
        of_cells.append(score[: tile.masked].clamp(0, 1))
        of_background.append(score[tile.masked :].clamp(0, 1))
    sam.train(was_training)
    iou, cells, background = (torch.cat(part) for part in (overlaps, of_cells, of_background))
    false = float(background.mean()) if len(background) else 0.0
    points = len(cells) + len(background)
    return {
        "held_out_score": float((cells * iou).mean()) - false,
        "held_out_iou": float(iou.mean()),
        "held_out_loss": squared / points + entropy / max(1, len(cells)),
    }

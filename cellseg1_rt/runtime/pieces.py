"""Pieces: what one tile of a large plane says of the cells in it.

A tile is segmented by the rules of an image, up to painting. What is whole in it is a candidate for
the plane; what its border cuts counts only where no tile can hold it whole. ``stitch`` decides
between tiles. Imports numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.base import Backend
from cellseg1_rt.geometry import Crop
from cellseg1_rt.runtime.candidates import Found
from cellseg1_rt.runtime.pipeline import (
    PROMPT_BATCH,
    Candidates,
    find_candidates,
    masks_from_candidates,
)
from cellseg1_rt.runtime.regions import RunMasks
from cellseg1_rt.runtime.tiles import Clearance, TilePlan
from cellseg1_rt.settings import InferenceSettings

__all__ = ["Piece", "pieces_from_candidates", "pieces_of_tile"]


@dataclass(frozen=True, eq=False)
class Piece:
    """A mask that one tile found, in pixels of the plane.

    Attributes
    ----------
    tile : number of the tile.
    place : its place in the list that the tile's last NMS left of whole, or of cut, masks.
    is_cut : whether the tile's border cuts it.
    is_own : whether no other tile holds its box farther from its borders.
    clearance_px : from its box to the nearest border of the tile, then the sum of the distances to
        the nearer horizontal and the nearer vertical one.
    box : (x0, y0, x1, y1), first and last pixel, inclusive.
    area_px : set pixels.
    runs : int32 [R, 3], (row, first column, column after the last), in raster order.
    score, stability : as in ``Cells``.
    point_xy : the prompt that found it.
    """

    tile: int
    place: int
    is_cut: bool
    is_own: bool
    clearance_px: tuple[int, int]
    box: tuple[int, int, int, int]
    area_px: int
    runs: NDArray[np.int32]
    score: float
    stability: float
    point_xy: tuple[float, float]


def pieces_of_tile(
    rgb: NDArray[np.uint8],
    tile: int,
    plan: TilePlan,
    backend: Backend,
    settings: InferenceSettings,
    prompt_batch: int = PROMPT_BATCH,
) -> list[Piece]:
    """Segment one tile.

    The area ratio is of the tile, and ``crops`` are those of the tile.

    Parameters
    ----------
    rgb : uint8 [h, w, 3], the tile, normalised by the statistics of the whole plane.
    tile : its number.
    """
    candidates = find_candidates(rgb, backend, settings, prompt_batch)
    return pieces_from_candidates(candidates, tile, plan, settings)


def pieces_from_candidates(
    candidates: Candidates, tile: int, plan: TilePlan, settings: InferenceSettings
) -> list[Piece]:
    """What is whole in a tile and its own, then what is cut in every tile.

    Parameters
    ----------
    candidates : of the tile, as of an image of its own, so that its borders dropped none.
    """
    window = plan.window(tile)
    clearance = plan.clearance(_in_plane(candidates.found.masks.box, window), tile)
    is_whole = np.minimum(clearance.rows, clearance.columns) > plan.edge_px
    # The part that is seen is already too long to be whole in any tile.
    is_hopeless = np.minimum(clearance.best_rows, clearance.best_columns) <= plan.edge_px
    pieces: list[Piece] = []
    for is_cut, chosen in ((False, is_whole), (True, ~is_whole & is_hopeless)):
        # Apart, so that a mask that the border cuts cannot suppress one that is whole.
        of_kind = replace(candidates, found=candidates.found.take(np.flatnonzero(chosen)))
        found, masks = masks_from_candidates(of_kind, settings)
        pieces += _pieces(found, masks, tile, plan, is_cut)
    return pieces


def _is_own(clearance: Clearance, slack_px: int = 0) -> NDArray[np.bool_]:
    """Whether no other tile holds the box farther from its borders, by more than a slack."""
    return np.asarray(
        (clearance.rows >= clearance.best_rows - slack_px)
        & (clearance.columns >= clearance.best_columns - slack_px)
    )


def _pieces(
    found: Found, masks: RunMasks, tile: int, plan: TilePlan, is_cut: bool
) -> Iterator[Piece]:
    """Those of a tile's masks that are its own, nearly so, or cut."""
    window = plan.window(tile)
    box = _in_plane(masks.box, window)
    clearance = plan.clearance(box, tile)
    is_own = _is_own(clearance)
    kept = (masks.area_px > 0) & (is_cut | _is_own(clearance, plan.edge_px))
    to_plane = np.array([window.y0, window.x0, window.x0], np.int32)
    for index in np.flatnonzero(kept).tolist():
        by_row, by_column = int(clearance.rows[index]), int(clearance.columns[index])
        x0, y0, x1, y1 = box[index].tolist()
        x, y = found.point_xy[index].tolist()
        yield Piece(
            tile=tile,
            place=index,
            is_cut=is_cut,
            is_own=bool(is_own[index]),
            clearance_px=(min(by_row, by_column), by_row + by_column),
            box=(x0, y0, x1, y1),
            area_px=int(masks.area_px[index]),
            runs=masks.runs[masks.start[index] : masks.end[index]] + to_plane,
            score=float(found.score[index]),
            stability=float(found.stability[index]),
            point_xy=(x + window.x0, y + window.y0),
        )


def _in_plane(boxes: NDArray[np.int32], window: Crop) -> NDArray[np.int32]:
    return boxes + np.array([window.x0, window.y0, window.x0, window.y0], np.int32)

"""A plane of any size through the model, tile by tile, in bounded memory.

In memory at a time: a tile, what is undecided of two rows of tiles, a band of labels, and the table
of cells. Imports numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.base import Backend
from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.planes import PlaneSource
from cellseg1_rt.geometry import Crop
from cellseg1_rt.results import Cells
from cellseg1_rt.runtime.bands import BandPainter
from cellseg1_rt.runtime.normalise import PixelStats, rgb_from_pixels, stats_from_pixels
from cellseg1_rt.runtime.pieces import Piece, pieces_of_tile
from cellseg1_rt.runtime.pipeline import PROMPT_BATCH
from cellseg1_rt.runtime.stitch import Stitcher
from cellseg1_rt.runtime.tiles import TilePlan
from cellseg1_rt.settings import InferenceSettings

__all__ = ["TileSegmenter", "pieces_on", "segment_plane", "stats_of_plane"]

TileSegmenter = Callable[[NDArray[np.uint8], int, TilePlan], list[Piece]]
"""What a device does to a tile: normalised pixels uint8 [h, w, 3], its number, the plan."""

_BLOCK_PX = 1024  # a side of the blocks in which a plane is measured, at least
_BAND_PX = 2**20  # pixels that are labelled at a time, whatever the plane's width


@dataclass(frozen=True)
class _OnBackend:
    """A backend as a ``TileSegmenter``."""

    backend: Backend
    settings: InferenceSettings
    prompt_batch: int

    def __call__(self, rgb: NDArray[np.uint8], tile: int, plan: TilePlan) -> list[Piece]:
        return pieces_of_tile(rgb, tile, plan, self.backend, self.settings, self.prompt_batch)


def pieces_on(
    backend: Backend, settings: InferenceSettings, prompt_batch: int = PROMPT_BATCH
) -> TileSegmenter:
    """What a loaded bundle does to a tile."""
    return _OnBackend(backend, settings, prompt_batch)


def stats_of_plane(source: PlaneSource, where: object = "image") -> PixelStats:
    """What the stretch of a plane depends on, in one pass over its blocks.

    Raises
    ------
    InputError : on pixels that cannot be normalised, with their place in the plane; on a plane of
        zeros.
    """
    height, width, _ = source.shape
    rows, columns = (
        chunk * -(-_BLOCK_PX // chunk) for chunk in source.chunk_px or (_BLOCK_PX, _BLOCK_PX)
    )
    stats: PixelStats | None = None
    for y in range(0, height, rows):
        for x in range(0, width, columns):
            block = source.read(slice(y, y + rows), slice(x, x + columns))
            found = stats_from_pixels(block, origin=(y, x), where=where)
            stats = found if stats is None else stats.merged(found)
    if stats is None:
        raise InputError(
            "an image without pixels",
            where=where,
            got=f"an array of shape {source.shape}",
            expected="at least 1 x 1 pixels",
        )
    return stats


def segment_plane(
    source: PlaneSource,
    plan: TilePlan,
    stats: PixelStats,
    segment_tile: TileSegmenter,
    settings: InferenceSettings,
    *,
    write: Callable[[NDArray[np.uint32]], None],
    report: Callable[[int], None] = lambda done: None,
    where: object = "image",
) -> Cells:
    """Segment a plane tile by tile.

    Parameters
    ----------
    source : the plane.
    plan : its tiles.
    stats : of the whole plane; never those of a tile.
    segment_tile : what runs the model.
    settings : of the model; the thresholds between tiles are its own, too.
    write : takes the labels uint32 [rows, width] from the top down, a band at a time. Numbers are
        unique and without gaps in the whole plane; a cell that goes on in the next band keeps its.
    report : called after each tile with the number of tiles that are done.
    where : what to call the image in messages.

    Returns
    -------
    The table of all cells.

    Raises
    ------
    InputError : on a plane of zeros.
    VerificationError : on a tensor that is not finite.
    """
    stitcher, painter = Stitcher(plan, settings), BandPainter(plan.width)
    done, painted = 0, 0
    for row in range(len(plan.rows)):
        for tile in plan.tiles_of_row(row):
            rgb = rgb_from_pixels(_read(source, plan.window(tile)), stats=stats, where=where)
            stitcher.add(segment_tile(rgb, tile, plan))
            done += 1
            report(done)
        is_last = row + 1 == len(plan.rows)
        cells, end = stitcher.settle(plan.height if is_last else plan.rows[row + 1][0])
        painter.add(cells)
        rows = max(1, _BAND_PX // plan.width)
        for top in range(painted, end, rows):
            write(painter.paint_to(min(top + rows, end)))
        painted = end
    return painter.cells()


def _read(source: PlaneSource, window: Crop) -> NDArray[Any]:
    return source.read(slice(window.y0, window.y1), slice(window.x0, window.x1))

"""Images too large for memory in a job: read, segmented and written window by window.

``docs/large_images.md`` tells what a user sees of it. Imports numpy.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import Image
from cellseg1_rt.formats.label_rows import LabelFile
from cellseg1_rt.formats.large_outputs import LargeResult, write_large_output
from cellseg1_rt.formats.planes import PlaneSource
from cellseg1_rt.jobs.display import LOG_EVERY_S
from cellseg1_rt.jobs.faults import with_retries
from cellseg1_rt.jobs.inputs import Task
from cellseg1_rt.jobs.outcomes import Prepared, Segmented
from cellseg1_rt.jobs.records import InputFile
from cellseg1_rt.results import Result
from cellseg1_rt.runtime.large import TileSegmenter, segment_plane, stats_of_plane
from cellseg1_rt.runtime.model import Model
from cellseg1_rt.runtime.normalise import PixelStats
from cellseg1_rt.runtime.previews import preview_of_plane
from cellseg1_rt.runtime.tiles import TilePlan
from cellseg1_rt.runtime.tiling import Tiling
from cellseg1_rt.settings import InferenceSettings

__all__ = [
    "LargeImages",
    "PreparedLarge",
    "SegmentedLarge",
    "TileOfPlane",
    "require_unchanged",
    "with_tiles",
]

_SHEET_PX = 640  # longer side of the picture that stands for a large image in the job's page


@dataclass(frozen=True)
class TileOfPlane:
    """What a device gets of a large image: pixels uint8 [h, w, 3], number, and the plan."""

    rgb: NDArray[np.uint8]
    tile: int
    plan: TilePlan


def with_tiles(
    whole: Callable[[NDArray[np.uint8]], Result], tiles: TileSegmenter
) -> Callable[[Any], Any]:
    """A device that takes both: images, and tiles of larger ones."""

    def segment(item: NDArray[np.uint8] | TileOfPlane) -> Any:
        if isinstance(item, TileOfPlane):
            return tiles(item.rgb, item.tile, item.plan)
        return whole(item)

    return segment


@dataclass(frozen=True)
class LargeImages:
    """What is done with images that are cut into tiles.

    Attributes
    ----------
    tiling : which images those are, and how they are cut.
    settings : of the model.
    """

    tiling: Tiling
    settings: InferenceSettings

    @classmethod
    def of_model(cls, model: Model, tile: str | int) -> LargeImages:
        """For a loaded bundle; ``tile`` is ``auto``, ``none`` or a side in px.

        Raises
        ------
        ConfigError : if it is none of these.
        """
        return cls(Tiling.of_bundle(model.manifest, tile), model.settings)

    def prepare(
        self,
        source: PlaneSource,
        task: Task,
        file: InputFile | None,
        folder: Path,
        stop: threading.Event,
    ) -> PreparedLarge | None:
        """Look at all pixels of a large image once; None for one that is to be segmented whole.

        Parameters
        ----------
        file : as it was before; None where nobody asked.
        folder : where labels can be kept, 4 bytes a pixel.
        stop : ends the waiting between tries.

        Raises
        ------
        InputError : on pixels that cannot be normalised.
        """
        started = time.perf_counter()
        height, width, _ = source.shape
        plan = self.tiling.plan((height, width), source.pixel_size_um, task.where)
        if plan is None:
            return None
        stats = stats_of_plane(source, task.where)
        seconds = {"read": time.perf_counter() - started}
        return PreparedLarge(task, file, seconds, plan, stats, self.settings, folder, stop)


@dataclass(frozen=True)
class PreparedLarge:
    """A large image that was looked at once.

    Attributes
    ----------
    file : its file as it was then; None where nobody asked.
    seconds : spent on it so far, by stage.
    plan : its tiles.
    stats : what the stretch of all of it depends on.
    settings : of the model.
    folder : where labels are kept meanwhile, in a file without a name.
    stop : ends the waiting between tries.
    """

    task: Task
    file: InputFile | None
    seconds: dict[str, float]
    plan: TilePlan
    stats: PixelStats
    settings: InferenceSettings
    folder: Path
    stop: threading.Event

    def segmented_by(self, device: Callable[[Any], Any]) -> SegmentedLarge:
        """Labels and cells, tile by tile.

        Parameters
        ----------
        device : as ``with_tiles`` makes it.

        Raises
        ------
        InputError : if the image changed since it was looked at.
        """
        started = time.perf_counter()
        labels = LabelFile(self.plan.width, self.folder)
        try:
            with self.opened() as source:
                cells = segment_plane(
                    source,
                    self.plan,
                    self.stats,
                    lambda rgb, tile, plan: device(TileOfPlane(rgb, tile, plan)),
                    self.settings,
                    write=labels.add,
                    report=_reporter(self.task.name, len(self.plan)),
                    where=self.task.where,
                )
            require_unchanged(self.file, self.task)
        except BaseException:
            labels.close()
            raise
        seconds = {**self.seconds, "segment": time.perf_counter() - started}
        return SegmentedLarge(self, LargeResult(labels, cells), seconds, labels.close)

    @contextmanager
    def opened(self) -> Iterator[PlaneSource]:
        """The image, window by window."""
        with self.task.open() as source:
            yield _Retrying(source, self.stop)


@dataclass(frozen=True)
class SegmentedLarge:
    """A large image that was segmented: what it was before, labels and cells, seconds by stage.

    ``close`` removes the labels; after that nothing can be written.
    """

    prepared: PreparedLarge
    result: LargeResult
    seconds: dict[str, float]
    close: Callable[[], None]

    def write_output(self, name: str, path: Path) -> None:
        """Write one output; see ``write_large_output``."""
        with self.prepared.opened() as source:
            preview = partial(preview_of_plane, source, self.prepared.stats, self.result.labels)
            write_large_output(name, path, source, self.result, preview)

    def small(self) -> Segmented:
        """A picture in its place, for the job's page, with the table of all cells."""
        prepared = self.prepared
        with prepared.opened() as source:
            rgb, labels = preview_of_plane(source, prepared.stats, self.result.labels, _SHEET_PX)
        image = Image(rgb, None, prepared.task.source)
        seen = Prepared(prepared.task, prepared.file, image, rgb, prepared.seconds)
        return Segmented(seen, Result(labels, self.result.cells), self.seconds)


def require_unchanged(file: InputFile | None, task: Task) -> None:
    """Refuse an image whose file changed since it was described.

    Raises
    ------
    InputError : if it did.
    """
    if file is not None and not file.is_unchanged(task.plane):
        raise InputError(
            "the file changed while it was read",
            where=task.where,
            fix="run the same command again when it is complete",
        )


class _Retrying:
    """A plane whose windows are tried again on errors of input and output that pass."""

    def __init__(self, source: PlaneSource, stop: threading.Event) -> None:
        self._source, self._stop = source, stop
        self.shape, self.dtype = source.shape, source.dtype
        self.pixel_size_um, self.chunk_px = source.pixel_size_um, source.chunk_px

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        return with_retries(lambda: self._source.read(rows, columns), self._stop)


def _reporter(name: str, tiles: int) -> Callable[[int], None]:
    """Says how far an image is, on stderr, at most every ``LOG_EVERY_S``."""
    last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_EVERY_S:
            last = time.monotonic()
            print(f"{name}: tile {done:,} of {tiles:,}", file=sys.stderr, flush=True)

    return report

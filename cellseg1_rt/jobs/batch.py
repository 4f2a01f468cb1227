"""Images through a model as a pipeline: readers, devices and writers, each in threads of their own.

An image that fails at any step becomes a failed outcome; the others go on. What is done with an
image's outputs, and whether it was done before, is the ``Store``'s to say.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import CellSeg1RtError
from cellseg1_rt.formats import Image
from cellseg1_rt.formats.images import image_of_plane
from cellseg1_rt.formats.outputs import write_output
from cellseg1_rt.jobs.faults import JobEndedError, as_failure, with_retries
from cellseg1_rt.jobs.inputs import Task
from cellseg1_rt.jobs.large import (
    LargeImages,
    PreparedLarge,
    SegmentedLarge,
    require_unchanged,
    with_tiles,
)
from cellseg1_rt.jobs.outcomes import Outcome, Prepared, Segmented, Store
from cellseg1_rt.jobs.records import InputFile
from cellseg1_rt.jobs.stages import RetiredError, Stage, run_stages
from cellseg1_rt.jobs.watch import DeviceLostError, Watched
from cellseg1_rt.results import Result
from cellseg1_rt.runtime.large import pieces_on
from cellseg1_rt.runtime.model import Model, rgb_for_model
from cellseg1_rt.runtime.pipeline import segment_rgb

__all__ = [
    "Segmenter",
    "Steps",
    "run_tasks",
    "segmenter_of",
]

Segmenter = Callable[[NDArray[np.uint8]], Result]
"""What a device does: labels and cells of a normalised image, uint8 [H, W, 3]."""


def segmenter_of(model: Model) -> Segmenter:
    """A model as a device of the pipeline; it takes the tiles of larger images, too."""
    return with_tiles(
        lambda rgb: segment_rgb(rgb, model.backend, model.settings, model.prompt_batch),
        pieces_on(model.backend, model.settings, model.prompt_batch),
    )


def run_tasks(
    devices: Sequence[Segmenter],
    tasks: Sequence[Task],
    store: Store,
    *,
    resize: int | None = None,
    workers: int = 2,
    stop: threading.Event | None = None,
    large: LargeImages | None = None,
) -> Generator[Outcome]:
    """Work through tasks and yield what became of each, in the order in which they are finished.

    In memory at a time: an image each reader, device and writer, two a device between readers and
    devices, and two a writer behind the devices.

    Parameters
    ----------
    devices : one thread each.
    resize : px a side to stretch images to first, or None.
    workers : threads that read, and as many that write. With one, and one device, the order is that
        of the tasks.
    stop : set to end early: images at a device or behind it are finished, others not begun.
    large : what is done with images that are cut into tiles; None segments each of them whole.

    Raises
    ------
    ConfigError : for what would fail every image alike: a full disk, or no device left that works.
    """
    stop = stop or threading.Event()
    steps = Steps(store, resize, stop, large)
    watched = [
        Watched(device, f"device {number} of {len(devices)}")
        for number, device in enumerate(devices, start=1)
    ]
    stages = [
        Stage("read", [steps.read] * workers, room=2 * len(devices)),
        Stage("segment", [steps.segment_on(device) for device in watched], 2 * workers, True),
        Stage("write", [steps.write] * workers, room=2 * workers),
    ]
    yield from run_stages(tasks, stages, stop)


class Steps:
    """The three steps of an image. An outcome that comes early passes through the later ones."""

    def __init__(
        self,
        store: Store,
        resize: int | None,
        stop: threading.Event,
        large: LargeImages | None = None,
    ) -> None:
        self._store, self._resize, self._stop = store, resize, stop
        self._large = large if resize is None else None  # what is stretched is not large

    def read(self, task: Task) -> Prepared | PreparedLarge | Outcome:
        """Skip what is done, read the rest."""
        started = time.perf_counter()
        try:
            cells = with_retries(lambda: self._store.cells_before(task), self._stop)
            if cells is not None:
                return Outcome(task, None, cells, None, None, {})
            file, image = with_retries(lambda: self._read(task), self._stop)
            if not isinstance(image, Image):
                return image
            rgb = rgb_for_model(image.pixels, self._resize, task.where)
        except Exception as error:
            failure = as_failure(error, task.where, "cannot be read")
            return Outcome(task, None, 0, failure, None, {"read": _since(started)})
        return Prepared(task, file, image, rgb, {"read": _since(started)})

    def segment_on(
        self, device: Segmenter
    ) -> Callable[[Any], Segmented | SegmentedLarge | Outcome]:
        """The step of one device; it retires when that is lost."""

        def segment(
            item: Prepared | PreparedLarge | Outcome,
        ) -> Segmented | SegmentedLarge | Outcome:
            if isinstance(item, Outcome):
                return item
            started = time.perf_counter()
            try:
                if isinstance(item, PreparedLarge):
                    return item.segmented_by(device)
                result = device(item.rgb)
            except DeviceLostError as lost:
                failure = lost.of_image(item.task.source)
                failed = _failed(item, failure, {**item.seconds, "segment": _since(started)})
                raise RetiredError(failed, lost.of_job()) from lost
            except Exception as error:
                failure = as_failure(error, item.task.where, "cannot be segmented")
                if isinstance(failure, JobEndedError):  # no room for the labels of a large image
                    raise failure from error
                return _failed(item, failure, {**item.seconds, "segment": _since(started)})
            return Segmented(item, result, {**item.seconds, "segment": _since(started)})

        return segment

    def write(self, item: Segmented | SegmentedLarge | Outcome) -> Outcome:
        """Write outputs, or keep the reason why there are none."""
        outcome = item if isinstance(item, Outcome) else self._written(item)
        if outcome.error is not None:
            self._store.fail(outcome)
        elif outcome.segmented is not None:
            self._store.keep(outcome)
        return outcome

    def _read(self, task: Task) -> tuple[InputFile | None, Image | PreparedLarge]:
        before = self._store.describe(task)
        folder = self._store.place(next(iter(task.outputs.values()))).parent
        large = None
        with task.open() as source:
            if self._large is not None:
                large = self._large.prepare(source, task, before, folder, self._stop)
            image = image_of_plane(source, task.source) if large is None else large
        require_unchanged(before, task)
        return before, image

    def _written(self, item: Segmented | SegmentedLarge) -> Outcome:
        started = time.perf_counter()
        prepared = item.prepared
        try:
            for name, path in prepared.task.outputs.items():
                self._write_output(name, path, item)
            shown = item if isinstance(item, Segmented) else _shown(item)
        except JobEndedError:
            raise
        except CellSeg1RtError as error:
            return _failed(prepared, error, {**item.seconds, "write": _since(started)})
        finally:
            if isinstance(item, SegmentedLarge):
                item.close()
        seconds = {**item.seconds, "write": _since(started)}
        cells = len(item.result.cells)
        return Outcome(prepared.task, shown, cells, None, prepared.file, seconds)

    def _write_output(self, name: str, path: Path, item: Segmented | SegmentedLarge) -> None:
        staged = self._store.place(path)

        def write() -> None:
            if isinstance(item, SegmentedLarge):
                item.write_output(name, staged)
                return
            write_output(
                name,
                staged,
                item.prepared.image,
                item.result,
                resize=self._resize,
                rgb=lambda: item.prepared.rgb,
            )

        try:
            with_retries(write, self._stop)
        except Exception as error:
            if isinstance(error, CellSeg1RtError) and error.where == staged:
                # Told by the name it was to have, not by the one it had while it was made.
                raise type(error)(
                    error.what, where=path, got=error.got, expected=error.expected, fix=error.fix
                ) from error
            if isinstance(error, OSError):
                error.filename = str(path)
            raise as_failure(error, path, "cannot be written") from error


def _shown(item: SegmentedLarge) -> Segmented:
    try:
        return item.small()
    except Exception as error:
        raise as_failure(error, item.prepared.task.where, "cannot be read") from error


def _failed(
    prepared: Prepared | PreparedLarge, error: CellSeg1RtError, seconds: dict[str, float]
) -> Outcome:
    return Outcome(prepared.task, None, 0, error, prepared.file, seconds)


def _since(started: float) -> float:
    return time.perf_counter() - started

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

from cellseg1_rt.errors import CellSeg1RtError, InputError
from cellseg1_rt.formats import Image, read_image
from cellseg1_rt.formats.outputs import write_output
from cellseg1_rt.jobs.faults import JobEndedError, as_failure, with_retries
from cellseg1_rt.jobs.inputs import Task
from cellseg1_rt.jobs.outcomes import Outcome, Prepared, Segmented, Store
from cellseg1_rt.jobs.records import InputFile
from cellseg1_rt.jobs.stages import Stage, run_stages
from cellseg1_rt.results import Result
from cellseg1_rt.runtime.model import Model, rgb_for_model
from cellseg1_rt.runtime.pipeline import segment_rgb

__all__ = [
    "Segmenter",
    "run_tasks",
    "segmenter_of",
]

Segmenter = Callable[[NDArray[np.uint8]], Result]
"""What a device does: labels and cells of a normalised image, uint8 [H, W, 3]."""


def segmenter_of(model: Model) -> Segmenter:
    """A model as a device of the pipeline."""
    return lambda rgb: segment_rgb(rgb, model.backend, model.settings, model.prompt_batch)


def run_tasks(
    devices: Sequence[Segmenter],
    tasks: Sequence[Task],
    store: Store,
    *,
    resize: int | None = None,
    workers: int = 2,
    stop: threading.Event | None = None,
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

    Raises
    ------
    ConfigError : for what would fail every image alike, such as a full disk.
    """
    stop = stop or threading.Event()
    steps = _Steps(store, resize, stop)
    stages = [
        Stage("read", [steps.read] * workers, room=2 * len(devices)),
        Stage("segment", [steps.segment_on(device) for device in devices], 2 * workers, True),
        Stage("write", [steps.write] * workers, room=2 * workers),
    ]
    yield from run_stages(tasks, stages, stop)


class _Steps:
    """The three steps of an image. An outcome that comes early passes through the later ones."""

    def __init__(self, store: Store, resize: int | None, stop: threading.Event) -> None:
        self._store, self._resize, self._stop = store, resize, stop

    def read(self, task: Task) -> Prepared | Outcome:
        """Skip what is done, read the rest."""
        started = time.perf_counter()
        try:
            cells = with_retries(lambda: self._store.cells_before(task), self._stop)
            if cells is not None:
                return Outcome(task, None, cells, None, None, {})
            file, image = with_retries(lambda: self._read(task.source), self._stop)
            rgb = rgb_for_model(image.pixels, self._resize, task.source)
        except Exception as error:
            failure = as_failure(error, task.source, "cannot be read")
            return Outcome(task, None, 0, failure, None, {"read": _since(started)})
        return Prepared(task, file, image, rgb, {"read": _since(started)})

    def segment_on(self, device: Segmenter) -> Callable[[Any], Segmented | Outcome]:
        """The step of one device."""

        def segment(item: Prepared | Outcome) -> Segmented | Outcome:
            if isinstance(item, Outcome):
                return item
            started = time.perf_counter()
            try:
                result = device(item.rgb)
            except Exception as error:
                failure = as_failure(error, item.task.source, "cannot be segmented")
                return _failed(item, failure, {**item.seconds, "segment": _since(started)})
            return Segmented(item, result, {**item.seconds, "segment": _since(started)})

        return segment

    def write(self, item: Segmented | Outcome) -> Outcome:
        """Write outputs, or keep the reason why there are none."""
        outcome = self._written(item) if isinstance(item, Segmented) else item
        if outcome.error is not None:
            self._store.fail(outcome)
        elif outcome.segmented is not None:
            self._store.keep(outcome)
        return outcome

    def _read(self, source: Path) -> tuple[InputFile | None, Image]:
        before = self._store.describe(source)
        image = read_image(source)
        if before is not None and not before.is_unchanged():
            raise InputError(
                "the file changed while it was read",
                where=source,
                fix="run the same command again when it is complete",
            )
        return before, image

    def _written(self, item: Segmented) -> Outcome:
        started = time.perf_counter()
        prepared = item.prepared
        try:
            for name, path in prepared.task.outputs.items():
                self._write_output(name, path, item)
        except JobEndedError:
            raise
        except CellSeg1RtError as error:
            return _failed(prepared, error, {**item.seconds, "write": _since(started)})
        seconds = {**item.seconds, "write": _since(started)}
        cells = len(item.result.cells)
        return Outcome(prepared.task, item, cells, None, prepared.file, seconds)

    def _write_output(self, name: str, path: Path, item: Segmented) -> None:
        staged = self._store.place(path)

        def write() -> None:
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


def _failed(prepared: Prepared, error: CellSeg1RtError, seconds: dict[str, float]) -> Outcome:
    return Outcome(prepared.task, None, 0, error, prepared.file, seconds)


def _since(started: float) -> float:
    return time.perf_counter() - started

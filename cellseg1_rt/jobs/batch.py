"""One image after another: read, segment, write. One that fails does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cellseg1_rt.errors import CellSeg1RtError, ConfigError
from cellseg1_rt.formats import (
    read_image,
    write_cells_csv,
    write_label_png,
    write_label_tiff,
    write_overlay,
)
from cellseg1_rt.jobs.inputs import Task
from cellseg1_rt.results import Result
from cellseg1_rt.runtime.model import Model, rgb_for_model

__all__ = ["Outcome", "run_tasks"]


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Attributes
    ----------
    task : the task.
    result : labels and cells; None if it failed.
    error : why it failed; None if it did not.
    seconds : wall time of reading, segmenting and writing.
    """

    task: Task
    result: Result | None
    error: CellSeg1RtError | None
    seconds: float


def run_tasks(
    model: Model, tasks: Iterable[Task], *, resize: int | None = None
) -> Iterator[Outcome]:
    """Work through tasks in order. A task writes all of its outputs or none.

    Raises
    ------
    ConfigError : for what would fail every image alike, such as a full disk.
    """
    for task in tasks:
        started = time.perf_counter()
        result, error = None, None
        try:
            result = _run_task(model, task, resize)
        except CellSeg1RtError as caught:
            error = caught
        yield Outcome(task, result, error, time.perf_counter() - started)


def _run_task(model: Model, task: Task, resize: int | None) -> Result:
    image = read_image(task.source)
    result = model.segment(image.pixels, resize=resize, name=task.source)
    pixel_size = image.pixel_size_um
    if pixel_size is not None and resize is not None:
        height, width = image.pixels.shape[:2]
        pixel_size = (pixel_size[0] * height / resize, pixel_size[1] * width / resize)
    written: list[Path] = []
    try:
        for name, path in task.outputs.items():
            if name == "tif":
                write_label_tiff(path, result.labels, pixel_size)
            elif name == "png":
                write_label_png(path, result.labels)
            elif name == "csv":
                write_cells_csv(path, result.cells, pixel_size)
            else:
                write_overlay(path, rgb_for_model(image.pixels, resize), result.labels)
            written.append(path)
    except OSError as error:
        _remove(written)
        raise ConfigError("cannot be written", where=path, got=error.strerror or error) from error
    except CellSeg1RtError:
        _remove(written)
        raise
    return result


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)

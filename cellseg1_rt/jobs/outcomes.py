"""What an image is between the steps of the pipeline, and where its outputs go.

Imports numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import CellSeg1RtError
from cellseg1_rt.formats import Image
from cellseg1_rt.jobs.inputs import Task
from cellseg1_rt.jobs.records import InputFile
from cellseg1_rt.jobs.staging import remove
from cellseg1_rt.results import Result

__all__ = ["Outcome", "PlainStore", "Prepared", "Segmented", "Store"]


@dataclass(frozen=True)
class Prepared:
    """An image that was read.

    Attributes
    ----------
    file : its file as it was read; None where nobody asked.
    image : as stored.
    rgb : normalised, and stretched if asked for, uint8 [H, W, 3].
    seconds : spent on it so far, by stage.
    """

    task: Task
    file: InputFile | None
    image: Image
    rgb: NDArray[np.uint8]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Segmented:
    """An image that was segmented: what it was before, labels and cells, seconds by stage."""

    prepared: Prepared
    result: Result
    seconds: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Attributes
    ----------
    task : the task.
    segmented : image, labels and cells; None if it failed, was done before, or in another process.
    cells : number found, now or before.
    error : why it failed; None if it did not.
    file : the image's file as it was read, if it was.
    seconds : spent in each stage, without waiting between them: read, segment, write.
    """

    task: Task
    segmented: Segmented | None
    cells: int
    error: CellSeg1RtError | None
    file: InputFile | None
    seconds: dict[str, float]

    @property
    def was_done_before(self) -> bool:
        """Whether an earlier run did it."""
        return self.error is None and self.segmented is None and self.file is None


class Store(Protocol):
    """Where outputs go. Called from several threads."""

    def cells_before(self, task: Task) -> int | None:
        """Cells of an image that need not be done again; None if it is to be done."""

    def describe(self, task: Task) -> InputFile | None:
        """The file of an image as it is now, if that is to be kept."""

    def place(self, output: Path) -> Path:
        """Where to write an output."""

    def keep(self, outcome: Outcome) -> None:
        """All outputs of an image are in their places. An exception ends the job."""

    def fail(self, outcome: Outcome) -> None:
        """An image failed; whatever was written of it is to go. An exception ends the job."""


class PlainStore:
    """A store that writes where the task says and remembers nothing."""

    def cells_before(self, task: Task) -> int | None:
        """Every image is to be done."""
        return None

    def describe(self, task: Task) -> InputFile | None:
        """Nothing is kept of an image's file."""
        return None

    def place(self, output: Path) -> Path:
        """Its own place."""
        return output

    def keep(self, outcome: Outcome) -> None:
        """It is where it belongs."""

    def fail(self, outcome: Outcome) -> None:
        """An image writes all of its outputs or none."""
        for output in outcome.task.outputs.values():
            remove(output)

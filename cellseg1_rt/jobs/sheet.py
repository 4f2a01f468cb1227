"""A sheet of small pictures of a job: the image and the outlines of its cells.

Pictures to look at, not to measure in. Imports numpy; opencv and pillow inside functions.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import CellSeg1RtError
from cellseg1_rt.formats import overlay_from_labels, read_labels
from cellseg1_rt.formats.images import image_of_plane
from cellseg1_rt.jobs.inputs import Task
from cellseg1_rt.jobs.outcomes import Outcome
from cellseg1_rt.runtime.model import rgb_for_model

__all__ = ["PICTURES", "Picture", "Sheet"]

PICTURES = 12
"""Most pictures of a job."""

_LONG_SIDE = 320  # px
_MOST_PX = 4096**2  # of an image that is read again for its picture, when an earlier run did it
_DARK, _GAMMA = 0.2, 0.6  # mean level below which a picture is brightened for the eye, and how


@dataclass(frozen=True)
class Picture:
    """A picture of one image: its name, cells, and a JPEG as a data URI of width × height px."""

    name: str
    cells: int
    data_uri: str
    width: int
    height: int


class Sheet:
    """Keeps pictures of some of a job's images, spread evenly over them.

    Which ones does not depend on the order in which they are finished.

    Parameters
    ----------
    tasks : of the whole job.
    resize : px a side that images are stretched to, or None.
    """

    def __init__(self, tasks: Sequence[Task], resize: int | None) -> None:
        last = len(tasks) - 1
        places = np.linspace(0, last, min(PICTURES, len(tasks))) if tasks else np.zeros(0)
        self._tasks = {tasks[place].name: tasks[place] for place in np.rint(places).astype(int)}
        self._resize = resize
        self._pictures: dict[str, Picture] = {}

    def add(self, outcome: Outcome) -> None:
        """Draw an image that was done, if it is one of the sheet's."""
        name = outcome.task.name
        if name not in self._tasks or outcome.error is not None:
            return
        if outcome.segmented is None:
            drawn = self._drawn_from_files(outcome.task)
        else:
            drawn = _drawn(outcome.segmented.prepared.rgb, outcome.segmented.result.labels)
        if drawn is not None:
            height, width = drawn.shape[:2]
            self._pictures[name] = Picture(name, outcome.cells, _jpeg_uri(drawn), width, height)

    def pictures(self) -> list[Picture]:
        """In the order of the job."""
        return [self._pictures[name] for name in self._tasks if name in self._pictures]

    def _drawn_from_files(self, task: Task) -> NDArray[np.uint8] | None:
        """What an earlier run did; None where it left no label map, or a file cannot be read."""
        path = task.outputs.get("tif", task.outputs.get("png"))
        if path is None:
            return None
        try:
            with task.open() as source:
                if source.shape[0] * source.shape[1] > _MOST_PX:
                    return None
                rgb = rgb_for_model(image_of_plane(source, task.source).pixels, self._resize)
            return _drawn(rgb, read_labels(path))
        except CellSeg1RtError:
            return None


def _drawn(rgb: NDArray[np.uint8], labels: NDArray[Any]) -> NDArray[np.uint8]:
    import cv2

    scale = min(1.0, _LONG_SIDE / max(labels.shape))
    height, width = (max(1, round(side * scale)) for side in labels.shape)
    small = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.float64)
    if small.mean() < 255 * _DARK:
        small = 255 * (small / 255) ** _GAMMA
    rows = (np.arange(height) + 0.5) * labels.shape[0] / height
    columns = (np.arange(width) + 0.5) * labels.shape[1] / width
    nearest = labels[np.ix_(rows.astype(int), columns.astype(int))]
    return overlay_from_labels(np.rint(small).astype(np.uint8), nearest)


def _jpeg_uri(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=82)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode('ascii')}"

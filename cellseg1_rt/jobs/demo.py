"""The demo: packaged samples through the packaged bundle, compared with their labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.evaluate.metrics import average_precision
from cellseg1_rt.files import atomic_path
from cellseg1_rt.formats import overlay_from_labels, read_image, read_labels
from cellseg1_rt.jobs.batch import run_tasks, segmenter_of
from cellseg1_rt.jobs.inputs import find_inputs, plan_tasks
from cellseg1_rt.jobs.outcomes import PlainStore
from cellseg1_rt.runtime.model import Model, rgb_for_model

__all__ = ["DemoRow", "run_demo", "write_picture"]


@dataclass(frozen=True)
class DemoRow:
    """One sample: its name, cells found and labelled, AP at IoU 0.5, and seconds taken."""

    name: str
    found: int
    labelled: int
    average_precision: float
    seconds: float


def run_demo(model: Model, folder: Path) -> Iterator[DemoRow]:
    """Segment the samples into ``folder`` (replacing what a demo left there), a row at a time."""
    tasks = plan_tasks(find_inputs([SAMPLES / "images"]), folder, ("tif", "csv", "overlay"))
    for outcome in run_tasks([segmenter_of(model)], tasks, PlainStore(), workers=1):
        if outcome.error is not None:
            raise outcome.error
        assert outcome.segmented is not None
        labels = outcome.segmented.result.labels
        name = outcome.task.source.name
        truth = read_labels(SAMPLES / "labels" / name)
        yield DemoRow(
            outcome.task.source.stem,
            outcome.cells,
            len(np.unique(truth)) - 1,
            average_precision(labels, truth, 0.5),
            sum(outcome.seconds.values()),
        )


def write_picture(folder: Path, columns: int = 4, tile_px: int = 320) -> Path:
    """One picture of all samples of a finished demo: the image above, its outlined cells below."""
    strips = []
    for path in sorted((SAMPLES / "images").iterdir()):
        rgb = rgb_for_model(read_image(path).pixels)
        labels = read_labels(folder / f"{path.stem}_labels.tif")
        strips.append(np.vstack([_tile(rgb, tile_px), _tile(rgb, tile_px, labels)]))
    while len(strips) % columns:
        strips.append(np.zeros_like(strips[0]))
    rows = [np.hstack(strips[first : first + columns]) for first in range(0, len(strips), columns)]
    path = folder / "demo.jpg"
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), np.vstack(rows)[..., ::-1])
    return path


def _tile(
    rgb: NDArray[np.uint8], side: int, labels: NDArray[np.generic] | None = None
) -> NDArray[np.uint8]:
    """The central square of an image, brightened for the eye, at ``side`` px, outlined if asked."""
    height, width = rgb.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    window = np.s_[top : top + short, left : left + short]
    bright = np.asarray(255 * (rgb[window] / 255) ** 0.6, np.uint8)
    tile = np.asarray(cv2.resize(bright, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    if labels is None:
        return tile
    small = cv2.resize(
        labels[window].astype(np.float32), (side, side), interpolation=cv2.INTER_NEAREST_EXACT
    )
    return overlay_from_labels(tile, small.astype(np.int32))

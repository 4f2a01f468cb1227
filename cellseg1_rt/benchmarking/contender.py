"""One image through one path, once: its seconds by stage, its work, its labels.

What is timed is what ``segment`` runs: read, ``Model.segment``, label TIFF and table written.
Imports what ``jobs`` does.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.base import Backend
from cellseg1_rt.benchmarking import counts
from cellseg1_rt.benchmarking.products import bytes_of, flop_of
from cellseg1_rt.benchmarking.stopwatch import Stopwatch, Tap, tapped
from cellseg1_rt.benchmarking.traffic import Asked, bytes_of_stages
from cellseg1_rt.contract import Manifest
from cellseg1_rt.formats import read_image, write_cells_csv, write_label_tiff
from cellseg1_rt.runtime import model as model_module
from cellseg1_rt.runtime import pipeline
from cellseg1_rt.runtime.model import Model

__all__ = ["SEGMENTING", "STAGES", "Contender", "RuntimeContender", "Sample", "Work"]

SEGMENTING = ("prepare", "encode", "decode", "head", "candidates", "nms", "clean+paint", "other")
"""Stages from pixels to labels; ``other`` is what lies between the ones that have a name."""

STAGES = ("read", *SEGMENTING, "write")

ITEMSIZE = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Work:
    """FLOPs and bytes of a stage, as ``products`` and ``traffic`` count them."""

    flop: int = 0
    moved_bytes: int = 0


@dataclass(frozen=True)
class Sample:
    """One image, once.

    Attributes
    ----------
    seconds : wall time by stage, of ``STAGES``; one that a path does not have is left out.
    work : FLOPs and bytes by stage.
    labels : integer [H, W].
    survivors : prompts whose score passed.
    """

    seconds: dict[str, float]
    work: dict[str, Work]
    labels: NDArray[Any]
    survivors: int

    @property
    def segmenting_s(self) -> float:
        """Seconds from pixels to labels."""
        return sum(self.seconds.get(stage, 0.0) for stage in SEGMENTING)


class Contender(Protocol):
    """A path that can be timed."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def precision(self) -> str:
        """What it computes in: the ceiling it is held against."""

    def run(self, image: Path) -> Sample:
        """One image, once."""


@dataclass
class _Metered:
    """A backend that times its calls and notes what was asked."""

    inner: Backend
    watch: Stopwatch
    asked: Asked = field(default_factory=Asked)

    @property
    def image_size(self) -> int:
        return self.inner.image_size

    def encode(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> list[Any]:
        self.asked.crops += len(images)
        self.asked.input_bytes += images.nbytes
        with self.watch.stage("encode"):
            return self.inner.encode(images, sizes)

    def decode(self, embedding: Any, points: NDArray[np.float32]) -> Any:
        self.asked.calls += (len(points),)
        with self.watch.stage("decode"):
            return self.inner.decode(embedding, points)

    def head(self, decoded: Any, index: NDArray[np.int64]) -> NDArray[np.float32]:
        with self.watch.stage("head"):
            logits = self.inner.head(decoded, index)
        self.asked.survivors += (len(index),)
        self.asked.logit_bytes += logits.nbytes
        return logits


class RuntimeContender:
    """A loaded bundle on a runtime.

    Parameters
    ----------
    model : the loaded bundle; not modified.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def name(self) -> str:
        """Runtime and precision."""
        return f"{self._model.choice.runtime} {self.precision}"

    @property
    def precision(self) -> str:
        """What the runtime computes in."""
        return self._model.choice.precision

    def run(self, image: Path) -> Sample:
        """Read, segment and write one image; the files are gone when this returns."""
        watch = Stopwatch()
        metered = _Metered(self._model.backend, watch)
        model, asked = copy.copy(self._model), metered.asked
        model.backend = metered
        with watch.stage("read"):
            pixels = read_image(image).pixels
        with tapped(watch, _taps(asked)), watch.stage("other"):
            result = model.segment(pixels, name=image)
        with tempfile.TemporaryDirectory() as folder:
            labels, cells = Path(folder, "labels.tif"), Path(folder, "cells.csv")
            with watch.stage("write"):
                write_label_tiff(labels, result.labels)
                write_cells_csv(cells, result.cells)
            asked.written_bytes = labels.stat().st_size + cells.stat().st_size
        asked.file_bytes, asked.pixel_bytes = image.stat().st_size, pixels.nbytes
        asked.rgb_bytes = 3 * result.labels.size
        asked.label_bytes = result.labels.nbytes
        work = work_of(asked, model.manifest, self.precision)
        return Sample(watch.seconds, work, result.labels, sum(asked.survivors))


def work_of(asked: Asked, manifest: Manifest, precision: str) -> dict[str, Work]:
    """FLOPs and bytes of each stage for what one image asked."""
    side, itemsize = manifest.image_size, ITEMSIZE[precision]
    encoded = counts.encoder(manifest.backbone, side, manifest.lora_rank) * asked.crops
    decoded = [product for n in asked.calls for product in counts.decoder(side, n)]
    headed = [product for n in asked.survivors for product in counts.head(side, n)]
    graphs = {"encode": encoded, "decode": decoded, "head": headed}
    work = {
        stage: Work(flop_of(products), bytes_of(products, itemsize))
        for stage, products in graphs.items()
    }
    return work | {
        stage: Work(moved_bytes=moved) for stage, moved in bytes_of_stages(asked).items()
    }


def _taps(asked: Asked) -> list[Tap]:
    """The pipeline's own functions, by stage."""

    def note_masks(found: Any) -> None:
        asked.packed_bytes += found.masks.words.nbytes

    return [
        Tap(model_module, "rgb_for_model", "prepare"),
        Tap(pipeline, "input_of_crop", "prepare"),
        Tap(pipeline, "candidates_of_crop", "candidates", note_masks),
        Tap(pipeline, "suppress", "nms"),
        Tap(pipeline, "clean", "clean+paint"),
        Tap(pipeline, "paint", "clean+paint"),
    ]

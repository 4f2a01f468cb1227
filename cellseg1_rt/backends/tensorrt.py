"""A bundle's engines on an NVIDIA card, through TensorRT-RTX or TensorRT.

May import tensorrt_rtx or tensorrt, and numba.cuda for device memory. What lies between the graphs
stays on the card; scores come to the host, logits where they are asked for. Building is
``cellseg1_rt.engine``'s. Only ``tensorrt_engine`` needs a card: it is met through a protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.cuda_graphs import CapturedRunner, DriverCapture
from cellseg1_rt.backends.engines import find_engines
from cellseg1_rt.backends.first_load import Place, check_at_first_load
from cellseg1_rt.backends.tensorrt_engine import Engine
from cellseg1_rt.backends.tensorrt_library import Card, load_library, present_card
from cellseg1_rt.check import Deviation
from cellseg1_rt.contract import Manifest
from cellseg1_rt.engine_files import EngineRecord
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.extras import require
from cellseg1_rt.lora_pairs import Pairs, read_pairs

__all__ = ["Loaded", "Runner", "TensorRtBackend", "load_tensorrt"]

# numpy has no bfloat16; nothing of that type is looked at on the host, so its bits are enough.
_ITEM = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16}


class Runner(Protocol):
    """One engine, loaded."""

    def run(self, tensors: Mapping[str, Any], stream: Any) -> None:
        """Queue one call.

        Parameters
        ----------
        tensors : by name, every input and output as a C-ordered device array; outputs are written.
        stream : numba's, on which it is queued.
        """

    def keep(self) -> None:
        """Keep on disk what was compiled for the shapes met so far."""


@dataclass(frozen=True)
class _Decoded:
    """A decoded batch. ``hyper`` and ``keys`` are the backend's buffers, until the next batch."""

    score: NDArray[np.float32]
    turn: int


class TensorRtBackend:
    """The three engines, and the buffers that they hand on to each other.

    Engines always read and write the same buffers, and rows of a call are filled up to a power of
    two or the most there can be: so shapes and addresses are few, and come again, which is what
    kernels compiled for a shape and captured CUDA graphs need.

    Parameters
    ----------
    manifest : the bundle's.
    runners : by graph.
    most : for each dynamic axis, the most rows of one call: ``B``, ``N``, ``M``.
    pairs : what the encoder takes besides images (``read_pairs``), copied to the card once.
    """

    def __init__(
        self,
        manifest: Manifest,
        runners: Mapping[str, Runner],
        most: Mapping[str, int],
        pairs: Pairs,
    ) -> None:
        from numba import cuda

        self._manifest, self._runners, self._most = manifest, runners, most
        self._cuda, self._turn = cuda, 0
        self._met: set[tuple[Any, ...]] = set()
        self._stream: Any = cuda.stream()
        size, grid, item = manifest.image_size, manifest.grid, _ITEM[manifest.precision]
        images, prompts, masks = most["B"], most["N"], most["M"]
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "image": ((images, size, size, 3), np.uint8),
            "size": ((images, 2), np.int32),
            "embedding": ((images, 256, grid, grid), item),
            "points": ((prompts, 2), np.float32),
            "score": ((prompts,), np.float32),
            "hyper": ((prompts, 32), item),
            "keys": ((prompts, grid * grid, 256), item),
            "index": ((masks,), np.int64),
            "logits": ((masks, 4 * grid, 4 * grid), np.float32),
            "survivors": ((prompts, 4 * grid, 4 * grid), np.float32),
        }
        self._buffers = {name: cuda.device_array(*form) for name, form in shapes.items()}
        self._pairs = {name: cuda.to_device(array) for name, array in pairs.items()}

    @property
    def image_size(self) -> int:
        """Side S of the square input in px."""
        return self._manifest.image_size

    def encode(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> list[Any]:
        """Embeddings, one an image, in device memory; see ``Backend.encode``."""
        grid, item = self._manifest.grid, _ITEM[self._manifest.precision]
        embedding = self._cuda.device_array((len(images), 256, grid, grid), item)
        for first in range(0, len(images), self._most["B"]):
            rows = slice(first, first + self._most["B"])
            inputs = {
                "image": self._filled("image", images[rows]),
                "size": self._filled("size", sizes[rows]),
            }
            made = self._rows("embedding", len(images[rows]))
            self._run("encoder", {**inputs, **self._pairs, "embedding": made})
            embedding[rows].copy_to_device(made, stream=self._stream)
        self._stream.synchronize()
        return [embedding[row : row + 1] for row in range(len(images))]

    def embedding_on_host(self, embedding: Any) -> NDArray[np.float32]:
        """An embedding as float32; see ``Checkable``."""
        values: NDArray[Any] = embedding.copy_to_host()
        if self._manifest.precision == "bf16":  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)

    def decode(self, embedding: Any, points: NDArray[np.float32]) -> _Decoded:
        """Scores of N points; see ``Backend.decode``.

        Raises
        ------
        ConfigError : on more points than the engine takes.
        """
        if len(points) > self._most["N"]:
            raise ConfigError(
                "more prompts in a call than the engine was built for",
                where="--prompt-batch",
                got=len(points),
                expected=f"at most {self._most['N']}",
                fix=f"--prompt-batch {self._most['N']}, or build a larger engine",
            )
        self._turn += 1
        rows = filled_rows(len(points), self._most["N"])
        read = self._rows("embedding", 1)
        read.copy_to_device(embedding, stream=self._stream)
        outputs = {name: self._rows(name, rows) for name in ("score", "hyper", "keys")}
        inputs = {"embedding": read, "points": self._filled("points", points, rows)}
        self._run("prompt_decoder", {**inputs, **outputs})
        score = outputs["score"].copy_to_host(stream=self._stream)
        self._stream.synchronize()
        return _Decoded(score[: len(points)], self._turn)

    def head(self, decoded: _Decoded, index: NDArray[np.int64]) -> Any:
        """Mask logits of the survivors, a device array until the next call; see ``Backend.head``.

        Raises
        ------
        ValueError : if another batch was decoded since: its ``keys`` are where these were.
        """
        if decoded.turn != self._turn:
            raise ValueError("ask for a batch's masks before the next batch is decoded")
        prompts = filled_rows(len(decoded.score), self._most["N"])
        kept = {name: self._rows(name, prompts) for name in ("keys", "hyper")}
        for first in range(0, len(index), self._most["M"]):
            part = index[first : first + self._most["M"]]
            rows = filled_rows(len(part), self._most["M"])
            inputs = {**kept, "index": self._filled("index", part, rows)}
            self._run("mask_head", {**inputs, "logits": self._rows("logits", rows)})
            # Not written there at once: a row's address need not be aligned as TensorRT wants it.
            target = self._buffers["survivors"][first : first + len(part)]
            target.copy_to_device(self._rows("logits", len(part)), stream=self._stream)
        self._stream.synchronize()
        return self._rows("survivors", len(index))

    def _run(self, graph: str, tensors: Mapping[str, Any]) -> None:
        """Queue a call; after the first of its shapes, keep what was compiled for them."""
        runner = self._runners[graph]
        runner.run(tensors, self._stream)
        shapes = (graph, *(tuple(array.shape) for array in tensors.values()))
        if shapes not in self._met:
            self._met.add(shapes)
            self._stream.synchronize()
            runner.keep()

    def _rows(self, name: str, count: int) -> Any:
        return self._buffers[name][:count]

    def _filled(self, name: str, values: NDArray[Any], rows: int | None = None) -> Any:
        """The first rows of a buffer, with a copy of these on the way into them, then zeros."""
        count = len(values) if rows is None else rows
        padded = np.zeros((count, *values.shape[1:]), values.dtype)
        padded[: len(values)] = values
        target = self._rows(name, count)
        target.copy_to_device(padded, stream=self._stream)
        return target


def filled_rows(count: int, most: int) -> int:
    """Rows of a call that is to hold ``count`` ≥ 1: the next power of two, at most ``most``."""
    return min(most, 1 << (count - 1).bit_length())


@dataclass(frozen=True)
class Loaded:
    """A bundle's engines on the card, and what is known of the place.

    Attributes
    ----------
    backend : ready to run.
    checked : what the bundle's check gave; None where it had passed before, or there is none.
    """

    backend: TensorRtBackend
    card: Card
    checked: list[Deviation] | None


def load_tensorrt(
    bundle: Path,
    manifest: Manifest,
    flavor: str,
    *,
    folder: Path | None = None,
    check_again: bool = False,
) -> Loaded:
    """The bundle's engines for the card that is present, checked by key and hash, then by running.

    Parameters
    ----------
    bundle, manifest : the bundle.
    flavor : ``tensorrt-rtx`` or ``tensorrt``.
    folder : where the engines are; None is inside the bundle, and in the user's cache.
    check_again : run the bundle's check even where it has passed.

    Raises
    ------
    MissingExtraError : if the library, or numba-cuda, is not installed.
    RuntimeUnavailableError : if there is no driver, no card, or no engine for it.
    BundleError : if an engine is damaged.
    VerificationError : if the card gives something else than the bundle was exported with.
    """
    trt = load_library(flavor, f"the runtime {flavor!r}")
    require("numba_cuda", extra="rtx", needed_for=f"the runtime {flavor!r}")
    card = present_card(flavor)
    records = find_engines(
        bundle, manifest, flavor=flavor, version=trt.__version__, target=card.target, folder=folder
    )
    most = {
        axis: span.max for record in records.values() for axis, span in record.key.profile.items()
    }
    runners = {graph: _runner(trt, record, card) for graph, record in records.items()}
    backend = TensorRtBackend(manifest, runners, most, read_pairs(bundle, manifest))
    plans = tuple(record.plan_sha256 for record in records.values())
    place = Place(card.name, card.driver, flavor, trt.__version__, plans)
    checked = check_at_first_load(backend, bundle, manifest, place, most["N"], again=check_again)
    return Loaded(backend, card, checked)


def _runner(trt: Any, record: EngineRecord, card: Card) -> Runner:
    """An engine, its calls captured: TensorRT-RTX does that itself."""
    engine = Engine(trt, record, card)
    if record.key.flavor == "tensorrt-rtx":
        return engine
    return CapturedRunner(engine, DriverCapture())

"""A bundle's engines on an NVIDIA card, through TensorRT-RTX or TensorRT.

May import tensorrt_rtx or tensorrt, and numba.cuda for device memory. What lies between the graphs
stays on the card; scores come to the host, logits where they are asked for. Building is
``cellseg1_rt.engine``'s. Only ``_Engine`` needs a card: the rest is told of it by a protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.engines import find_engines
from cellseg1_rt.backends.tensorrt_library import Log, load_library, logger_for, present_target
from cellseg1_rt.contract import GRAPHS, Manifest
from cellseg1_rt.engine_files import EngineRecord
from cellseg1_rt.errors import ConfigError, RuntimeUnavailableError
from cellseg1_rt.extras import require

__all__ = ["Runner", "TensorRtBackend", "load_tensorrt"]

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


@dataclass(frozen=True)
class _Decoded:
    """A decoded batch. ``hyper`` and ``keys`` are the backend's buffers, until the next batch."""

    score: NDArray[np.float32]
    turn: int


class TensorRtBackend:
    """The three engines, and the buffers that they hand on to each other.

    Parameters
    ----------
    manifest : the bundle's.
    runners : by graph.
    most : for each dynamic axis, the most rows of one call: ``B``, ``N``, ``M``.
    """

    def __init__(
        self, manifest: Manifest, runners: Mapping[str, Runner], most: Mapping[str, int]
    ) -> None:
        from numba import cuda

        self._manifest, self._runners, self._most = manifest, runners, most
        self._cuda, self._turn = cuda, 0
        self._stream: Any = cuda.stream()
        size, grid, item = manifest.image_size, manifest.grid, _ITEM[manifest.precision]
        images, prompts, masks = most["B"], most["N"], most["M"]
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "image": ((images, size, size, 3), np.uint8),
            "size": ((images, 2), np.int32),
            "points": ((prompts, 2), np.float32),
            "score": ((prompts,), np.float32),
            "hyper": ((prompts, 32), item),
            "keys": ((prompts, grid * grid, 256), item),
            "index": ((masks,), np.int64),
            "logits": ((masks, 4 * grid, 4 * grid), np.float32),
            "survivors": ((prompts, 4 * grid, 4 * grid), np.float32),
        }
        self._buffers = {name: cuda.device_array(*form) for name, form in shapes.items()}

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
            self._runners["encoder"].run({**inputs, "embedding": embedding[rows]}, self._stream)
        self._stream.synchronize()
        return [embedding[row : row + 1] for row in range(len(images))]

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
        outputs = {name: self._rows(name, len(points)) for name in ("score", "hyper", "keys")}
        self._runners["prompt_decoder"].run(
            {"embedding": embedding, "points": self._filled("points", points), **outputs},
            self._stream,
        )
        score = outputs["score"].copy_to_host(stream=self._stream)
        self._stream.synchronize()
        return _Decoded(score, self._turn)

    def head(self, decoded: _Decoded, index: NDArray[np.int64]) -> Any:
        """Mask logits of the survivors, a device array until the next call; see ``Backend.head``.

        Raises
        ------
        ValueError : if another batch was decoded since: its ``keys`` are where these were.
        """
        if decoded.turn != self._turn:
            raise ValueError("ask for a batch's masks before the next batch is decoded")
        prompts = len(decoded.score)
        kept = {name: self._rows(name, prompts) for name in ("keys", "hyper")}
        for first in range(0, len(index), self._most["M"]):
            part = index[first : first + self._most["M"]]
            logits = self._rows("logits", len(part))
            self._runners["mask_head"].run(
                {**kept, "index": self._filled("index", part), "logits": logits}, self._stream
            )
            # Not written there at once: a row's address need not be aligned as TensorRT wants it.
            target = self._buffers["survivors"][first : first + len(part)]
            target.copy_to_device(logits, stream=self._stream)
        self._stream.synchronize()
        return self._rows("survivors", len(index))

    def _rows(self, name: str, count: int) -> Any:
        return self._buffers[name][:count]

    def _filled(self, name: str, values: NDArray[Any]) -> Any:
        """The first rows of a buffer, with a copy of these on the way into them."""
        rows = self._rows(name, len(values))
        rows.copy_to_device(np.ascontiguousarray(values), stream=self._stream)
        return rows


class _Engine:
    """An engine that was read back. All of this runs on a card only."""

    def __init__(self, trt: Any, record: EngineRecord) -> None:
        log = Log()
        self._runtime = trt.Runtime(logger_for(trt, log))
        self._engine = self._runtime.deserialize_cuda_engine(record.plan.read_bytes())
        if self._engine is None:
            raise RuntimeUnavailableError(
                f"the runtime {record.key.flavor!r} cannot load this engine",
                where=record.plan,
                got=log.first_error,
                fix="build it again with this version, for this card",
            )
        self._context = self._engine.create_execution_context()
        self._inputs = [tensor.name for tensor in GRAPHS[record.key.graph].inputs]
        self._log = log

    def run(self, tensors: Mapping[str, Any], stream: Any) -> None:
        """Queue one call; see ``Runner.run``."""
        for name, array in tensors.items():
            if name in self._inputs:
                self._context.set_input_shape(name, array.shape)
            address = array.__cuda_array_interface__["data"][0]
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(int(stream)):
            raise RuntimeUnavailableError("an engine did not run", got=self._log.first_error)


def load_tensorrt(
    bundle: Path, manifest: Manifest, flavor: str, *, folder: Path | None = None
) -> TensorRtBackend:
    """The bundle's engines for the card that is present, checked by key and hash.

    Parameters
    ----------
    bundle, manifest : the bundle.
    flavor : ``tensorrt-rtx`` or ``tensorrt``.
    folder : where the engines are; None is inside the bundle, and in the user's cache.

    Raises
    ------
    MissingExtraError : if the library, or numba-cuda, is not installed.
    RuntimeUnavailableError : if there is no driver, no card, or no engine for it.
    BundleError : if an engine is damaged.
    """
    trt = load_library(flavor, f"the runtime {flavor!r}")
    require("numba_cuda", extra="rtx", needed_for=f"the runtime {flavor!r}")
    target = present_target(flavor)
    records = find_engines(
        bundle, manifest, flavor=flavor, version=trt.__version__, target=target, folder=folder
    )
    most = {
        axis: span.max for record in records.values() for axis, span in record.key.profile.items()
    }
    return TensorRtBackend(
        manifest, {graph: _Engine(trt, record) for graph, record in records.items()}, most
    )

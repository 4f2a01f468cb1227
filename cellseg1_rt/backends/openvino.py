"""A bundle's graphs on OpenVINO, on any CPU it knows.

May import openvino. Reads bundles, knows nothing of prompts or labels. OpenVINO is used directly
and not as a provider of ONNX Runtime: that plugin (1.8.1) offers no device on CPUs that are not
Intel's. Its own default is bf16 wherever the CPU has it, so the precision is always set and what
was compiled is asked what it became.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.graph_check import broken_graph, check_graph
from cellseg1_rt.backends.libraries import library_error
from cellseg1_rt.backends.openvino_islands import split_off_sines
from cellseg1_rt.contract import GRAPHS, Manifest
from cellseg1_rt.errors import RuntimeUnavailableError
from cellseg1_rt.extras import require
from cellseg1_rt.lora_pairs import read_pairs

if TYPE_CHECKING:
    import openvino as ov

__all__ = ["OpenVinoBackend", "cpu_capabilities"]

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_KEYS = {"prompt_decoder": "output", "mask_head": "input"}
"""Where each graph has the keys, the one tensor between graphs that is large."""


class OpenVinoBackend:
    """The three graphs as compiled OpenVINO models.

    Parameters
    ----------
    bundle : the bundle's folder.
    manifest : its manifest, already read.
    precision : what to compute in, ``fp32`` or ``bf16``; scores and logits are float32 either way.
    threads : threads of one operator; 0 lets OpenVINO take all cores.

    Raises
    ------
    MissingExtraError : if openvino is not installed.
    RuntimeUnavailableError : if its libraries do not load, or it computes in another precision.
    BundleError : if a graph cannot be loaded or is not the one the manifest describes.
    """

    def __init__(
        self, bundle: Path, manifest: Manifest, *, precision: str = "fp32", threads: int = 0
    ) -> None:
        self._manifest = manifest
        core = _core()
        self._graphs = {
            name: _load_graph(core, Path(bundle) / spec.file_name, manifest, precision, threads)
            for name, spec in GRAPHS.items()
        }
        pairs = read_pairs(bundle, manifest)
        self._pairs = {name: _tensor(array) for name, array in pairs.items()}

    @property
    def image_size(self) -> int:
        """Side S of the square input in px."""
        return self._manifest.image_size

    def encode(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> list[Any]:
        """Embeddings, one an image; see ``Backend.encode``."""
        outputs = self._graphs["encoder"].run(image=images, size=sizes, **self._pairs)
        return [_Embedding(outputs, index) for index in range(len(images))]

    def decode(self, embedding: _Embedding, points: NDArray[np.float32]) -> _Decoded:
        """Scores of N points; see ``Backend.decode``."""
        outputs = self._graphs["prompt_decoder"].run(embedding=embedding.tensor(), points=points)
        return _Decoded(np.array(outputs["score"].data, np.float32), outputs)

    def head(self, decoded: _Decoded, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Mask logits of the survivors; see ``Backend.head``."""
        held = decoded.outputs
        outputs = self._graphs["mask_head"].run(keys=held["keys"], hyper=held["hyper"], index=index)
        return np.array(outputs["logits"].data, np.float32)


def cpu_capabilities() -> frozenset[str]:
    """What OpenVINO computes natively on this CPU, by its own names: FP32, BF16, FP16, INT8, …

    Raises
    ------
    MissingExtraError : if openvino is not installed.
    RuntimeUnavailableError : if its libraries do not load.
    """
    return frozenset(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


class _Graph:
    """A compiled graph and its requests. A request is taken as long as its outputs are held.

    Parameters
    ----------
    compiled : the graph, or what is left of it.
    before : a part of it that runs first and whose outputs are inputs of ``compiled``.
    """

    def __init__(self, compiled: ov.CompiledModel, before: _Graph | None = None) -> None:
        self._compiled, self._before = compiled, before
        self._free: list[ov.InferRequest] = []

    def run(self, **inputs: Any) -> _Outputs:
        """Infer once. Inputs are arrays or OpenVINO's own tensors, which are not copied."""
        # Fresh memory costs as much as computing in it (64 MB of keys a batch), so a request and
        # the outputs it owns are used again.
        try:
            request = self._free.pop()  # in one step, so two threads never get the same one
        except IndexError:
            request = self._compiled.create_infer_request()
        tensors = {name: _tensor(value) for name, value in inputs.items()}
        first = None if self._before is None else self._before.run(**tensors)
        if first is not None:
            tensors.update(first.tensors())
        for name, tensor in tensors.items():
            request.set_tensor(name, tensor)
        request.infer()
        return _Outputs(request, self._free)


class _Outputs:
    """Outputs of one inference, by name, unchanged until nobody holds this any more."""

    def __init__(self, request: ov.InferRequest, free: list[ov.InferRequest]) -> None:
        self._request, self._free = request, free

    def __getitem__(self, name: str) -> ov.Tensor:
        return self._request.get_tensor(name)

    def tensors(self) -> dict[str, ov.Tensor]:
        """All of them, by name."""
        ports = self._request.model_outputs
        return {port.get_any_name(): self._request.get_tensor(port) for port in ports}

    def __del__(self) -> None:
        self._free.append(self._request)


@dataclass(frozen=True)
class _Embedding:
    """Image ``index`` of an encoded batch."""

    outputs: _Outputs
    index: int

    def tensor(self) -> ov.Tensor:
        """A view [1, 256, g, g] of the encoder's output."""
        import openvino as ov

        batch = self.outputs["embedding"]
        shape = list(batch.shape)
        return ov.Tensor(batch, [self.index, 0, 0, 0], [self.index + 1, *shape[1:]])


@dataclass(frozen=True)
class _Decoded:
    """A decoded batch; ``hyper`` and ``keys`` stay OpenVINO's."""

    score: NDArray[np.float32]
    outputs: _Outputs


def _core() -> ov.Core:
    require("openvino", extra="openvino", needed_for="the runtime 'openvino'")
    try:
        with _no_telemetry():
            import openvino as ov
        return ov.Core()
    except (ImportError, OSError, RuntimeError) as error:
        raise library_error("openvino", "openvino", error, instead="onnxruntime") from error


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Let OpenVINO be imported without its reporter of usage.

    Importing openvino (2026.4) otherwise forks a process that sends an event over the network, and
    leaves a client's id in the home directory. It does without where that package is not there.
    """
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # this is how an import is made to fail
    try:
        yield
    finally:
        del sys.modules[name]


def _tensor(value: Any) -> ov.Tensor:
    import openvino as ov

    return ov.Tensor(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def _load_graph(
    core: ov.Core, path: Path, manifest: Manifest, precision: str, threads: int
) -> _Graph:
    try:
        # The folder's own path: weights outside it are refused, and a link would count as outside.
        model = core.read_model(path.resolve())
    except RuntimeError as error:
        raise broken_graph(path, error) from error
    check_graph(
        path,
        path.stem,
        manifest,
        metadata=_metadata(model),
        inputs=[tensor.names for tensor in model.inputs],
        outputs=[tensor.names for tensor in model.outputs],
    )
    try:
        if precision == "fp32":
            return _Graph(_compile(core, model, path, precision, threads))
        parts = split_off_sines(_with_keys_in_bf16(model, path.stem))
        if parts is None:
            return _Graph(_compile(core, model, path, precision, threads))
        before, rest = parts
        return _Graph(
            _compile(core, rest, path, precision, threads),
            before=_Graph(_compile(core, before, path, "fp32", threads)),
        )
    except RuntimeError as error:  # OpenVINO has no exceptions of its own
        raise broken_graph(path, error) from error


def _compile(
    core: ov.Core, model: ov.Model, path: Path, precision: str, threads: int
) -> ov.CompiledModel:
    config = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned threads of two processes on one machine would share the first cores.
        "ENABLE_CPU_PINNING": False,
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
    }
    compiled = core.compile_model(model, "CPU", config)
    _require_precision(compiled, path, precision)
    return compiled


def _with_keys_in_bf16(model: ov.Model, name: str) -> ov.Model:
    """Hand the keys on as they were computed: otherwise both graphs convert 64 MB a batch."""
    import openvino as ov

    if name not in _KEYS:
        return model
    steps = ov.preprocess.PrePostProcessor(model)
    port = steps.output("keys") if _KEYS[name] == "output" else steps.input("keys")
    port.tensor().set_element_type(ov.Type.bf16)
    return steps.build()


def _require_precision(compiled: ov.CompiledModel, path: Path, precision: str) -> None:
    got = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if got != _HINTS[precision]:  # OpenVINO takes the next best without a word
        raise RuntimeUnavailableError(
            "OpenVINO does not compute in the precision asked for",
            where=path,
            got=got,
            expected=_HINTS[precision],
            fix="--precision bundle",
        )


def _metadata(model: ov.Model) -> dict[str, str]:
    """The ONNX file's metadata, which OpenVINO files under ``framework``."""
    info = model.get_rt_info()
    if "framework" not in info:
        return {}
    return {key: str(value.value) for key, value in info["framework"].items()}

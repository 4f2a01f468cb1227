"""A bundle's graphs on ONNX Runtime's CPU provider: what other runtimes are compared with.

May import onnxruntime. Reads bundles, knows nothing of prompts or labels. Its providers for cards
are ``onnxruntime_card``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.graph_check import broken_graph, check_graph
from cellseg1_rt.contract import GRAPHS, Manifest
from cellseg1_rt.extras import require
from cellseg1_rt.lora_pairs import read_pairs

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["OnnxRuntimeBackend", "load_session"]


@dataclass(frozen=True)
class _Decoded:
    """A decoded batch; ``hyper`` and ``keys`` stay ONNX Runtime's."""

    score: NDArray[np.float32]
    hyper: ort.OrtValue
    keys: ort.OrtValue


class OnnxRuntimeBackend:
    """The three graphs as ONNX Runtime sessions.

    Parameters
    ----------
    bundle : the bundle's folder.
    manifest : its manifest, already read.
    threads : threads of one operator; 0 lets ONNX Runtime take all cores.

    Raises
    ------
    MissingExtraError : if onnxruntime is not installed.
    BundleError : if a graph cannot be loaded or is not the one the manifest describes.
    """

    def __init__(self, bundle: Path, manifest: Manifest, *, threads: int = 0) -> None:
        require("onnxruntime", extra="cpu", needed_for="the runtime 'onnxruntime'")
        self._manifest = manifest
        self._sessions = {
            name: _on_cpu(bundle / spec.file_name, name, manifest, threads)
            for name, spec in GRAPHS.items()
        }
        pairs = read_pairs(bundle, manifest)
        self._pairs = {name: _value(array) for name, array in pairs.items()}

    @property
    def image_size(self) -> int:
        """Side S of the square input in px."""
        return self._manifest.image_size

    def encode(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> list[Any]:
        """Embeddings, one an image; see ``Backend.encode``."""
        (embedding,) = self._run("encoder", image=images, size=sizes, **self._pairs)
        if len(images) == 1:
            return [embedding]
        array = embedding.numpy()
        return [_value(array[index : index + 1]) for index in range(len(array))]

    def embedding_on_host(self, embedding: Any) -> NDArray[np.float32]:
        """An embedding as float32; see ``Checkable``."""
        return np.asarray(embedding.numpy(), np.float32)

    def decode(self, embedding: Any, points: NDArray[np.float32]) -> _Decoded:
        """Scores of N points; see ``Backend.decode``."""
        score, hyper, keys = self._run("prompt_decoder", embedding=embedding, points=points)
        return _Decoded(score.numpy(), hyper, keys)

    def head(self, decoded: _Decoded, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Mask logits of the survivors; see ``Backend.head``."""
        (logits,) = self._run("mask_head", keys=decoded.keys, hyper=decoded.hyper, index=index)
        array: NDArray[np.float32] = logits.numpy()
        return array

    def _run(self, graph: str, **inputs: Any) -> list[Any]:
        feeds = {
            name: _value(value) if isinstance(value, np.ndarray) else value
            for name, value in inputs.items()
        }
        outputs = [tensor.name for tensor in GRAPHS[graph].outputs]
        return list(self._sessions[graph].run_with_ort_values(outputs, feeds))


def _value(array: NDArray[Any]) -> Any:
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def load_session(
    path: Path,
    name: str,
    manifest: Manifest,
    options: ort.SessionOptions,
    providers: Sequence[Any],
    **settings: Any,
) -> ort.InferenceSession:
    """A graph as a session, checked against the contract.

    Parameters
    ----------
    path, name : the graph's file, and its name in ``GRAPHS``.
    options, providers, settings : as ONNX Runtime takes them.

    Raises
    ------
    BundleError : if it cannot be loaded or is not the one the manifest describes.
    """
    import onnxruntime as ort

    options.log_severity_level = 3  # what ORT warns of here is its own choice of kernels
    try:
        session = ort.InferenceSession(str(path), options, providers=list(providers), **settings)
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise broken_graph(path, error) from error
    check_graph(
        path,
        name,
        manifest,
        metadata=session.get_modelmeta().custom_metadata_map,
        inputs=[[tensor.name] for tensor in session.get_inputs()],
        outputs=[[tensor.name] for tensor in session.get_outputs()],
    )
    return session


def _on_cpu(path: Path, name: str, manifest: Manifest, threads: int) -> ort.InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return load_session(
        path,
        name,
        manifest,
        options,
        ["CPUExecutionProvider"],
        # Its fused sum and norm takes four times as long on a CPU as the two by themselves.
        disabled_optimizers=["SkipLayerNormFusion"],
    )

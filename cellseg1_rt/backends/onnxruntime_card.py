"""A bundle's graphs on an NVIDIA card, through ONNX Runtime's providers: no engines to build.

May import onnxruntime. What lies between the graphs stays on the card: sessions are bound to device
memory, scores come to the host, logits where they are asked for. Which provider that is, and
whether its libraries are there, is ``providers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.first_load import Place, check_at_first_load
from cellseg1_rt.backends.onnxruntime import load_session
from cellseg1_rt.backends.providers import PROVIDERS, ROWS, prepared_options, require_provider
from cellseg1_rt.backends.tensorrt_library import present_card
from cellseg1_rt.contract import GRAPHS, Manifest
from cellseg1_rt.errors import RuntimeUnavailableError
from cellseg1_rt.lora_pairs import Pairs, read_pairs

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["CardArray", "OnnxRuntimeOnCard", "load_on_card"]


class CardArray:
    """A tensor of ONNX Runtime's in device memory, as any library takes one: by its interface."""

    def __init__(self, value: ort.OrtValue) -> None:
        self._value = value  # the memory lives as long as this does
        self.shape: tuple[int, ...] = tuple(value.shape())

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Where the memory is: float32 [M, 4g, 4g] in C order."""
        return {
            "shape": self.shape,
            "typestr": np.dtype(np.float32).str,
            "data": (self._value.data_ptr(), False),
            "version": 3,
        }

    def copy_to_host(self) -> NDArray[np.float32]:
        """The same in the host's memory."""
        array: NDArray[np.float32] = self._value.numpy()
        return array


@dataclass(frozen=True)
class _Decoded:
    """A decoded batch; ``hyper`` and ``keys`` stay on the card."""

    score: NDArray[np.float32]
    hyper: ort.OrtValue
    keys: ort.OrtValue


class OnnxRuntimeOnCard:
    """The three graphs as sessions bound to device memory.

    Parameters
    ----------
    manifest : the bundle's.
    sessions : by graph.
    device, number : ONNX Runtime's name of where tensors between graphs lie: ``cuda``, 0.
    pairs : what the encoder takes besides images (``read_pairs``), copied to the card once.
    """

    def __init__(
        self,
        manifest: Manifest,
        sessions: Mapping[str, ort.InferenceSession],
        device: str,
        number: int,
        pairs: Pairs,
    ) -> None:
        self._manifest, self._sessions = manifest, sessions
        self._device, self._number = device, number
        self._pairs = {name: self._on_card(array) for name, array in pairs.items()}

    @property
    def image_size(self) -> int:
        """Side S of the square input in px."""
        return self._manifest.image_size

    def encode(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> list[Any]:
        """Embeddings, one an image, which go through one by one; see ``Backend.encode``."""
        rows = [slice(row, row + 1) for row in range(len(images))]
        return [
            self._run("encoder", image=images[row], size=sizes[row], **self._pairs)[0]
            for row in rows
        ]

    def embedding_on_host(self, embedding: Any) -> NDArray[np.float32]:
        """An embedding as float32; see ``Checkable``."""
        return np.asarray(embedding.numpy(), np.float32)

    def decode(self, embedding: Any, points: NDArray[np.float32]) -> _Decoded:
        """Scores of N points; see ``Backend.decode``."""
        score, hyper, keys = self._run("prompt_decoder", embedding=embedding, points=points)
        return _Decoded(score.numpy(), hyper, keys)

    def head(self, decoded: _Decoded, index: NDArray[np.int64]) -> Any:
        """Mask logits of the survivors, on the card; see ``Backend.head``."""
        (logits,) = self._run("mask_head", keys=decoded.keys, hyper=decoded.hyper, index=index)
        return CardArray(logits)

    def _run(self, graph: str, **inputs: Any) -> list[Any]:
        """One call: arrays of the host are copied to the card, outputs stay there."""
        session = self._sessions[graph]
        binding = session.io_binding()
        for name, value in inputs.items():
            held = self._on_card(value) if isinstance(value, np.ndarray) else value
            binding.bind_ortvalue_input(name, held)
        for tensor in GRAPHS[graph].outputs:
            binding.bind_output(tensor.name, self._device, self._number)
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return list(binding.get_outputs())

    def _on_card(self, array: NDArray[Any]) -> Any:
        import onnxruntime as ort

        values = np.ascontiguousarray(array)
        return ort.OrtValue.ortvalue_from_numpy(values, self._device, self._number)


def load_on_card(bundle: Path, manifest: Manifest, runtime: str) -> OnnxRuntimeOnCard:
    """The bundle on the card that is present, and its check passed there.

    Parameters
    ----------
    bundle, manifest : the bundle.
    runtime : of ``PROVIDERS``.

    Raises
    ------
    MissingExtraError : if ONNX Runtime or the plugin is not installed.
    RuntimeUnavailableError : if the provider, the driver or a card is not there, naming the library
        and the file that it wanted.
    BundleError : if a graph cannot be loaded or is not the one the manifest describes.
    VerificationError : if the card gives something else than the bundle was exported with.
    """
    require_provider(runtime)
    card = present_card(runtime)
    import onnxruntime as ort

    sessions = {}
    for name, spec in GRAPHS.items():
        options, providers = prepared_options(runtime, manifest, name, card.number)
        session = load_session(bundle / spec.file_name, name, manifest, options, providers)
        took = session.get_providers()[0]
        if took != PROVIDERS[runtime].name:
            raise RuntimeUnavailableError(
                f"ONNX Runtime left the provider of the runtime {runtime!r} out",
                where=f"graph {name}",
                got=took,
                expected=PROVIDERS[runtime].name,
                fix="run with --runtime onnxruntime, or reinstall the provider",
            )
        sessions[name] = session
    pairs = read_pairs(bundle, manifest)
    backend = OnnxRuntimeOnCard(manifest, sessions, "cuda", card.number, pairs)
    hashes = tuple(manifest.files[name].sha256 for name in manifest.model_files)
    place = Place(card.name, card.driver, runtime, ort.__version__, hashes)
    check_at_first_load(backend, bundle, manifest, place, ROWS["max"])
    return backend

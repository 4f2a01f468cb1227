"""The TensorRT backend over device arrays of numba's simulator, against ONNX Runtime's backend.

Run by ``test_tensorrt`` in a process of its own with ``NUMBA_ENABLE_CUDASIM=1``. What stands in is
one call of an engine: it runs the engine's graph on ONNX Runtime, and gets and leaves its tensors
where a card would.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from cellseg1_rt.backends.onnxruntime import OnnxRuntimeBackend
from cellseg1_rt.backends.tensorrt import TensorRtBackend
from cellseg1_rt.bundles import PACKAGED
from cellseg1_rt.contract import GRAPHS, read_manifest
from cellseg1_rt.errors import ConfigError

BUNDLE = PACKAGED["tiny"]
MOST = {"B": 2, "N": 11, "M": 3}


class Runner:
    """A graph on ONNX Runtime, called as an engine is."""

    def __init__(self, graph: str) -> None:
        self._spec = GRAPHS[graph]
        self._session = ort.InferenceSession(
            str(BUNDLE / self._spec.file_name), providers=["CPUExecutionProvider"]
        )
        self.rows: list[int] = []

    def run(self, tensors: Mapping[str, Any], stream: Any) -> None:
        assert set(tensors) == {t.name for t in (*self._spec.inputs, *self._spec.outputs)}
        feeds = {tensor.name: tensors[tensor.name].copy_to_host() for tensor in self._spec.inputs}
        self.rows.append(len(feeds[self._spec.inputs[-1].name]))
        outputs = [tensor.name for tensor in self._spec.outputs]
        for name, value in zip(outputs, self._session.run(outputs, feeds), strict=True):
            assert tensors[name].shape == value.shape
            assert tensors[name].dtype == value.dtype
            tensors[name].copy_to_device(value)


@pytest.fixture(scope="module")
def runners() -> dict[str, Runner]:
    return {graph: Runner(graph) for graph in GRAPHS}


@pytest.fixture
def backend(runners: dict[str, Runner]) -> TensorRtBackend:
    return TensorRtBackend(read_manifest(BUNDLE), runners, MOST)


def near(found: Any, expected: np.ndarray) -> bool:
    got = found if isinstance(found, np.ndarray) else found.copy_to_host()
    return got.shape == expected.shape and np.abs(got - expected).max() < 1e-4 * expected.std()


def test_the_pipelines_three_calls(backend, runners):
    """3 images in calls of 2; 5 survivors in calls of 3, one of them twice."""
    reference = OnnxRuntimeBackend(BUNDLE, read_manifest(BUNDLE))
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (3, 512, 512, 3), np.uint8)
    sizes = np.array([[512, 512], [509, 311], [127, 512]], np.int32)
    embeddings = backend.encode(images, sizes)
    expected = reference.encode(images, sizes)
    assert runners["encoder"].rows[-2:] == [2, 1]
    for got, wanted in zip(embeddings, expected, strict=True):
        assert near(got, wanted.numpy())
    for image, count in ((2, 7), (0, 11)):
        points = rng.uniform(0, 311, (count, 2)).astype(np.float32)
        decoded = backend.decode(embeddings[image], points)
        wanted = reference.decode(expected[image], points)
        assert near(decoded.score, wanted.score)
        for index in (np.array([6, 0, 3, 3, 5]), np.array([4])):
            assert near(backend.head(decoded, index), reference.head(wanted, index))
        assert runners["mask_head"].rows[-3:] == [3, 2, 1]


def test_more_prompts_than_the_engine_takes(backend):
    with pytest.raises(ConfigError) as caught:
        backend.decode(None, np.zeros((12, 2), np.float32))
    assert str(caught.value) == (
        "--prompt-batch: more prompts in a call than the engine was built for; got 12; expected "
        "at most 11. Fix: --prompt-batch 11, or build a larger engine"
    )


def test_a_batch_that_was_overwritten(backend):
    (embedding,) = backend.encode(
        np.zeros((1, 512, 512, 3), np.uint8), np.array([[512, 512]], np.int32)
    )
    first = backend.decode(embedding, np.ones((2, 2), np.float32))
    backend.decode(embedding, np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match="before the next batch is decoded"):
        backend.head(first, np.array([0]))


def test_what_is_asked_of_a_backend(backend):
    assert backend.image_size == 512

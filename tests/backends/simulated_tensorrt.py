"""The TensorRT backend over device arrays of numba's simulator, against ONNX Runtime's backend.

Run by ``test_tensorrt`` in a process of its own with ``NUMBA_ENABLE_CUDASIM=1``. What stands in is
one call of an engine: it runs the engine's graph on ONNX Runtime, and gets and leaves its tensors
where a card would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numba import cuda

from cellseg1_rt.backends import tensorrt
from cellseg1_rt.backends.first_load import Place, run_check
from cellseg1_rt.backends.onnxruntime import OnnxRuntimeBackend
from cellseg1_rt.backends.tensorrt import TensorRtBackend, filled_rows, load_tensorrt
from cellseg1_rt.backends.tensorrt_library import Card
from cellseg1_rt.bundles import PACKAGED
from cellseg1_rt.check import read_check
from cellseg1_rt.contract import GRAPHS, read_manifest
from cellseg1_rt.engine.build import keys_of
from cellseg1_rt.engine.recipe import EngineRecipe
from cellseg1_rt.engine_files import EngineRecord, Figures
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.recipes import read_recipe

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
        self.addresses: set[tuple[str, int]] = set()
        self.kept: list[int] = []

    def run(self, tensors: Mapping[str, Any], stream: Any) -> None:
        assert set(tensors) == {t.name for t in (*self._spec.inputs, *self._spec.outputs)}
        feeds = {tensor.name: tensors[tensor.name].copy_to_host() for tensor in self._spec.inputs}
        self.rows.append(len(feeds[self._spec.inputs[-1].name]))
        self.addresses |= {(name, array._ary.ctypes.data) for name, array in tensors.items()}
        outputs = [tensor.name for tensor in self._spec.outputs]
        for name, value in zip(outputs, self._session.run(outputs, feeds), strict=True):
            assert tensors[name].shape == value.shape
            assert tensors[name].dtype == value.dtype
            tensors[name].copy_to_device(value)

    def keep(self) -> None:
        self.kept.append(self.rows[-1])


@pytest.fixture(scope="module")
def runners() -> dict[str, Runner]:
    return {graph: Runner(graph) for graph in GRAPHS}


@pytest.fixture
def backend(runners: dict[str, Runner]) -> TensorRtBackend:
    return TensorRtBackend(read_manifest(BUNDLE), runners, MOST, {})


def near(found: Any, expected: np.ndarray) -> bool:
    got = found if isinstance(found, np.ndarray) else found.copy_to_host()
    return got.shape == expected.shape and np.abs(got - expected).max() < 1e-4 * expected.std()


def test_the_pipelines_three_calls(backend, runners):
    """3 images in calls of 2; 7 points in a call of 8; 5 survivors in calls of 3 and 2."""
    reference = OnnxRuntimeBackend(BUNDLE, read_manifest(BUNDLE))
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (3, 512, 512, 3), np.uint8)
    sizes = np.array([[512, 512], [509, 311], [127, 512]], np.int32)
    embeddings = backend.encode(images, sizes)
    expected = reference.encode(images, sizes)
    assert runners["encoder"].rows[-2:] == [2, 1]
    for got, wanted in zip(embeddings, expected, strict=True):
        assert near(backend.embedding_on_host(got), wanted.numpy())
    for image, count, rows in ((2, 7, 8), (0, 11, 11)):
        points = rng.uniform(0, 311, (count, 2)).astype(np.float32)
        decoded = backend.decode(embeddings[image], points)
        assert runners["prompt_decoder"].rows[-1] == rows
        wanted = reference.decode(expected[image], points)
        assert near(decoded.score, wanted.score)
        for index in (np.array([6, 0, 3, 3, 5]), np.array([4])):
            assert near(backend.head(decoded, index), reference.head(wanted, index))
        assert runners["mask_head"].rows[-3:] == [3, 2, 1]


def test_shapes_and_addresses_come_again(backend, runners):
    """What a captured CUDA graph needs: whatever is asked, few shapes, and always the same memory.

    What was compiled is kept once for each shape of a call.
    """
    for runner in runners.values():
        runner.addresses.clear()
        runner.kept.clear()
    image, size = np.zeros((1, 512, 512, 3), np.uint8), np.array([[512, 512]], np.int32)
    (embedding,) = backend.encode(image, size)
    for count in (5, 7, 9):
        decoded = backend.decode(embedding, np.ones((count, 2), np.float32))
        backend.head(decoded, np.arange(3))
    backend.encode(image, size)
    for name, runner in runners.items():
        tensors = (*GRAPHS[name].inputs, *GRAPHS[name].outputs)
        assert len(runner.addresses) == len(tensors)
    assert {name: runner.kept for name, runner in runners.items()} == {
        "encoder": [1],
        "prompt_decoder": [8, 11],
        "mask_head": [3, 3],  # of keys of 8 prompts, and of 11
    }


def test_pairs_are_fed_at_every_call_from_where_they_were_put_once():
    """What stands in for a swappable bundle's encoder keeps what it is given."""
    manifest = replace(read_manifest(BUNDLE), lora_rank=3)
    rng = np.random.default_rng(11)
    shapes = {tensor.name: tensor.shape for tensor in manifest.graphs["encoder"].inputs[2:]}
    pairs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    given: list[dict[str, Any]] = []
    encoder = SimpleNamespace(
        run=lambda tensors, stream: given.append(dict(tensors)), keep=lambda: None
    )
    backend = TensorRtBackend(manifest, {"encoder": encoder}, MOST, pairs)
    backend.encode(np.zeros((3, 512, 512, 3), np.uint8), np.full((3, 2), 512, np.int32))
    assert [set(tensors) for tensors in given] == [
        {"image", "size", "lora_a", "lora_b", "embedding"}
    ] * 2
    for name, values in pairs.items():
        assert given[0][name] is given[1][name]
        np.testing.assert_array_equal(given[0][name].copy_to_host(), values)


@pytest.mark.parametrize("count, rows", [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 11), (11, 11)])
def test_rows_are_filled_up_to_a_power_of_two_or_the_most(count: int, rows: int):
    assert filled_rows(count, 11) == rows


def test_an_embedding_in_bf16_is_read_as_float32(backend, runners):
    values = np.array([1.0, -2.5, 3.140625, 0.0], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    half = TensorRtBackend(replace(read_manifest(BUNDLE), precision="bf16"), runners, MOST, {})
    np.testing.assert_array_equal(half.embedding_on_host(cuda.to_device(bits)), values)


def test_the_bundles_check_passes_with_no_more_prompts_than_an_engine_takes(backend):
    manifest = read_manifest(BUNDLE)
    check = read_check(BUNDLE, manifest)
    deviations = run_check(backend, check, manifest, MOST["N"])
    assert all(0 < each.relative < 0.5 * each.allowed for each in deviations)


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


def test_engines_are_loaded_and_checked_on_the_card(runners, monkeypatch, tmp_path):
    """From library, card and records to a checked backend; plans are ONNX Runtime's sessions."""
    card = Card("NVIDIA GeForce RTX 4070", "sm_89", "580.1")
    library = SimpleNamespace(__version__="1.7.1")
    recipe = EngineRecipe.from_dict(read_recipe("engine", "rtx40")).updated(prompt_batch=11)
    keys = keys_of(read_manifest(BUNDLE), recipe, ("sm_89",), "1.7.1")
    records = {
        name: EngineRecord(key, name, 1, Figures(1, 1.0, 1, 1), tmp_path)
        for name, key in keys.items()
    }
    places = []

    def check(backend: Any, bundle: Any, manifest: Any, place: Any, most: int, again: bool) -> Any:
        places.append((place, most, again))
        return run_check(backend, read_check(bundle, manifest), manifest, most)

    monkeypatch.setattr(tensorrt, "load_library", lambda *arguments: library)
    monkeypatch.setattr(tensorrt, "require", lambda *arguments, **named: None)
    monkeypatch.setattr(tensorrt, "present_card", lambda flavor: card)
    monkeypatch.setattr(tensorrt, "find_engines", lambda *arguments, **named: records)
    monkeypatch.setattr(tensorrt, "Engine", lambda trt, record, card: runners[record.key.graph])
    monkeypatch.setattr(tensorrt, "check_at_first_load", check)
    loaded = load_tensorrt(BUNDLE, read_manifest(BUNDLE), "tensorrt-rtx", check_again=True)
    assert loaded.card == card
    assert [each.tensor for each in loaded.checked] == ["embedding", "score", "logits"]
    place = Place(card.name, "580.1", "tensorrt-rtx", "1.7.1", tuple(GRAPHS))
    assert places == [(place, 11, True)]

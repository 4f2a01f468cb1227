"""ONNX Runtime bound to device memory: the same path, with the CPU's memory as the device's."""

from __future__ import annotations

import numpy as np
import pytest

from cellseg1_rt.backends import onnxruntime_card
from cellseg1_rt.backends.onnxruntime_card import OnnxRuntimeOnCard, load_on_card
from cellseg1_rt.backends.providers import PROVIDERS
from cellseg1_rt.backends.tensorrt_library import Card
from cellseg1_rt.contract import CHECK_NAME, GRAPHS, read_manifest
from cellseg1_rt.errors import RuntimeUnavailableError
from cellseg1_rt.runtime.packed import is_on_gpu


@pytest.fixture(scope="module")
def backend(tiny, tiny_folder) -> OnnxRuntimeOnCard:
    sessions = {name: tiny.backend._sessions[name] for name in GRAPHS}
    return OnnxRuntimeOnCard(read_manifest(tiny_folder), sessions, "cpu", 0, {})


def test_the_pipelines_three_calls(backend, tiny):
    """Two images at once, an array that is not contiguous, a survivor asked for twice."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (2, 512, 512, 3), np.uint8)
    sizes = np.array([[512, 311], [127, 512]], np.int32)
    embeddings, expected = backend.encode(images, sizes), tiny.backend.encode(images, sizes)
    assert len(embeddings) == 2
    for got, wanted in zip(embeddings, expected, strict=True):
        near(backend.embedding_on_host(got), tiny.backend.embedding_on_host(wanted))
    points = rng.uniform(0, 311, (7, 4)).astype(np.float32)[:, ::2]
    decoded, wanted = (
        backend.decode(embeddings[1], points),
        tiny.backend.decode(expected[1], points),
    )
    near(decoded.score, wanted.score)
    index = np.array([6, 0, 3, 3])
    logits = backend.head(decoded, index)
    near(logits.copy_to_host(), tiny.backend.head(wanted, index))
    assert backend.image_size == 512


def near(found: np.ndarray, wanted: np.ndarray) -> None:
    assert (found.shape, found.dtype) == (wanted.shape, np.float32)
    assert np.abs(found - wanted).max() < 1e-4 * wanted.std()


def test_logits_are_an_array_that_any_library_takes(backend):
    image, size = np.zeros((1, 512, 512, 3), np.uint8), np.array([[512, 512]], np.int32)
    (embedding,) = backend.encode(image, size)
    logits = backend.head(backend.decode(embedding, np.ones((3, 2), np.float32)), np.array([2, 1]))
    assert is_on_gpu(logits)
    assert logits.shape == (2, 128, 128)

    class Memory:  # the CPU's, so numpy may look at it
        __array_interface__ = logits.__cuda_array_interface__

    np.testing.assert_array_equal(np.asarray(Memory()), logits.copy_to_host())


def with_card(monkeypatch, tiny, took: str) -> list:
    """A machine with a card, as far as loading goes: sessions are the CPU's."""
    checked: list = []
    monkeypatch.setattr(onnxruntime_card, "require_provider", lambda runtime: None)
    monkeypatch.setattr(onnxruntime_card, "present_card", lambda runtime: CARD)

    class Session:
        @staticmethod
        def get_providers():
            return [took, "CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime_card, "load_session", lambda *arguments: Session())
    monkeypatch.setattr(
        onnxruntime_card, "check_at_first_load", lambda *arguments: checked.append(arguments)
    )
    return checked


CARD = Card("NVIDIA GeForce RTX 3060", "sm_86", "580.1")


def test_what_is_loaded_is_checked_on_the_card(monkeypatch, tiny, tiny_folder):
    checked = with_card(monkeypatch, tiny, "CUDAExecutionProvider")
    manifest = read_manifest(tiny_folder)
    loaded = load_on_card(tiny_folder, manifest, "cuda")
    ((backend, _, _, place, most),) = checked
    assert backend is loaded
    assert (place.card, place.driver, place.runtime, most) == (CARD.name, "580.1", "cuda", 1024)
    assert set(place.files) == {
        entry.sha256 for name, entry in manifest.files.items() if name != CHECK_NAME
    }


def test_a_provider_that_was_left_out_is_an_error(monkeypatch, tiny, tiny_folder):
    with_card(monkeypatch, tiny, "CPUExecutionProvider")
    with pytest.raises(RuntimeUnavailableError) as caught:
        load_on_card(tiny_folder, read_manifest(tiny_folder), "cuda")
    assert str(caught.value).startswith(
        "graph encoder: ONNX Runtime left the provider of the runtime 'cuda' out; "
        "got CPUExecutionProvider; expected CUDAExecutionProvider"
    )


WITHOUT = {
    "cuda": (
        "this ONNX Runtime comes without the provider of the runtime 'cuda'",
        "expected CUDAExecutionProvider. Fix: pip uninstall onnxruntime, then pip install "
        "'cellseg1-rt[gpu]'; until then --runtime onnxruntime works",
    ),
    "onnxruntime-tensorrt": (
        "comes without the provider of the runtime 'onnxruntime-tensorrt'",
        "expected TensorrtExecutionProvider. Fix: pip uninstall onnxruntime",
    ),
    "onnxruntime-tensorrt-rtx": (
        "onnxruntime_ep_nv_tensorrt_rtx: the plugin of ONNX Runtime",
        "Fix: pip install onnxruntime-ep-nv-tensorrt-rtx; until then --runtime onnxruntime works",
    ),
}


def test_every_provider_is_met_here():
    assert set(WITHOUT) == set(PROVIDERS)


@pytest.mark.parametrize("runtime", WITHOUT)
def test_a_provider_that_is_not_installed_is_named(tiny_folder, runtime: str):
    import onnxruntime as ort

    if PROVIDERS[runtime].name in ort.get_available_providers():
        pytest.skip("it is installed here")
    with pytest.raises(RuntimeUnavailableError) as caught:
        load_on_card(tiny_folder, read_manifest(tiny_folder), runtime)
    for part in WITHOUT[runtime]:
        assert part in str(caught.value)

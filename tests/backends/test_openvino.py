"""OpenVINO against ONNX Runtime, on a real image with the packaged weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cellseg1_rt
from cellseg1_rt.backends import openvino as module
from cellseg1_rt.backends.onnxruntime import OnnxRuntimeBackend
from cellseg1_rt.backends.openvino import OpenVinoBackend, cpu_capabilities
from cellseg1_rt.contract import MANIFEST_NAME, read_manifest
from cellseg1_rt.errors import BundleError, RuntimeUnavailableError
from cellseg1_rt.evaluate import average_precision
from cellseg1_rt.geometry import crops_of_image
from cellseg1_rt.runtime.normalise import rgb_from_pixels
from cellseg1_rt.runtime.prompts import input_of_crop

DATA = Path(__file__).parent.parent / "data"
SMALL = DATA / "fluo_nuclei_small_256" / "29dd28df98ee.png"
LARGE = DATA / "fluo_nuclei_large_360" / "28d33efef218.png"
FP32 = 1e-4
"""Largest difference from ONNX Runtime, in units of its output's standard deviation."""
BF16 = 0.03
"""The same, root mean square: the largest is a matter of a single unlucky prompt."""

needs_bf16 = pytest.mark.skipif(
    "BF16" not in cpu_capabilities(), reason="this CPU has no bf16 instructions"
)


@pytest.fixture(scope="module")
def reference(tiny_folder) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(tiny_folder, read_manifest(tiny_folder))


@pytest.fixture(scope="module")
def exact(tiny_folder) -> OpenVinoBackend:
    return OpenVinoBackend(tiny_folder, read_manifest(tiny_folder), precision="fp32")


@pytest.fixture(scope="module")
def lower(tiny_folder) -> OpenVinoBackend:
    return OpenVinoBackend(tiny_folder, read_manifest(tiny_folder), precision="bf16")


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """Two different inputs, one of them padded, and their valid sizes."""
    inputs, sizes = [], []
    for path, cut in ((SMALL, (256, 256)), (LARGE, (241, 337))):
        rgb = rgb_from_pixels(cellseg1_rt.read_image(path).pixels, where=path)[: cut[0], : cut[1]]
        image, size = input_of_crop(rgb, crops_of_image(*cut, 0)[0], 512)
        inputs.append(image)
        sizes.append(size)
    return np.stack(inputs), np.array(sizes, np.int32)


def points(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 360, (count, 2)).astype(np.float32)


def largest(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / expected.std())


def root_mean_square(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - expected).mean()) / expected.std())


def differences(backend, reference, images, count: int, measure=largest) -> np.ndarray:
    """A row an image of a batch: of scores, of logits."""
    rows = []
    embeddings = backend.encode(*images), reference.encode(*images)
    for ours, theirs in zip(*embeddings, strict=True):
        asked = points(count, seed=count)
        a, b = backend.decode(ours, asked), reference.decode(theirs, asked)
        index = np.flatnonzero(b.score > np.quantile(b.score, 0.6)).astype(np.int64)
        pairs = (a.score, b.score), (backend.head(a, index), reference.head(b, index))
        for found, expected in pairs:
            assert found.shape == expected.shape
            assert found.dtype == expected.dtype == np.float32
        rows.append([measure(found, expected) for found, expected in pairs])
    return np.array(rows)


@pytest.mark.parametrize("count", [1, 13, 37])
def test_fp32_is_onnxruntime_s(count, exact, reference, images):
    if count == 1:  # a single score has no spread
        embeddings = exact.encode(*images), reference.encode(*images)
        for ours, theirs in zip(*embeddings, strict=True):
            asked = points(1, seed=1)
            np.testing.assert_allclose(
                exact.decode(ours, asked).score, reference.decode(theirs, asked).score, atol=FP32
            )
        return
    assert differences(exact, reference, images, count).max() < FP32


@needs_bf16
def test_bf16_is_near_and_is_not_fp32(lower, reference, images):
    found = differences(lower, reference, images, 29, root_mean_square)
    assert found.max() < BF16
    assert found.min() > 10 * FP32, "computed in fp32 inside"


@needs_bf16
def test_the_fp32_island_is_what_keeps_bf16_near(
    monkeypatch, tiny_folder, lower, reference, images
):
    """The same graphs in OpenVINO's bf16 alone are twice as far off, and more."""
    monkeypatch.setattr(module, "split_off_sines", lambda model: None)
    plain = OpenVinoBackend(tiny_folder, read_manifest(tiny_folder), precision="bf16")
    found, found_plain = (
        differences(backend, reference, images, 29, root_mean_square)[:, 0].mean()
        for backend in (lower, plain)
    )
    assert found_plain > 2 * found


@pytest.mark.parametrize("path", [SMALL, LARGE], ids=lambda path: path.parent.name)
def test_labels_are_onnxruntime_s(path):
    pixels = cellseg1_rt.read_image(path).pixels
    ours, theirs = (
        cellseg1_rt.load("tiny", runtime=runtime, points_per_side=8).segment(pixels)
        for runtime in ("openvino", "onnxruntime")
    )
    assert len(theirs.cells) > 3
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_allclose(ours.cells.score, theirs.cells.score, atol=FP32)


@needs_bf16
@pytest.mark.parametrize("path", [SMALL, LARGE], ids=lambda path: path.parent.name)
def test_bf16_finds_the_same_cells(path):
    pixels = cellseg1_rt.read_image(path).pixels
    lower, exact = (
        cellseg1_rt.load("tiny", runtime="openvino", precision=precision, points_per_side=8)
        .segment(pixels)
        .labels
        for precision in ("bf16", "fp32")
    )
    assert average_precision(lower, exact, 0.5) >= 0.99
    assert np.count_nonzero(lower & exact) / np.count_nonzero(lower | exact) >= 0.98


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_held_results_do_not_change(precision, exact, lower, images):
    """Requests are used again, but never one whose outputs somebody still holds."""
    if precision == "bf16" and "BF16" not in cpu_capabilities():
        pytest.skip("this CPU has no bf16 instructions")
    backend = exact if precision == "fp32" else lower
    index = np.array([5, 0, 16], np.int64)
    embedding = backend.encode(images[0][:1], images[1][:1])[0]
    held = backend.decode(embedding, points(17, seed=2))
    score, logits = held.score.copy(), backend.head(held, index)
    before = logits.copy()
    other = backend.decode(backend.encode(images[0][1:], images[1][1:])[0], points(19, seed=3))
    backend.head(other, index)
    np.testing.assert_array_equal(held.score, score)
    np.testing.assert_array_equal(logits, before)
    np.testing.assert_array_equal(backend.head(held, index), before)
    again = backend.decode(embedding, points(17, seed=2))
    np.testing.assert_array_equal(again.score, score)


def test_requests_are_used_again(exact, images):
    embedding = exact.encode(images[0][:1], images[1][:1])[0]
    for count in (7, 11, 5, 11):
        exact.decode(embedding, points(count, seed=count))
    assert len(exact._graphs["prompt_decoder"]._free) <= 3


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_precision_are_set(threads, tiny_folder):
    backend = OpenVinoBackend(tiny_folder, read_manifest(tiny_folder), threads=threads)
    for graph in backend._graphs.values():
        compiled = graph._compiled
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_a_silent_change_of_precision_is_an_error(monkeypatch, tiny_folder):
    if "FP16" in cpu_capabilities():
        pytest.skip("this CPU computes in fp16, so nothing is changed")
    monkeypatch.setitem(module._HINTS, "fp16", "f16")  # OpenVINO makes bf16 of it
    with pytest.raises(RuntimeUnavailableError, match="encoder.onnx: OpenVINO does not compute"):
        OpenVinoBackend(tiny_folder, read_manifest(tiny_folder), precision="fp16")


def test_nothing_is_reported_home(tmp_path):
    """No reporter is imported, no thread or process started, nothing written to the home folder."""
    code = (
        "import sys, threading, multiprocessing\n"
        "from cellseg1_rt.backends.openvino import cpu_capabilities\n"
        "cpu_capabilities()\n"
        "assert 'openvino' in sys.modules\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert not multiprocessing.active_children()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_linked_bundle_loads(tiny_folder, tmp_path):
    (tmp_path / "link").symlink_to(tiny_folder)
    OpenVinoBackend(tmp_path / "link", read_manifest(tiny_folder))


def test_a_graph_of_another_bundle_is_named(tiny_folder):
    manifest = replace(read_manifest(tiny_folder), image_size=496)
    with pytest.raises(BundleError, match=r"encoder.onnx: graph metadata .*; got '512'.*'496'"):
        OpenVinoBackend(tiny_folder, manifest)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_graph_in_another_s_place_is_named(runtime, tiny_folder, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_folder, folder)
    shutil.copy(folder / "mask_head.onnx", folder / "encoder.onnx")
    relist(folder, "encoder.onnx")
    with pytest.raises(BundleError, match="metadata 'cellseg1_rt.graph'.*got 'mask_head'"):
        cellseg1_rt.load(folder, runtime=runtime)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_damaged_graph_is_named(runtime, tiny_folder, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_folder, folder)
    (folder / "mask_head.onnx").write_bytes((tiny_folder / "mask_head.onnx").read_bytes()[:997])
    relist(folder, "mask_head.onnx")
    with pytest.raises(BundleError, match="mask_head.onnx: graph cannot be loaded"):
        cellseg1_rt.load(folder, runtime=runtime)


def relist(folder: Path, name: str) -> None:
    """Make the manifest agree with a changed file, so that only the runtime can refuse it."""
    from cellseg1_rt.files import sha256_of_file

    values = json.loads((folder / MANIFEST_NAME).read_text())
    path = folder / name
    values["files"][name] = {"sha256": sha256_of_file(path), "size_bytes": path.stat().st_size}
    (folder / MANIFEST_NAME).write_text(json.dumps(values))

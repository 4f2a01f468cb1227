"""The check at the first load: run once for a place, remembered, and refused by name."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from cellseg1_rt.backends import first_load
from cellseg1_rt.backends.first_load import Place, check_at_first_load
from cellseg1_rt.backends.onnxruntime import OnnxRuntimeBackend
from cellseg1_rt.check import read_check
from cellseg1_rt.contract import CHECK_NAME, read_manifest
from cellseg1_rt.errors import BundleError, VerificationError

PLACE = Place("NVIDIA GeForce RTX 5090", "580.82.07", "tensorrt-rtx", "1.7.1", ("a" * 64,))
OTHERS = {
    "card": replace(PLACE, card="NVIDIA GeForce RTX 5080"),
    "driver": replace(PLACE, driver="585.1"),
    "runtime": replace(PLACE, runtime="cuda"),
    "version": replace(PLACE, version="1.8.0"),
    "engine": replace(PLACE, files=("b" * 64,)),
}


@dataclass
class Decoded:
    score: np.ndarray


class Replayed:
    """What the packaged graphs gave once, as a backend, which can be wrong in one tensor."""

    def __init__(self, given: dict[str, np.ndarray], wrong: str | None = None) -> None:
        self._given, self._wrong = given, wrong
        self.images = 0

    def encode(self, images, sizes):
        self.images += len(images)
        return ["embedding"]

    def embedding_on_host(self, embedding):
        return self._value("embedding")

    def decode(self, embedding, points):
        return Decoded(self._value("score")[: len(points)])

    def head(self, decoded, index):
        return self._value("logits")[: len(index)]

    def _value(self, name: str) -> np.ndarray:
        values = self._given[name]
        return np.roll(values, 1, axis=-1) if name == self._wrong else values


@pytest.fixture(scope="module")
def given(tiny, tiny_folder, manifest) -> dict[str, np.ndarray]:
    inputs = read_check(tiny_folder, manifest).inputs
    (embedding,) = tiny.backend.encode(inputs.image, inputs.size)
    decoded = tiny.backend.decode(embedding, inputs.points)
    logits = tiny.backend.head(decoded, inputs.index)
    seen = tiny.backend.embedding_on_host(embedding)
    return {"embedding": seen, "score": decoded.score, "logits": logits}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "cellseg1-rt" / "checks"


@pytest.fixture(scope="module")
def manifest(tiny_folder):
    return read_manifest(tiny_folder)


def test_it_runs_once_for_a_place(given, tiny_folder, manifest, cache):
    backend = Replayed(given)
    deviations = check_at_first_load(backend, tiny_folder, manifest, PLACE, 1024)
    assert len(deviations) == 3
    assert check_at_first_load(backend, tiny_folder, manifest, PLACE, 1024) is None
    assert backend.images == 1
    (passed,) = cache.iterdir()
    values = json.loads(passed.read_text())
    assert (values["card"], values["driver"]) == (PLACE.card, PLACE.driver)
    assert [each["tensor"] for each in values["passed"]] == ["embedding", "score", "logits"]
    again = check_at_first_load(backend, tiny_folder, manifest, PLACE, 1024, again=True)
    assert again == deviations


@pytest.mark.parametrize("what", [*OTHERS, "tolerance", "check"])
def test_anything_else_is_another_place(manifest, what: str):
    """Named by what it depends on: no two of these share a file."""
    files = {**manifest.files, CHECK_NAME: replace(manifest.files[CHECK_NAME], sha256="c" * 64)}
    other = {
        "tolerance": replace(manifest, tolerances={**manifest.tolerances, "encoder": 0.5}),
        "check": replace(manifest, files=files),
    }.get(what, manifest)
    here = first_load._passed_path(manifest, PLACE)
    assert first_load._passed_path(other, OTHERS.get(what, PLACE)) != here


def test_an_unknown_driver_is_checked_each_time(given, tiny_folder, manifest, cache):
    backend, place = Replayed(given), replace(PLACE, driver=None)
    for _ in range(2):
        check_at_first_load(backend, tiny_folder, manifest, place, 5)
    assert backend.images == 2
    assert not cache.exists()


WRONG = {
    "embedding": "graph encoder, tensor embedding",
    "score": "graph prompt_decoder, tensor score",
    "logits": "graph mask_head, tensor logits",
}


@pytest.mark.parametrize("tensor", WRONG)
def test_a_wrong_tensor_is_refused_by_name(given, tiny_folder, manifest, cache, tensor: str):
    backend = Replayed(given, tensor)
    for _ in range(2):  # nothing is remembered
        with pytest.raises(VerificationError) as caught:
            check_at_first_load(backend, tiny_folder, manifest, PLACE, 1024)
        line = str(caught.value)
        assert line.startswith(
            f"{WRONG[tensor]}: tensorrt-rtx 1.7.1 on NVIDIA GeForce RTX 5090 (driver 580.82.07) "
            "gives something else than the bundle was exported with; got "
        )
        assert "export the bundle with --precision bf16, or fp32 if that differs too" in line
        assert "the other of tensorrt-rtx and tensorrt" in line
    assert not cache.exists()


def test_a_graph_that_computes_something_else(tiny_folder, manifest, tmp_path):
    """A real graph with one constant changed, on a real runtime: the graph's name is the answer."""
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_folder, bundle)
    path = bundle / "mask_head.onnx"
    model = onnx.load(path, load_external_data=False)
    node = next(node for node in reversed(model.graph.node) if node.op_type == "MatMul")
    doubled = onnx.helper.make_node("Add", [f"{node.output[0]}_half"] * 2, [node.output[0]])
    node.output[0] = f"{node.output[0]}_half"
    place = list(model.graph.node).index(node)
    model.graph.node.insert(place + 1, doubled)
    path.write_bytes(model.SerializeToString())
    backend = OnnxRuntimeBackend(bundle, manifest)
    with pytest.raises(VerificationError, match="graph mask_head, tensor logits"):
        check_at_first_load(backend, bundle, manifest, PLACE, 1024)


def test_a_bundle_without_a_check_is_told_of_and_runs(given, tiny_folder, manifest):
    files = {name: entry for name, entry in manifest.files.items() if name != CHECK_NAME}
    old = replace(manifest, files=files)
    with pytest.warns(UserWarning, match="carries no check, as those of earlier versions"):
        assert check_at_first_load(Replayed(given), tiny_folder, old, PLACE, 1024) is None
    with pytest.raises(BundleError, match=r"expected check\.npz\. Fix: export it again"):
        check_at_first_load(Replayed(given), tiny_folder, old, PLACE, 1024, again=True)


def test_a_cache_that_cannot_be_written_costs_only_the_memory(
    given, tiny_folder, manifest, monkeypatch, tmp_path
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", f"{tmp_path}/file")
    with pytest.warns(UserWarning, match="which runs at every load"):
        assert check_at_first_load(Replayed(given), tiny_folder, manifest, PLACE, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert check_at_first_load(Replayed(given), tiny_folder, manifest, PLACE, 3)

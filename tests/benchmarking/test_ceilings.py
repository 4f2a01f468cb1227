"""The graph of products is real ONNX, and each runtime's ceiling is a product it did compute."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from cellseg1_rt.backends.choose import RUNTIMES, Choice
from cellseg1_rt.backends.openvino import cpu_capabilities
from cellseg1_rt.benchmarking import ceilings
from cellseg1_rt.benchmarking.ceilings import (
    GEMM_RUNTIMES,
    copy_bytes_per_s,
    gemm_flop_per_s,
    is_measured,
)
from cellseg1_rt.benchmarking.contender import Sample, Work
from cellseg1_rt.benchmarking.matmul_graph import chained_products
from cellseg1_rt.benchmarking.summary import Ceilings, stages_of


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_graph_is_what_onnx_says(dtype: type):
    weight = np.arange(9).reshape(3, 3).astype(dtype)
    model = onnx.load_model_from_string(chained_products(weight, 3))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul"] * 3
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), weight)


@pytest.mark.parametrize("runtime", GEMM_RUNTIMES)
def test_runtimes_compute_the_chain(runtime: str):
    rng = np.random.default_rng(5)
    weight, x = rng.standard_normal((2, 37, 37)).astype(np.float32)
    run = GEMM_RUNTIMES[runtime](chained_products(weight, 3), x, "fp32", 1)
    (found,) = (np.asarray(value) for value in _values(run()))
    expected = x.astype(float) @ weight @ weight @ weight
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def _values(outputs: object) -> list:
    return list(outputs.values()) if hasattr(outputs, "values") else list(outputs)


def test_every_runtime_on_the_cpu_has_a_ceiling():
    on_cpu = {name for name, runtime in RUNTIMES.items() if not runtime.on_card}
    assert set(GEMM_RUNTIMES) == on_cpu


def test_a_card_has_none():
    """Neither the processor's products nor its memory are what a card is held against."""
    assert not is_measured("tensorrt-rtx fp16")
    assert not is_measured("cuda")
    assert is_measured("onnxruntime fp32")
    assert is_measured("plain")
    work = {"decode": Work(5 * 10**9, 7 * 10**6)}
    sample = Sample({"decode": 0.5}, work, np.zeros((3, 5), np.uint16), 1)
    measured = Ceilings({"fp32": {"onnxruntime": 50e9}}, 10e9)
    (row,) = stages_of([sample], "fp32", None)
    assert (row.gflop_per_s, row.share_of_gemm, row.share_of_copy) == (10.0, None, None)
    (row,) = stages_of([sample], "fp32", measured)
    assert (row.share_of_gemm, row.share_of_copy) == (0.2, 0.0014)


def test_rates_are_work_over_the_best_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ceilings, "_best_seconds", lambda run: (run(), 0.5)[1])
    choice = Choice("onnxruntime", "fp32", "asked for")
    assert gemm_flop_per_s(choice, 1, side=53) == 2 * 53**3 * ceilings.PRODUCTS / 0.5
    assert copy_bytes_per_s(3, size=8 * 1009) == 2 * 8 * 1009 / 0.5


def test_the_best_of_the_rounds_counts(monkeypatch: pytest.MonkeyPatch):
    times = iter([5.0, 9.0, 9.0, 11.0] + [20.0, 23.0] * (ceilings.ROUNDS - 2))
    monkeypatch.setattr(ceilings.time, "perf_counter", lambda: next(times))
    calls = []
    assert ceilings._best_seconds(lambda: calls.append(1)) == 2.0
    assert len(calls) == ceilings.ROUNDS + 1


def test_copying_copies_all_of_it(monkeypatch: pytest.MonkeyPatch):
    copied = []
    copyto = np.copyto

    def note(target: np.ndarray, source: np.ndarray) -> None:
        copied.append(source.nbytes)
        copyto(target, source)

    monkeypatch.setattr(ceilings.np, "copyto", note)
    monkeypatch.setattr(ceilings, "_best_seconds", lambda run: (run(), 1.0)[1])
    copy_bytes_per_s(3, size=8 * 1009)
    assert (len(copied), sum(copied)) == (3, 8 * 1009)


@pytest.mark.skipif("BF16" not in cpu_capabilities(), reason="this CPU has no bf16")
def test_bf16_is_computed_in_bf16():
    """The ceiling would be a wrong one if the precision were not taken."""
    rng = np.random.default_rng(5)
    weight, x = rng.standard_normal((2, 37, 37)).astype(np.float32)
    run = GEMM_RUNTIMES["openvino"](chained_products(weight, 3), x, "bf16", 1)
    (found,) = (np.asarray(value) for value in _values(run()))
    expected = x.astype(float) @ weight @ weight @ weight
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-4 < error < 3e-2

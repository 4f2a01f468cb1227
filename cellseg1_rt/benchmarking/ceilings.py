"""What this machine can do at best: matrix products through a runtime, and copying memory.

Of its processor: a card's ceilings are not measured (public ones: ``benchmarks/roofline.py``).

Measured in the same run as what is held against it. The best of some rounds counts, since what else
a machine does can only slow one down. May import onnxruntime and openvino.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cellseg1_rt.backends.choose import RUNTIMES, Choice
from cellseg1_rt.benchmarking.matmul_graph import chained_products

__all__ = ["GEMM_RUNTIMES", "copy_bytes_per_s", "gemm_flop_per_s", "is_measured"]

SIDE, PRODUCTS, ROUNDS = 1024, 8, 7
COPY_BYTES = 256 * 2**20
"""Bytes of each of the two arrays: several times what caches of one socket hold."""


def is_measured(path: str) -> bool:
    """Whether a path of a benchmark, by its name, runs where ceilings are measured."""
    runtime = RUNTIMES.get(path.split()[0])
    return runtime is None or not runtime.on_card


def gemm_flop_per_s(choice: Choice, threads: int, *, side: int = SIDE) -> float:
    """FLOP/s of matrix products [side, side] through a runtime, at a precision.

    Parameters
    ----------
    choice : the runtime, of ``GEMM_RUNTIMES``, and what it computes in.
    threads : threads of one operator; 0 takes all cores.
    side : rows and columns of each matrix.
    """
    rng = np.random.default_rng(side)
    dtype = np.float16 if choice.precision == "fp16" else np.float32
    weight = (rng.standard_normal((side, side)) / side**0.5).astype(dtype)
    x = rng.standard_normal((side, side)).astype(dtype)
    model = chained_products(weight, PRODUCTS)
    run = GEMM_RUNTIMES[choice.runtime](model, x, choice.precision, threads)
    return 2 * side**3 * PRODUCTS / _best_seconds(run)


def copy_bytes_per_s(threads: int, *, size: int = COPY_BYTES) -> float:
    """Bytes read and written a second while ``threads`` threads copy an array larger than caches.

    Parameters
    ----------
    threads : each copies a part of its own; numpy copies without the interpreter's lock.
    size : bytes of the array.
    """
    source, target = np.ones(size // 8), np.zeros(size // 8)
    bounds = np.linspace(0, len(source), threads + 1).astype(int).tolist()
    parts = [slice(*ends) for ends in itertools.pairwise(bounds)]
    with ThreadPoolExecutor(threads) as pool:

        def run() -> None:
            list(pool.map(lambda part: np.copyto(target[part], source[part]), parts))

        return 2 * source.nbytes / _best_seconds(run)


def _best_seconds(run: Callable[[], Any]) -> float:
    run()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _onnxruntime(model: bytes, x: Any, precision: str, threads: int) -> Callable[[], Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def _openvino(model: bytes, x: Any, precision: str, threads: int) -> Callable[[], Any]:
    from cellseg1_rt.backends.openvino import cpu_capabilities

    cpu_capabilities()  # imports openvino as the backend does: without its reporter of usage
    import openvino as ov

    core = ov.Core()
    config = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
    }
    request = core.compile_model(core.read_model(model), "CPU", config).create_infer_request()
    return lambda: request.infer({"x": x})


GEMM_RUNTIMES: dict[str, Callable[[bytes, Any, str, int], Callable[[], Any]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
"""How each runtime runs a model given as bytes; returns what runs it once."""

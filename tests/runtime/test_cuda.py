"""The CUDA twins without a GPU: run in numba's simulator, compiled for each generation of cards."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SIMULATED = Path(__file__).with_name("simulated_cuda.py")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "compile_kernels.py"
TARGETS = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)]
KERNELS = ["find_extents", "evaluate_masks", "gather_words", "find_conflicts", "settle"]


@pytest.mark.parametrize(
    "tests",
    [
        "candidates and not labels",
        "nms",
        "overflow",
        pytest.param("labels", marks=pytest.mark.slow),  # minutes: every pixel is a Python call
    ],
)
def test_twins_equal_the_cpu_in_the_simulator(tests: str):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(SIMULATED), "-q", "-k", tests],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=SIMULATED.parents[2],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


@pytest.fixture(scope="module")
def compiler() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("compile_kernels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"sm_{target[0]}{target[1]}")
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_compile_for_every_card(compiler: ModuleType, kernel: str, target):
    ptx = compiler.ptx_of(kernel, target)
    assert f".target sm_{target[0]}{target[1]}" in ptx
    assert ".visible .entry" in ptx
    assert "fma.rn.f32" not in ptx, "a product and a sum with one rounding: not the CPU's pixels"
    assert ".f64" not in ptx, "float64 is slow on most cards"


def test_every_kernel_and_target_is_in_the_table(compiler: ModuleType):
    assert list(compiler.SIGNATURES) == KERNELS
    assert list(compiler.TARGETS) == TARGETS
    page = (SCRIPT.parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
    for name in KERNELS:
        assert f"| `{name}` |" in page


def test_no_cuda_is_imported_for_masks_on_the_cpu():
    code = """
import sys
import numpy as np
from cellseg1_rt.geometry import Crop
from cellseg1_rt.runtime.evaluate import evaluate
evaluate(np.zeros((2, 16, 16), np.float32), Crop(0, 0, 5, 7), 64, 0.8)
bad = [name for name in sys.modules if name.startswith(("numba.cuda", "numba_cuda", "cuda."))]
assert not bad, bad
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

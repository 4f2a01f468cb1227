"""The TensorRT backend without a card: simulated above the engines' calls, and refused aloud."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellseg1_rt.backends.tensorrt import load_tensorrt
from cellseg1_rt.contract import read_manifest
from cellseg1_rt.errors import RuntimeUnavailableError

SIMULATED = Path(__file__).with_name("simulated_tensorrt.py")


def test_it_equals_onnx_runtime_in_the_simulator():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(SIMULATED), "-q"],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=SIMULATED.parents[2],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 passed" in done.stdout


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver here")
def test_without_a_driver(tiny_folder):
    with pytest.raises(RuntimeUnavailableError) as caught:
        load_tensorrt(tiny_folder, read_manifest(tiny_folder), "tensorrt-rtx")
    line = str(caught.value)
    assert "tensorrt_rtx: the runtime 'tensorrt-rtx' cannot load this library" in line
    assert "expected the file libcuda.so.1 on the library path" in line
    assert "--runtime onnxruntime works" in line

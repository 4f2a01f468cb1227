"""``--runtime`` and ``--precision`` as a person uses them, and what ``info`` says of runtimes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cellseg1_rt.backends.openvino import cpu_capabilities
from cellseg1_rt.diagnostics import _describe_cpu

ROOT = Path(__file__).parents[2]
FAST = ("--points", 6, "--format", "tif")


def test_auto_says_what_it_took_and_why(run_command, sample, tmp_path):
    done = run_command("segment", sample, "-o", tmp_path, *FAST)
    assert done.code == 0, done.err
    (line,) = (line for line in done.err.splitlines() if line.startswith("runtime "))
    assert line == ("runtime onnxruntime, fp32: on the CPU, the reference in fp32")


def test_openvino_gives_the_same_labels(run_command, sample, tmp_path):
    labels = []
    for runtime in ("onnxruntime", "openvino"):
        folder = tmp_path / runtime
        floors = ("--score", 0.2, "--stability", 0)
        done = run_command("segment", sample, "-o", folder, "--runtime", runtime, *floors, *FAST)
        assert done.code == 0, done.err
        assert f"runtime {runtime}, fp32: asked for" in done.err
        labels.append(tifffile.imread(folder / f"{sample.stem}_labels.tif"))
    assert labels[0].any()
    # Logits differ by 1e-5: a pixel that lies that near the threshold may fall on either side.
    assert labels[0].max() == labels[1].max()
    assert np.count_nonzero(labels[0] != labels[1]) <= 1e-4 * labels[0].size


def test_bf16_only_where_it_is_native(run_command, sample, tmp_path):
    done = run_command(
        "segment", sample, "-o", tmp_path / "out", "--precision", "bf16", "--threads", 1, *FAST
    )
    if "BF16" in cpu_capabilities():
        assert done.code == 0, done.err
        assert "runtime openvino, bf16: on the CPU, the only runtime for bf16" in done.err
    else:
        assert done.code == 2
        assert "it would be emulated" in done.err
        assert not (tmp_path / "out").exists()


REFUSED = {
    "precision of another runtime": (
        ("--runtime", "onnxruntime", "--precision", "bf16"),
        "Fix: --runtime openvino",
    ),
    "precision of no runtime here": (("--precision", "fp16"), "export a bundle with"),
    "no precision": (("--precision", "half"), "expected bundle, fp32, fp16, bf16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_one_line(name, run_command, sample, tmp_path):
    arguments, says = REFUSED[name]
    done = run_command("segment", sample, "-o", tmp_path / "out", *arguments)
    assert done.code == 2
    assert says in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def cellseg1_rt(*arguments: object, first_on_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.argv = ['cellseg1-rt', *{list(map(str, arguments))!r}]\n"
            "from cellseg1_rt.cli.main import main; main()",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(first_on_path)},
    )


BROKEN = "import ctypes; ctypes.CDLL('libopenvino.so.2')"


def test_openvino_that_does_not_load_is_named_and_nothing_falls_back(sample, tmp_path):
    """An installed package whose library cannot be found: a real loader, a real message."""
    (tmp_path / "openvino.py").write_text(BROKEN)
    out = tmp_path / "out"
    done = cellseg1_rt(
        "segment", sample, "-o", out, "--runtime", "openvino", first_on_path=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert "the runtime 'openvino' cannot load this library" in done.stderr
    assert "libopenvino.so.2" in done.stderr
    assert "until then --runtime onnxruntime works" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_missing_openvino_gives_the_install_line(sample, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'openvino':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    for precision in ("bundle", "bf16"):
        done = cellseg1_rt(
            *("segment", sample, "-o", tmp_path / "out", "--runtime", "openvino"),
            *("--precision", precision),
            first_on_path=tmp_path,
        )
        assert done.returncode == 2, done.stderr
        assert "pip install 'cellseg1-rt[openvino]'" in done.stderr
        assert not (tmp_path / "out").exists()


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver here")
def test_tensorrt_without_a_driver_is_one_line(run_command, sample, tmp_path):
    done = run_command("segment", sample, "-o", tmp_path / "out", "--runtime", "tensorrt-rtx")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert "tensorrt_rtx: the runtime 'tensorrt-rtx' cannot load this library" in line
    assert "expected the file libcuda.so.1 on the library path" in line
    assert "install the NVIDIA driver" in line
    assert "until then --runtime onnxruntime works" in line
    assert not (tmp_path / "out").exists()


def test_info_lists_runtimes_and_the_cpu(run_command):
    described = json.loads(run_command("info", "--json").out)
    for runtime in ("tensorrt-rtx", "tensorrt"):
        assert "bf16 bundles in bf16; on an NVIDIA card" in described["runtimes"][runtime]
    assert "fp32 bundles in fp32 or bf16" in described["runtimes"]["openvino"]
    assert described["runtimes"]["onnxruntime"].endswith(
        "(fp32 bundles in fp32; fp16 bundles in fp16)"
    )
    assert set(described["cpu"]) == {"bf16", "amx"}
    assert (described["cpu"]["bf16"] == "no") == ("BF16" not in cpu_capabilities())


CPUINFO = {
    "AMX": ("flags\t\t: fpu avx512_bf16 amx_bf16 amx_tile", "avx512_bf16, amx_bf16", "amx_tile"),
    "neither": ("model name\t: x\nflags\t\t: fpu avx2", "no", "no"),
    "no flags": ("Features\t: fp asimd", "not known here", "not known here"),
}


@pytest.mark.parametrize("name", CPUINFO)
def test_cpu_features_are_read(name, tmp_path):
    text, bf16, amx = CPUINFO[name]
    (tmp_path / "cpuinfo").write_text(text + "\n")
    found = _describe_cpu(tmp_path / "cpuinfo")
    assert found["bf16"] == bf16
    assert amx in found["amx"]
    assert _describe_cpu(tmp_path / "none") == dict.fromkeys(("bf16", "amx"), "not known here")

"""The run for a machine with a card: where there is none it ends, and says why parts are left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = """
flavor = "tensorrt-rtx"
targets = ["sm_89"]
precisions = ["fp32"]
[profile]
images = { min = 1, opt = 1, max = 1 }
prompts = { min = 1, opt = 2, max = 2 }
masks = { min = 1, opt = 1, max = 1 }
[card]
memory_gbytes = 8
budget_share = 0.5
"""


def run(folder: Path, sample: Path, *options: str) -> dict:
    """The report of a run over one image, 2² points and one round."""
    done = subprocess.run(
        [
            sys.executable, "benchmarks/gpu/run.py", "tiny", "-o", str(folder), "--image",
            str(sample), "--points", "2", "--prompt-batch", "2", "--repeats", "1", *options,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(folder), "LOCALAPPDATA": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip() == (folder / "report.md").read_text().rstrip()
    return json.loads((folder / "report.json").read_text())


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver here")
def test_it_ends_where_there_is_no_card(tmp_path, sample):
    report = run(
        tmp_path, sample, "--no-build", "--runtime", "tensorrt-rtx", "--runtime", "tensorrt",
        "--runtime", "cuda", "--runtime", "onnxruntime",
    )  # fmt: skip
    assert report["card"] is None
    assert "expected the file libcuda.so.1 on the library path" in report["no_card"]
    parts = {(part["kind"], part["runtime"]): part for part in report["parts"]}
    assert len(parts) == len(report["parts"]) == 8
    why = {name: part["skipped"] for name, part in parts.items()}
    assert why.pop(("benchmark", "onnxruntime")) is None
    assert all(why.values())
    assert why["build", "tensorrt-rtx"] == "--no-build was asked for"
    assert "install the NVIDIA driver" in why["verify", "tensorrt-rtx"]
    assert "pip install 'cellseg1-rt[tensorrt]'" in why["verify", "tensorrt"]
    assert "pip install 'cellseg1-rt[gpu]'" in why["benchmark", "cuda"]
    (row,) = parts["benchmark", "onnxruntime"]["values"]["contenders"]
    assert row["name"] == "onnxruntime fp32"
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("**no card: cuda: the runtime 'cuda' cannot load this library")
    assert text.count("| onnxruntime | ") == 1
    assert text.count("\n- ") == 7


@pytest.mark.slow
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver here")
def test_every_runtime_and_real_engines(tmp_path, sample):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(RECIPE)
    report = run(tmp_path, sample, "--recipe", str(recipe))
    done = [(part["kind"], part["runtime"]) for part in report["parts"] if part["skipped"] is None]
    assert done == [
        ("benchmark", "onnxruntime"),
        ("benchmark", "openvino"),
        ("build", "tensorrt-rtx"),
    ]
    built = next(part for part in report["parts"] if part["kind"] == "build")
    assert built["values"][0]["targets"] == ["sm_89"]

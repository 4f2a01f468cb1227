"""The benchmark as a whole, small: what it reports, writes, leaves out and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cellseg1_rt.benchmarking import run as run_module
from cellseg1_rt.benchmarking.contender import SEGMENTING, STAGES
from cellseg1_rt.benchmarking.run import Request, run_benchmark
from cellseg1_rt.benchmarking.table import lines_of
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.runtime import pipeline

ROOT = Path(__file__).parents[2]
SMALL = {"points_per_side": 3}


@pytest.fixture
def quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "gemm_flop_per_s", lambda choice, threads: 50e9)
    monkeypatch.setattr(run_module, "copy_bytes_per_s", lambda threads: 10e9)


def test_a_report(quick_ceilings: None, sample: Path):
    said: list[str] = []
    request = Request(
        "tiny",
        (str(sample),),
        runtimes=("onnxruntime", "openvino"),
        precisions=("fp32", "fp16"),
        threads=1,
        prompt_batch=5,
        repeats=1,
        settings=SMALL,
    )
    before = pipeline.suppress
    report = run_benchmark(request, said.append)
    assert pipeline.suppress is before
    left_out = [line for line in said if line.startswith("left out")]
    assert len(left_out) == 2

    values = json.loads(report.to_json())
    assert set(values) == {
        "format", "machine", "versions", "bundle", "settings", "repeats", "images", "ceilings",
        "reference", "contenders", "memory",
    }  # fmt: skip
    assert (values["format"], values["reference"]) == (1, "onnxruntime fp32")
    assert values["settings"]["points_per_side"] == 3
    assert len(values["bundle"]["manifest_sha256"]) == 64
    assert values["images"][0] | {"sha256": ""} == {
        "name": sample.name, "sha256": "", "height": 256, "width": 256,
    }  # fmt: skip
    first, second = values["contenders"]
    assert (first["agreement"], second["name"]) == (None, "openvino fp32")
    assert second["agreement"]["images"] == 1
    assert set(second["agreement"]) == {"ap50", "matched_iou", "equal_images", "images"}

    by_stage = {row["stage"]: row for row in first["stages"]}
    assert set(by_stage) <= set(STAGES)
    assert {"read", "prepare", "encode", "decode", "candidates", "write"} <= set(by_stage)
    assert by_stage["encode"]["gflop"] == pytest.approx(16.06, rel=1e-3)
    encode_s = by_stage["encode"]["seconds"]["median"]
    assert by_stage["encode"]["share_of_gemm"] == pytest.approx(16.06 / encode_s / 50, rel=1e-3)
    total = sum(by_stage[stage]["seconds"]["median"] for stage in SEGMENTING if stage in by_stage)
    assert first["segmenting_seconds"]["median"] == pytest.approx(total)

    text = "\n".join(lines_of(report))
    assert "openvino fp32, " in text
    assert "against onnxruntime fp32: AP@0.5" in text
    assert all(len(line) <= 100 for line in text.splitlines()[3:])


REFUSED = {
    "no rounds": ({"repeats": 0}, "--repeats: out of range; got 0; expected at least 1"),
    "no batch": ({"prompt_batch": 0}, "--prompt-batch: out of range"),
    "nothing to compare with": ({"against": "upstream"}, "--against: .*expected plain"),
    "one that cannot": (
        {"runtimes": ("onnxruntime",), "precisions": ("bf16",)},
        "'onnxruntime' does not compute",
    ),
    "none that can": (
        {"runtimes": ("onnxruntime",), "precisions": ("bf16", "fp16")},
        "--precision: .*got fp16",
    ),
    "no image": ({"images": ("nowhere/*.png",)}, "nowhere.*no images here"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_at_once(name: str):
    values, says = REFUSED[name]
    with pytest.raises(ConfigError, match=says):
        run_benchmark(Request("tiny", **values), lambda line: None)


WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "segment_anything", "safetensors", "onnx"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
from cellseg1_rt.benchmarking.run import Request, run_benchmark
from cellseg1_rt.benchmarking import run, table
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH + code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_the_plain_path_needs_the_extra():
    done = python("run_benchmark(Request('tiny', against='plain'), print)")
    assert "MissingExtraError: --against plain needs the package 'torch'" in done.stderr
    assert "pip install 'cellseg1-rt[train]'" in done.stderr


def test_runtimes_are_measured_without_torch(sample: Path):
    done = python(
        "run.gemm_flop_per_s = lambda choice, threads: 50e9\n"
        "run.copy_bytes_per_s = lambda threads: 10e9\n"
        f"request = Request('tiny', ({str(sample)!r},), repeats=1, settings={SMALL!r})\n"
        "print(*table.lines_of(run_benchmark(request, lambda line: None)), sep='\\n')"
    )
    assert done.returncode == 0, done.stderr
    assert "labels: the reference" in done.stdout

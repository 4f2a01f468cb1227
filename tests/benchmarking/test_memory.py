"""Peak memory is read in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellseg1_rt.benchmarking.memory import STATUS, peak_bytes, peak_memory, require_proc
from cellseg1_rt.errors import ConfigError, VerificationError

needs_proc = pytest.mark.skipif(not STATUS.exists(), reason="no /proc on this system")


def test_the_largest_size_is_read(tmp_path: Path):
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t  1009 kB\nVmRSS:\t  53 kB\n")
    assert peak_bytes(tmp_path / "status") == 1009 * 1024


def test_a_system_without_it_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="--memory: peak memory cannot be read.*leave --memory"):
        require_proc(tmp_path / "status")


def request_for(image: Path, bundle: Path) -> dict:
    return {
        "path": "onnxruntime",
        "precision": "fp32",
        "bundle": str(bundle),
        "image": str(image),
        "threads": 1,
        "prompt_batch": 64,
        "settings": {"points_per_side": 3},
    }


@needs_proc
def test_a_path_in_a_process_of_its_own(sample: Path, tiny_folder: Path):
    peak = peak_memory("ours", request_for(sample, tiny_folder))
    assert peak.path == "ours"
    # The weights alone, widened to fp32, are 38 MB; the bound above is the package's own.
    assert 38 < peak.loaded_mbytes < peak.peak_mbytes < 1500


@needs_proc
def test_a_process_that_fails_is_told_of(tiny_folder: Path, tmp_path: Path):
    with pytest.raises(VerificationError, match=r"ours: the process .*none\.png"):
        peak_memory("ours", request_for(tmp_path / "none.png", tiny_folder))

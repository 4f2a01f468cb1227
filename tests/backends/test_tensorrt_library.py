"""The libraries and the card: what is said where one is not there; what is kept of a log."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellseg1_rt.backends.tensorrt_library import Log, load_library, present_target
from cellseg1_rt.errors import MissingExtraError, RuntimeUnavailableError
from cellseg1_rt.extras import is_installed


def test_the_figures_are_the_largest_of_all_profiles():
    log = Log()
    for line in (
        "Total Activation Memory: 4099 bytes",
        "Total Host Persistent Memory: 80 bytes",
        "Total Weights Memory: 297472 bytes",
        "Total Activation Memory: 5003 bytes",
        "Total Activation Memory: 0 bytes",
    ):
        log.take("INFO", line)
    assert log.bytes_of == {"activation": 5003, "weights": 297472}
    assert log.errors == []


def test_the_first_error_is_named():
    log = Log()
    assert log.first_error == "nothing in the builder's log"
    log.take("WARNING", "odd")
    log.take("INTERNAL_ERROR", "first")
    log.take("ERROR", "second")
    assert log.first_error == "first"


@pytest.mark.skipif(is_installed("tensorrt"), reason="tensorrt is installed here")
def test_a_missing_library_is_named_with_its_install_line():
    with pytest.raises(MissingExtraError, match=r"pip install 'cellseg1-rt\[tensorrt\]'"):
        load_library("tensorrt", "this")


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver here")
@pytest.mark.parametrize("flavor", ["tensorrt-rtx", "tensorrt"])
def test_without_a_driver(flavor: str):
    with pytest.raises(RuntimeUnavailableError) as caught:
        present_target(flavor)
    line = str(caught.value)
    assert line.startswith(f"{flavor.replace('-', '_')}: the runtime {flavor!r} cannot load")
    assert "expected the file libcuda.so.1 on the library path" in line
    assert "install the NVIDIA driver" in line
    assert "--runtime onnxruntime works" in line

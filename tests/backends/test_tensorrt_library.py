"""The libraries and the card: what is said where one is not there; what is kept of a log."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from cellseg1_rt.backends import tensorrt_library
from cellseg1_rt.backends.tensorrt_library import (
    Card,
    Log,
    load_library,
    present_card,
    present_target,
)
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


class Driver:
    """The calls of CUDA's and NVML's libraries that are used; the last of them can fail."""

    def __init__(self, fails: str = "", current: int | None = None) -> None:
        self._fails, self._current = fails, current

    def __getattr__(self, name: str) -> Any:
        answers = {
            "cuInit": lambda flags: None,
            "cuCtxGetDevice": self._context,
            "cuDeviceGet": lambda device, ordinal: setattr(device._obj, "value", 5),
            "cuDeviceGetName": lambda text, size, device: setattr(text, "value", b"A card"),
            "cuDeviceGetAttribute": self._attribute,
            "nvmlInit_v2": lambda: None,
            "nvmlSystemGetDriverVersion": lambda text, size: setattr(text, "value", b"580.82"),
        }
        return lambda *arguments: 100 if name == self._fails else answers[name](*arguments) or 0

    def _context(self, device: Any) -> int:
        if self._current is None:
            return 201  # no context is current
        device._obj.value = self._current
        return 0

    @staticmethod
    def _attribute(value: Any, attribute: int, device: ctypes.c_int) -> None:
        value._obj.value = {75: 12, 76: device.value % 5}[attribute]


def with_driver(
    monkeypatch, nvml: bool = True, fails: str = "", current: int | None = None
) -> None:
    def load(name: str) -> Driver:
        if not nvml and name == tensorrt_library._NVML:
            raise OSError(name)
        return Driver(fails, current)

    monkeypatch.setattr(tensorrt_library.ctypes, "CDLL", load)


def test_a_card_has_a_name_a_target_and_a_driver(monkeypatch):
    with_driver(monkeypatch)
    assert present_card("cuda") == Card("A card", "sm_120", "580.82", 5)
    assert present_target("tensorrt") == "sm_120"


def test_the_current_card_goes_before_the_first(monkeypatch):
    with_driver(monkeypatch, current=3)
    assert present_card("cuda") == Card("A card", "sm_123", "580.82", 3)


@pytest.mark.parametrize(
    "nvml, fails", [(False, ""), (True, "nvmlInit_v2"), (True, "nvmlSystemGetDriverVersion")]
)
def test_a_driver_that_does_not_tell_its_release(monkeypatch, nvml: bool, fails: str):
    with_driver(monkeypatch, nvml, fails)
    assert present_card("cuda") == Card("A card", "sm_120", None, 5)


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDeviceGetName"])
def test_a_driver_without_a_card(monkeypatch, call: str):
    with_driver(monkeypatch, fails=call)
    with pytest.raises(RuntimeUnavailableError, match="cuda: the NVIDIA driver finds no card; got"):
        present_card("cuda")

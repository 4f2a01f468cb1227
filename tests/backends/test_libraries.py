"""Libraries that do not load: what is said of real ones, and of loaders elsewhere."""

from __future__ import annotations

import ctypes

import pytest
from missing_library import plugin_with_a_missing_dependency

from cellseg1_rt.backends.libraries import library_error, register_provider_library
from cellseg1_rt.errors import RuntimeUnavailableError

SAID = {
    "Linux, of the driver": (
        "Failed to load library /x/libplugin.so with error: libcuda.so.1: cannot open shared "
        "object file: No such file or directory",
        "expected the file libcuda.so.1 on the library path. Fix: install the NVIDIA driver, "
        "which brings it; until then --runtime onnxruntime works",
    ),
    "Linux, itself": (
        "/x/libplugin.so: cannot open shared object file: No such file or directory",
        "expected the file /x/libplugin.so. Fix: reinstall the package it belongs to; until",
    ),
    "Linux, of CUDA": (
        "libcudart.so.13: cannot open shared object file: No such file or directory",
        "expected the file libcudart.so.13 on the library path. Fix: install the CUDA libraries",
    ),
    "macOS": (
        "dlopen(x, 0x6): Library not loaded: @rpath/libother.dylib Referenced from: x",
        "expected the file @rpath/libother.dylib on the library path. Fix: install what brings it",
    ),
    "Windows": (
        'Error loading "x.dll" which depends on "cudnn64_9.dll" which is missing. (Error 126)',
        "expected the file cudnn64_9.dll on the library path. Fix: install the CUDA libraries",
    ),
    "anything else": (
        "undefined symbol: OrtGetApiBase",
        "got undefined symbol: OrtGetApiBase. Fix: reinstall what 'libplugin.so' belongs to; until",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_the_missing_file_is_named(name):
    message, says = SAID[name]
    error = library_error(
        "tensorrt-rtx", "/x/libplugin.so", OSError(message), instead="onnxruntime"
    )
    line = str(error)
    assert line.startswith(
        "/x/libplugin.so: the runtime 'tensorrt-rtx' cannot load this library; got "
    )
    assert message in line
    assert says in line


def test_a_plugin_that_does_not_load_names_what_it_wanted(tmp_path):
    plugin = plugin_with_a_missing_dependency(tmp_path)
    with pytest.raises(OSError, match="libq.so.6"):
        ctypes.CDLL(str(plugin))
    with pytest.raises(RuntimeUnavailableError) as caught:
        register_provider_library("tensorrt-rtx", plugin, instead="onnxruntime")
    line = str(caught.value)
    assert str(plugin) in line
    assert "expected the file libq.so.6 on the library path" in line
    assert "--runtime onnxruntime works" in line


def test_a_plugin_that_is_not_there(tmp_path):
    with pytest.raises(RuntimeUnavailableError, match="reinstall the package it belongs to"):
        register_provider_library("tensorrt-rtx", tmp_path / "none.so", instead="onnxruntime")

"""ONNX Runtime's providers for cards: what is asked of them, what is said of their libraries."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import onnxruntime as ort
import pytest
from missing_library import plugin_with_a_missing_dependency

from cellseg1_rt.backends import providers
from cellseg1_rt.backends.providers import (
    PROVIDERS,
    load_part,
    prepared_options,
    require_provider,
    shapes_text,
)
from cellseg1_rt.contract import GRAPHS, read_manifest
from cellseg1_rt.errors import RuntimeUnavailableError


@pytest.fixture(scope="module")
def manifest(tiny_folder):
    return read_manifest(tiny_folder)


SHAPES = {
    "encoder": "image:1x512x512x3,size:1x2",
    "prompt_decoder": "embedding:1x256x32x32,points:37x2",
    "mask_head": "keys:37x1024x256,hyper:37x32,index:37",
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_shapes_are_of_every_input(manifest, graph: str):
    assert shapes_text(manifest, graph, 37) == SHAPES[graph]


@pytest.fixture
def cache(monkeypatch, tmp_path) -> str:
    monkeypatch.setenv("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", str(tmp_path))
    return str(tmp_path / "cellseg1-rt" / "onnxruntime")


@pytest.mark.parametrize("precision, half", [("fp32", "0"), ("fp16", "1")])
def test_what_is_asked_of_providers(manifest, cache, precision: str, half: str):
    manifest = replace(manifest, precision=precision)
    _, asked = prepared_options("cuda", manifest, "encoder", 3)
    assert asked == [("CUDAExecutionProvider", {"device_id": "3", "use_tf32": "0"})]
    _, [(name, options)] = prepared_options("onnxruntime-tensorrt", manifest, "prompt_decoder", 3)
    assert name == "TensorrtExecutionProvider"
    assert (options["device_id"], options["trt_fp16_enable"]) == ("3", half)
    assert options["trt_engine_cache_path"] == cache
    assert options["trt_profile_min_shapes"] == "embedding:1x256x32x32,points:1x2"
    assert options["trt_profile_max_shapes"] == "embedding:1x256x32x32,points:1024x2"


def test_a_plugin_that_finds_no_card_is_named(manifest):
    with pytest.raises(RuntimeUnavailableError, match="finds no card that it can run on"):
        prepared_options("onnxruntime-tensorrt-rtx", manifest, "encoder", 0)


class Options:
    """Notes what is asked of a session's options."""

    def add_provider_for_devices(self, devices, options):
        self.asked = devices, options


def test_a_plugin_is_asked_for_the_cards_device(manifest, cache, monkeypatch):
    class Device:
        def __init__(self, name: str) -> None:
            self.ep_name = name

    name = PROVIDERS["onnxruntime-tensorrt-rtx"].name
    found = [Device("CPUExecutionProvider"), Device(name), Device(name)]
    monkeypatch.setattr(ort, "get_ep_devices", lambda: found)
    monkeypatch.setattr(ort, "SessionOptions", Options)
    options, named = prepared_options("onnxruntime-tensorrt-rtx", manifest, "mask_head", 1)
    devices, asked = options.asked
    assert (devices, named) == ([found[2]], [])
    assert asked["nv_runtime_cache_path"] == cache
    assert asked["nv_profile_opt_shapes"] == "keys:256x1024x256,hyper:256x32,index:256"


def test_a_library_that_does_not_load_names_what_it_wanted(tmp_path):
    library = plugin_with_a_missing_dependency(tmp_path)
    with pytest.raises(RuntimeUnavailableError) as caught:
        load_part("cuda", library)
    line = str(caught.value)
    assert line.startswith(f"{library}: the runtime 'cuda' cannot load this library; got libq.so.6")
    assert "expected the file libq.so.6 on the library path" in line
    assert "--runtime onnxruntime works" in line


def test_parts_are_loaded_where_onnx_runtime_has_them(monkeypatch):
    """The provider's library is not in a plain ONNX Runtime: what is missing is that very file."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(RuntimeUnavailableError) as caught:
        require_provider("cuda")
    missing = providers._file_name("onnxruntime_providers_cuda")
    assert f"capi{os.sep}{missing}: the runtime 'cuda' cannot load this library" in str(
        caught.value
    )
    assert "reinstall the package it belongs to" in str(caught.value)


def test_a_plugin_that_does_not_load_names_what_it_wanted(monkeypatch, tmp_path):
    """The plugin's package, as its guide has it; its library wants a file that is nowhere."""
    library = plugin_with_a_missing_dependency(tmp_path)
    package = SimpleNamespace(get_library_path=lambda: str(library))
    monkeypatch.setattr(providers, "is_installed", lambda name: name == providers.PLUGIN)
    monkeypatch.setitem(sys.modules, providers.PLUGIN, package)
    with pytest.raises(RuntimeUnavailableError) as caught:
        require_provider("onnxruntime-tensorrt-rtx")
    line = str(caught.value)
    assert f"{library}: the runtime 'onnxruntime-tensorrt-rtx' cannot load" in line
    assert "expected the file libq.so.6 on the library path" in line

"""ONNX Runtime's providers for NVIDIA cards: which there are, and whether their libraries load.

ONNX Runtime itself goes on without a provider that does not load, so it is asked for beforehand.
May import onnxruntime, and the plugin that brings TensorRT-RTX.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellseg1_rt.backends.libraries import library_error, register_provider_library
from cellseg1_rt.contract import Manifest
from cellseg1_rt.engine_files import user_cache
from cellseg1_rt.errors import RuntimeUnavailableError
from cellseg1_rt.extras import is_installed, require

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = [
    "PLUGIN",
    "PROVIDERS",
    "ROWS",
    "Provider",
    "load_part",
    "prepared_options",
    "require_provider",
    "shapes_text",
]

PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
"""The package that brings TensorRT-RTX to a plain ONNX Runtime."""


@dataclass(frozen=True)
class Provider:
    """A provider.

    Attributes
    ----------
    name : ONNX Runtime's name for it.
    library : the part of ONNX Runtime's GPU package that it is in; None for a plugin.
    shapes : what its three options for shapes are named by; None where it takes any shape.
    """

    name: str
    library: str | None
    shapes: str | None = None


PROVIDERS = {
    "cuda": Provider("CUDAExecutionProvider", "cuda"),
    "onnxruntime-tensorrt": Provider("TensorrtExecutionProvider", "tensorrt", "trt_profile"),
    "onnxruntime-tensorrt-rtx": Provider("NvTensorRTRTXExecutionProvider", None, "nv_profile"),
}
"""By the value of ``--runtime``."""

ROWS = {"min": 1, "opt": 256, "max": 1024}
"""Prompts, and masks, of one call where a provider has to know: the most are a whole grid."""


def require_provider(runtime: str) -> None:
    """Raise unless a runtime's provider is installed and its libraries load.

    Raises
    ------
    MissingExtraError : if ONNX Runtime is not installed.
    RuntimeUnavailableError : if it comes without the provider, or a library does not load: which,
        what file it wanted, and what to install.
    """
    require("onnxruntime", extra="gpu", needed_for=f"the runtime {runtime!r}")
    import onnxruntime as ort

    provider = PROVIDERS[runtime]
    if provider.library is None:
        _register_plugin(runtime)
        return
    if provider.name not in ort.get_available_providers():
        raise RuntimeUnavailableError(
            f"this ONNX Runtime comes without the provider of the runtime {runtime!r}",
            where=Path(ort.__file__).parent,
            got=", ".join(ort.get_available_providers()),
            expected=provider.name,
            fix="pip uninstall onnxruntime, then pip install 'cellseg1-rt[gpu]'; until then "
            "--runtime onnxruntime works",
        )
    ort.preload_dlls()  # those of NVIDIA's packages, which are on no library path
    folder = Path(ort.__file__).parent / "capi"
    for part in ("shared", provider.library):
        load_part(runtime, folder / _file_name(f"onnxruntime_providers_{part}"))


def load_part(runtime: str, library: Path) -> None:
    """Load a part of ONNX Runtime's package.

    Raises
    ------
    RuntimeUnavailableError : naming it, the file that it wanted, and what to install.
    """
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise library_error(runtime, library, error, instead="onnxruntime") from error


def prepared_options(
    runtime: str, manifest: Manifest, graph: str, card: int
) -> tuple[ort.SessionOptions, list[Any]]:
    """Session options, and the providers to name beside them, for one graph.

    Parameters
    ----------
    runtime : of ``PROVIDERS``, which ``require_provider`` has found.
    graph : of ``GRAPHS``.
    card : its number.
    """
    import onnxruntime as ort

    provider = PROVIDERS[runtime]
    chosen = _options(runtime, manifest, graph, card)
    options = ort.SessionOptions()
    if provider.library is not None:
        return options, [(provider.name, chosen)]
    devices = [device for device in ort.get_ep_devices() if device.ep_name == provider.name]
    if len(devices) <= card:
        raise RuntimeUnavailableError(
            "the plugin of ONNX Runtime finds no card that it can run on",
            where=f"{runtime}, card {card}",
            expected="a GeForce RTX 30 or later, or its like",
            fix="use a machine that has one; until then --runtime onnxruntime works",
        )
    options.add_provider_for_devices([devices[card]], chosen)
    return options, []


def _options(runtime: str, manifest: Manifest, graph: str, card: int) -> dict[str, str]:
    """The provider's own options: which card, fp32 that is fp32, shapes, what it may keep."""
    kept = str(user_cache() / "onnxruntime")
    shapes = PROVIDERS[runtime].shapes
    if shapes is None:
        return {"device_id": str(card), "use_tf32": "0"}
    options = {
        f"{shapes}_{kind}_shapes": shapes_text(manifest, graph, rows) for kind, rows in ROWS.items()
    }
    if runtime == "onnxruntime-tensorrt-rtx":
        return {**options, "nv_runtime_cache_path": kept}
    return {
        **options,
        "device_id": str(card),
        "trt_fp16_enable": "1" if manifest.precision == "fp16" else "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": kept,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": kept,
    }


def shapes_text(manifest: Manifest, graph: str, rows: int) -> str:
    """Shapes of a graph's inputs with ``rows`` prompts and masks, as ``points:64x2,…``.

    One image a call. All prompts of a call may survive.
    """
    size, grid = manifest.image_size, manifest.grid
    sizes = {"B": 1, "N": rows, "M": rows, "S": size, "g": grid, "T": grid * grid, "L": 4 * grid}
    shapes = {
        tensor.name: [sizes[n] if isinstance(n, str) else n for n in tensor.shape]
        for tensor in manifest.graphs[graph].inputs
    }
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _register_plugin(runtime: str) -> None:
    if not is_installed(PLUGIN):
        raise RuntimeUnavailableError(
            f"the plugin of ONNX Runtime for the runtime {runtime!r} is not installed",
            where=PLUGIN,
            fix=f"pip install {PLUGIN.replace('_', '-')}; until then --runtime onnxruntime works",
        )
    plugin = importlib.import_module(PLUGIN)
    register_provider_library(runtime, Path(plugin.get_library_path()), instead="onnxruntime")


def _file_name(library: str) -> str:
    return f"{library}.dll" if sys.platform == "win32" else f"lib{library}.so"

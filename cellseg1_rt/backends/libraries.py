"""Shared libraries that do not load: which one, what it missed, and what works without it.

A wheel can be installed and still be of no use, when a library of the driver or of the system that
it needs is not there. What the loader says then is turned into one line. Imports the standard
library only; onnxruntime where a plugin is registered with it.
"""

from __future__ import annotations

import re
from pathlib import Path

from cellseg1_rt.errors import RuntimeUnavailableError
from cellseg1_rt.extras import require

__all__ = ["library_error", "register_provider_library"]

# What the loaders of Linux, macOS and Windows (through ONNX Runtime) say of a missing file.
_MISSING_FILE = (
    re.compile(r"([^\s:]+): cannot open shared object file"),
    re.compile(r"Library not loaded: (\S+)"),
    re.compile(r'depends on "([^"]+)" which is missing'),
)
_PROVIDERS = (
    (re.compile(r"(lib|nv)cuda\b", re.I), "the NVIDIA driver"),
    (re.compile(r"cudart|cublas|cudnn|nvrtc", re.I), "the CUDA libraries"),
    (re.compile(r"nvinfer|tensorrt", re.I), "TensorRT"),
    (re.compile(r"tbb|openvino", re.I), "OpenVINO"),
)


def library_error(
    runtime: str, library: str | Path, error: BaseException, *, instead: str
) -> RuntimeUnavailableError:
    """The error for a library that cannot be loaded.

    Parameters
    ----------
    runtime : the runtime that needs it.
    library : the library, or the module it belongs to.
    error : what the loader said.
    instead : the runtime to name as one that still works.
    """
    wanted = _missing_file(str(error))
    if wanted is None:
        expected, fix = None, f"reinstall what {Path(library).name!r} belongs to"
    elif Path(wanted).name == Path(library).name:
        expected, fix = f"the file {wanted}", "reinstall the package it belongs to"
    else:
        expected, fix = f"the file {wanted} on the library path", f"install {_provider(wanted)}"
    return RuntimeUnavailableError(
        f"the runtime {runtime!r} cannot load this library",
        where=library,
        got=error,
        expected=expected,
        fix=f"{fix}; until then --runtime {instead} works",
    )


def register_provider_library(runtime: str, library: Path, *, instead: str) -> None:
    """Register a provider plugin with ONNX Runtime under the runtime's name.

    Parameters
    ----------
    runtime : the name to register it under; one that is registered already is left as it is.
    library : the plugin's shared library.
    instead : the runtime to name as one that still works.

    Raises
    ------
    MissingExtraError : if onnxruntime is not installed.
    RuntimeUnavailableError : naming the library, and the file it wanted where the loader says so.
    """
    require("onnxruntime", extra="cpu", needed_for=f"the runtime {runtime!r}")
    import onnxruntime as ort

    try:
        ort.register_execution_provider_library(runtime, str(library))
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        if "already registered" not in str(error):
            raise library_error(runtime, library, error, instead=instead) from error


def _missing_file(message: str) -> str | None:
    for pattern in _MISSING_FILE:
        found = pattern.search(message)
        if found:
            return found.group(1)
    return None


def _provider(file: str) -> str:
    for pattern, provider in _PROVIDERS:
        if pattern.search(file):
            return f"{provider}, which brings it"
    return "what brings it"

"""TensorRT's two libraries: found, loaded, listened to; and the card, if there is one.

``tensorrt_rtx`` and ``tensorrt`` have one API under two names, so what uses it is handed the
module. May import either.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import sys
from dataclasses import dataclass, field
from typing import Any

from cellseg1_rt.backends.libraries import library_error
from cellseg1_rt.errors import RuntimeUnavailableError
from cellseg1_rt.extras import require

__all__ = [
    "CUDA_LIBRARY",
    "LIBRARIES",
    "Card",
    "Library",
    "Log",
    "load_library",
    "logger_for",
    "present_card",
    "present_target",
]


@dataclass
class Log:
    """The lines of a log that matter: two figures, and every error."""

    bytes_of: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def take(self, severity: str, message: str) -> None:
        """Keep what matters of a line. ``severity`` is TensorRT's name for it."""
        found = _FIGURE.search(message)
        if found:
            # Said once per profile; an engine needs the most of them.
            name, size = found.group(1).lower(), int(found.group(2))
            self.bytes_of[name] = max(size, self.bytes_of.get(name, 0))
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(message)

    @property
    def first_error(self) -> str:
        """What went wrong first; later lines mostly follow from it."""
        return self.errors[0] if self.errors else "nothing in the builder's log"


@dataclass(frozen=True)
class Library:
    """A flavour: the module to import and the extra that installs it."""

    module: str
    extra: str


LIBRARIES = {
    "tensorrt-rtx": Library("tensorrt_rtx", "rtx"),
    "tensorrt": Library("tensorrt", "tensorrt"),
}


@dataclass(frozen=True)
class Card:
    """An NVIDIA card.

    Attributes
    ----------
    name : as ``NVIDIA GeForce RTX 4090``.
    target : its compute capability, as ``sm_89``.
    driver : the driver's release, as ``580.82.07``; None where the system does not tell.
    number : CUDA's, from 0.
    """

    name: str
    target: str
    driver: str | None
    number: int = 0


CUDA_LIBRARY = {"win32": "nvcuda.dll", "darwin": "libcuda.dylib"}.get(sys.platform, "libcuda.so.1")
_NVML = {"win32": "nvml.dll"}.get(sys.platform, "libnvidia-ml.so.1")
_TEXT_BYTES = 96
"""Room for a name: NVML's constants are 80 and 96."""
# CUdevice_attribute: COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76
_FIGURE = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")


def load_library(flavor: str, needed_for: str) -> Any:
    """The flavour's module; ``needed_for`` is what an error says of it.

    Raises
    ------
    MissingExtraError : if it is not installed.
    RuntimeUnavailableError : if it does not load, naming the file that it wanted.
    """
    library = LIBRARIES[flavor]
    require(library.module, extra=library.extra, needed_for=needed_for)
    try:
        return importlib.import_module(library.module)
    except (ImportError, OSError, RuntimeError) as error:
        raise library_error(flavor, library.module, error, instead="onnxruntime") from error


def present_target(flavor: str) -> str:
    """Compute capability of the card, as ``sm_89``; see ``present_card``."""
    return present_card(flavor).target


def present_card(runtime: str) -> Card:
    """The card that this runtime is to run on: the thread's current one, or else the first.

    Raises
    ------
    RuntimeUnavailableError : if there is no driver or no card, with what to install.
    """
    try:
        cuda = ctypes.CDLL(CUDA_LIBRARY)
    except OSError as error:
        library = LIBRARIES[runtime].module if runtime in LIBRARIES else runtime
        raise library_error(runtime, library, error, instead="onnxruntime") from error
    device, parts = ctypes.c_int(), []
    name = ctypes.create_string_buffer(_TEXT_BYTES)
    status = cuda.cuInit(0)
    if not status and cuda.cuCtxGetDevice(ctypes.byref(device)):  # no card is current yet
        status = cuda.cuDeviceGet(ctypes.byref(device), 0)
    status = status or cuda.cuDeviceGetName(name, _TEXT_BYTES, device)
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        status = status or cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(str(value.value))
    if status:
        raise RuntimeUnavailableError(
            "the NVIDIA driver finds no card",
            where=runtime,
            got=f"CUDA error {status}",
            fix="run it on a machine with an NVIDIA card; until then --runtime onnxruntime works",
        )
    target = f"sm_{''.join(parts)}"
    return Card(name.value.decode(), target, _driver_release(), device.value)


def _driver_release() -> str | None:
    """What the driver's management library says; some containers come without it."""
    try:
        nvml = ctypes.CDLL(_NVML)
    except OSError:
        return None
    release = ctypes.create_string_buffer(_TEXT_BYTES)
    failed = nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(release, _TEXT_BYTES)
    return None if failed else release.value.decode()


def logger_for(trt: Any, log: Log) -> Any:
    """A TensorRT logger that keeps what matters in ``log`` and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.take(severity.name, message)

    return Logger()

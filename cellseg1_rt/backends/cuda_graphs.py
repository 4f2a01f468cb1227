"""Calls of an engine as CUDA graphs: what is launched again and again is launched as one.

TensorRT-RTX captures its own; this is for TensorRT. Imports the standard library only, and asks the
driver through it: ``DriverCapture`` runs on a card only.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from cellseg1_rt.backends.tensorrt_library import CUDA_LIBRARY
from cellseg1_rt.errors import RuntimeUnavailableError

__all__ = ["Capture", "CapturedRunner", "DriverCapture"]

MOST_GRAPHS = 24
"""Of one engine. Rows are filled up to powers of two, so shapes are fewer."""


class Capture(Protocol):
    """How work that is queued on a stream becomes a graph. Streams are numba's."""

    def begin(self, stream: Any) -> None:
        """From here on, what is queued is recorded and not run."""

    def end(self, stream: Any) -> Any:
        """What was recorded, ready to be launched. Always ends the recording.

        Raises
        ------
        RuntimeUnavailableError : if it cannot be a graph.
        """

    def launch(self, graph: Any, stream: Any) -> None:
        """Queue all of it."""


class CapturedRunner:
    """A runner whose calls with the same tensors at the same addresses become one launch.

    The first call runs as it is, and so does the second, right after which the same call is
    recorded: TensorRT has then settled what it settles after a change of shapes. From the third on
    the recording is launched. A call that cannot be recorded is told of, and all go on as they are.

    Parameters
    ----------
    runner : a ``Runner``.
    capture : the driver's, or what stands for it.
    """

    def __init__(self, runner: Any, capture: Capture) -> None:
        self._runner, self._capture = runner, capture
        self._graphs: dict[tuple[Any, ...], Any] = {}
        self._met: set[tuple[Any, ...]] = set()
        self._capturing = True

    def run(self, tensors: Mapping[str, Any], stream: Any) -> None:
        """Queue one call; see ``Runner.run``."""
        call = tuple(
            (name, array.shape, array.__cuda_array_interface__["data"][0])
            for name, array in sorted(tensors.items())
        )
        if call in self._graphs:
            self._capture.launch(self._graphs[call], stream)
            return
        self._runner.run(tensors, stream)
        if self._capturing and call in self._met and len(self._graphs) < MOST_GRAPHS:
            self._record(call, tensors, stream)
        self._met.add(call)

    def keep(self) -> None:
        """See ``Runner.keep``."""
        self._runner.keep()

    def _record(self, call: tuple[Any, ...], tensors: Mapping[str, Any], stream: Any) -> None:
        try:
            self._capture.begin(stream)
            try:
                self._runner.run(tensors, stream)
            finally:
                graph = self._capture.end(stream)
        except RuntimeUnavailableError as error:
            self._capturing = False
            warnings.warn(
                f"calls are launched one by one, and not as graphs: {error}", stacklevel=4
            )
            return
        self._graphs[call] = graph


class DriverCapture:
    """CUDA's driver. All of this runs on a card only."""

    _THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads are left alone

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL(CUDA_LIBRARY)

    def begin(self, stream: Any) -> None:
        """See ``Capture.begin``."""
        self._call("cuStreamBeginCapture_v2", _handle(stream), self._THREAD_LOCAL)

    def end(self, stream: Any) -> Any:
        """See ``Capture.end``. Graphs live as long as the process, as the engines do."""
        recorded, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", _handle(stream), ctypes.byref(recorded))
        flags = ctypes.c_ulonglong(0)
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(ready), recorded, flags)
        return ready

    def launch(self, graph: Any, stream: Any) -> None:
        """See ``Capture.launch``."""
        self._call("cuGraphLaunch", graph, _handle(stream))

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status:
            raise RuntimeUnavailableError(
                "the NVIDIA driver refuses a call", where=name, got=f"CUDA error {status}"
            )


def _handle(stream: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(int(stream))

"""Which runtime runs a bundle: the one asked for, or for ``auto`` the best that is present.

Imports the standard library only; a runtime's library is imported when its backend is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellseg1_rt.errors import ConfigError, RuntimeUnavailableError
from cellseg1_rt.extras import is_installed

if TYPE_CHECKING:
    from cellseg1_rt.backends.base import Backend
    from cellseg1_rt.contract import Manifest

__all__ = ["RUNTIMES", "Choice", "choose_runtime", "load_backend"]

RUNTIMES = ("onnxruntime",)
"""Names for ``--runtime`` besides ``auto``, the best first."""


@dataclass(frozen=True)
class Choice:
    """A runtime and why it was chosen, for the user to read."""

    runtime: str
    reason: str


def choose_runtime(name: str = "auto") -> Choice:
    """The runtime to use. ``auto`` decides once; nothing falls back later.

    Raises
    ------
    ConfigError : on a name that is no runtime.
    RuntimeUnavailableError : if ``auto`` finds none installed.
    """
    if name in RUNTIMES:
        return Choice(name, "asked for")
    if name != "auto":
        raise ConfigError(
            "no such runtime", where="--runtime", got=name, expected=f"auto, {', '.join(RUNTIMES)}"
        )
    if is_installed("onnxruntime"):
        return Choice("onnxruntime", "on the CPU, the only runtime installed")
    raise RuntimeUnavailableError(
        "no runtime is installed",
        where="--runtime auto",
        expected="onnxruntime",
        fix="pip install 'cellseg1-rt[cpu]'",
    )


def load_backend(choice: Choice, bundle: Path, manifest: Manifest, *, threads: int = 0) -> Backend:
    """The bundle's graphs on the chosen runtime."""
    from cellseg1_rt.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(bundle, manifest, threads=threads)

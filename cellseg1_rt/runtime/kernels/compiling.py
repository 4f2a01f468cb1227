"""How a kernel is compiled for the CPU: when first called, and kept on disk for the next process.

Compiled code lies beside the source, or in the user's cache where that is not writable
(``NUMBA_CACHE_DIR`` says another place). Numba looks at a kernel's own file only to see whether it
changed, so that a change in ``scalars`` needs ``rm -r cellseg1_rt/runtime/kernels/__pycache__``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

__all__ = ["compiled", "inlined"]

Kernel = TypeVar("Kernel", bound=Callable[..., object])

# A kernel is one thread and lets other Python threads run: numba's own threads made it no faster on
# two cores, added 3 s of compiling, and are not safe in every threading layer. Floats follow
# IEEE 754: nothing is contracted or reassociated, so that a logit is the same number on each
# machine and in the CUDA twin.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def compiled(function: Kernel) -> Kernel:
    """The function, compiled by numba when first called."""
    try:
        kernel: Kernel = njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no folder can be written to: each process compiles for itself
        kernel = njit(**_OPTIONS)(function)
    return kernel


def inlined(function: Kernel) -> Kernel:
    """The function as a part of each kernel that calls it, which compiles faster than a call."""
    part: Kernel = njit(inline="always", **_OPTIONS)(function)
    return part

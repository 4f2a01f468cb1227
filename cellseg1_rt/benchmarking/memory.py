"""The most memory a path takes: in a process of its own, which does nothing else.

``VmHWM`` of ``/proc/self/status`` is the largest resident size since the program began; what
``getrusage`` says can be that of the process that started it. Imports the standard library only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellseg1_rt.errors import ConfigError, VerificationError

__all__ = ["STATUS", "PeakMemory", "peak_bytes", "peak_memory", "require_proc"]

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class PeakMemory:
    """Largest resident size: once all was loaded, and in the end. In 10⁶ bytes."""

    path: str
    loaded_mbytes: float
    peak_mbytes: float


def require_proc(status: Path = STATUS) -> None:
    """Raise unless the system tells a process its largest size.

    Raises
    ------
    ConfigError : where there is no ``/proc``.
    """
    if not status.exists():
        raise ConfigError(
            "peak memory cannot be read on this system",
            where="--memory",
            got=f"no {status}",
            fix="leave --memory out, or run on Linux",
        )


def peak_bytes(status: Path = STATUS) -> int:
    """Largest resident size of this process so far."""
    lines = status.read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def peak_memory(path: str, request: dict[str, Any]) -> PeakMemory:
    """Run one image through a path in a new process.

    Parameters
    ----------
    path : what to call it.
    request : what ``memory_child`` takes.

    Raises
    ------
    VerificationError : if that process fails, with its last line.
    """
    done = subprocess.run(
        [sys.executable, "-m", "cellseg1_rt.benchmarking.memory_child", json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise VerificationError(
            "the process that measures memory failed",
            where=path,
            got=(done.stderr.strip().splitlines() or ["nothing on stderr"])[-1],
        )
    loaded, peak = json.loads(done.stdout.splitlines()[-1])
    return PeakMemory(path, loaded / 1e6, peak / 1e6)

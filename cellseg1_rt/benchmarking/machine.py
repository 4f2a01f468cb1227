"""What a measurement was made on: processor, threads, versions, the bundle's hash, the date.

Imports the standard library and numba.
"""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numba

from cellseg1_rt.contract import MANIFEST_NAME, Manifest
from cellseg1_rt.files import sha256_of_file
from cellseg1_rt.version import __version__

__all__ = ["cpu_name", "describe_bundle", "describe_machine", "resolved_threads", "versions_of"]


def resolved_threads(threads: int) -> int:
    """Threads that 0 stands for: the cores this process may use."""
    return threads or len(os.sched_getaffinity(0))


def describe_machine(threads: int) -> dict[str, Any]:
    """The machine and how busy it was when this was asked.

    ``threads`` are a runtime's; the kernels after it take their own, all cores unless numba is told
    otherwise (``NUMBA_NUM_THREADS``).
    """
    return {
        "cpu": cpu_name(),
        "cores": resolved_threads(0),
        "threads": resolved_threads(threads),
        "kernel_threads": numba.get_num_threads(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of this package, Python, and those of ``packages`` that are installed."""
    found = {"cellseg1-rt": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe_bundle(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Which bundle it was. The manifest holds the hash of every file, so its own covers them."""
    return {
        "name": folder.name,
        "manifest_sha256": sha256_of_file(folder / MANIFEST_NAME),
        "backbone": manifest.backbone.to_dict(),
        "image_size": manifest.image_size,
        "precision": manifest.precision,
    }


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()

"""What a person needs to know when something does not run: versions, runtimes, a bundle's manifest.

Imports the standard library only; no runtime library is loaded to be described.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cellseg1_rt.backends.choose import RUNTIMES
from cellseg1_rt.bundles import find_bundle
from cellseg1_rt.contract import Manifest, read_manifest, verify_files
from cellseg1_rt.engine_files import EngineRecord, check_plan, engine_folders, read_record
from cellseg1_rt.errors import BundleError
from cellseg1_rt.version import __version__

__all__ = ["describe_bundle", "describe_installation"]

_PARTS = {
    "onnxruntime": ("cpu", "runs bundles on the CPU"),
    "openvino": ("openvino", "runs bundles on the CPU, in bf16 too"),
    "torch": ("train", "trains, merges and exports"),
    "segment-anything": ("train", "SAM's modules"),
    "onnx": ("train", "writes graphs"),
    "tensorrt-rtx": ("rtx", "builds engines for RTX cards"),
    "tensorrt": ("tensorrt", "builds engines for the NVIDIA card that is present"),
    "nibabel": ("nifti", "reads NIfTI"),
}

_CPU_FLAGS = {
    "bf16": ("avx512_bf16", "amx_bf16", "avx_ne_convert"),
    "amx": ("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
}
"""What makes a precision quick on an x86 CPU, by the names of Linux."""


def describe_installation() -> dict[str, Any]:
    """Versions of this package, of every runtime and optional part, or the line that installs it.

    Of the CPU it says which instructions for bf16 it has: without any, ``--precision bf16`` is
    refused.
    """
    parts = {}
    for package, (extra, purpose) in _PARTS.items():
        try:
            parts[package] = f"{version(package)} ({purpose})"
        except PackageNotFoundError:
            parts[package] = f"missing ({purpose}): pip install 'cellseg1-rt[{extra}]'"
    return {
        "cellseg1-rt": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu cores": os.cpu_count(),
        "cpu": _describe_cpu(),
        "runtimes": {name: _describe_runtime(name) for name in RUNTIMES},
        "parts": parts,
    }


def describe_bundle(name: str) -> dict[str, Any]:
    """A bundle's manifest in readable form, once every file has been checked against its hash.

    Raises
    ------
    BundleError : if it is no bundle, or a file is missing or differs.
    """
    folder = find_bundle(name)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    return {
        "bundle": str(folder),
        "format version": manifest.format_version,
        "precision": manifest.precision,
        "image size": manifest.image_size,
        **_describe_pairs(manifest.lora_rank),
        "backbone": manifest.backbone.to_dict(),
        "settings": manifest.settings.to_dict(),
        "provenance": manifest.provenance,
        "files": {
            file: f"{entry.size_bytes} bytes, sha256 {entry.sha256} (checked)"
            for file, entry in manifest.files.items()
        },
        "engines": _describe_engines(folder, manifest),
    }


def _describe_pairs(rank: int | None) -> dict[str, str]:
    """What a swappable bundle is, and nothing of any other."""
    return {} if rank is None else {"lora": f"rank {rank}, pairs are inputs of the encoder"}


def _describe_engines(bundle: Path, manifest: Manifest) -> dict[str, str]:
    """Every engine of the bundle, checked against its hash, and whether it is of these graphs."""
    described = {}
    for folder in engine_folders(bundle, manifest):
        for path in sorted(folder.glob("*.json")):
            try:
                record = read_record(path)
                check_plan(record)
                described[str(path.with_suffix(".plan"))] = _describe_engine(record, manifest)
            except BundleError as error:  # a damaged one must not hide the others
                described[str(path.with_suffix(".plan"))] = str(error)
    return described


def _describe_engine(record: EngineRecord, manifest: Manifest) -> str:
    key = record.key
    rows = ", ".join(f"{axis} {span.min} to {span.max}" for axis, span in key.profile.items())
    current = record.is_of(manifest)
    return (
        f"{key.graph} for {', '.join(key.targets)}, {key.flavor} {key.version}, {key.precision}, "
        f"{rows}, {record.plan_bytes} bytes, "
        + ("checked" if current else "of other graphs or weights than the bundle's")
    )


def _describe_runtime(name: str) -> str:
    """A runtime's version and what it computes in, or the line that installs it."""
    runtime = RUNTIMES[name]
    able = "; ".join(
        f"{graphs} bundles in {' or '.join(precisions)}"
        for graphs, precisions in runtime.computes.items()
    )
    if runtime.on_card:
        able += "; on an NVIDIA card" + ", through engines of the bundle" * runtime.engines
    try:
        return f"{version(runtime.package)} ({able})"
    except PackageNotFoundError:
        return f"missing ({able}): {runtime.install_line}"


def _describe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Which of the instructions for bf16 and matrix tiles the first core has."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    if not flags:
        return dict.fromkeys(_CPU_FLAGS, "not known here")
    return {
        name: ", ".join(flag for flag in wanted if flag in flags) or "no"
        for name, wanted in _CPU_FLAGS.items()
    }

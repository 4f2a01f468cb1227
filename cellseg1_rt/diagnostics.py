"""What a person needs to know when something does not run: versions, runtimes, a bundle's manifest.

Imports the standard library only; no runtime library is loaded to be described.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cellseg1_rt.bundles import find_bundle
from cellseg1_rt.contract import read_manifest, verify_files
from cellseg1_rt.version import __version__

__all__ = ["describe_bundle", "describe_installation"]

_PARTS = {
    "onnxruntime": ("cpu", "runs bundles on the CPU"),
    "torch": ("train", "trains, merges and exports"),
    "segment-anything": ("train", "SAM's modules"),
    "onnx": ("train", "writes graphs"),
    "nibabel": ("nifti", "reads NIfTI"),
}


def describe_installation() -> dict[str, Any]:
    """Versions of this package and of every optional part, or the line that installs it."""
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
        "backbone": manifest.backbone.to_dict(),
        "settings": manifest.settings.to_dict(),
        "provenance": manifest.provenance,
        "files": {
            file: f"{entry.size_bytes} bytes, sha256 {entry.sha256} (checked)"
            for file, entry in manifest.files.items()
        },
    }

"""Where bundles are: a folder the user names, or the one that comes with the package.

Imports the standard library only.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["PACKAGED", "SAMPLES", "find_bundle"]

_ASSETS = Path(__file__).parent / "assets"
PACKAGED = {"tiny": _ASSETS / "tiny"}
"""Bundles that can be named from anywhere."""

SAMPLES = _ASSETS / "samples"
"""Sample images (``images/``) and their labels (``labels/``)."""


def find_bundle(name: str | Path) -> Path:
    """The folder of a bundle. A folder that exists wins over a packaged name."""
    folder = Path(name)
    if folder.exists():
        return folder
    return PACKAGED.get(str(name), folder)

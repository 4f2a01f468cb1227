"""Packages that come with an extra: named with their install line where they are missing.

Imports the standard library only.
"""

from __future__ import annotations

from importlib.util import find_spec

from cellseg1_rt.errors import MissingExtraError

__all__ = ["is_installed", "require"]


def is_installed(package: str) -> bool:
    """Whether ``import package`` would find something, without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def require(package: str, *, extra: str, needed_for: str) -> None:
    """Raise ``MissingExtraError`` with the install line unless ``package`` can be found."""
    if not is_installed(package):
        raise MissingExtraError(package, extra, needed_for)

"""What makes two jobs the same: every setting that can change a byte of an output.

Not among them: threads, workers, prompt batch, shard; a job may go on with others. Imports the
standard library and the contract.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cellseg1_rt.backends.choose import RUNTIMES
from cellseg1_rt.contract import MANIFEST_NAME
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.files import sha256_of_file
from cellseg1_rt.runtime.model import Model
from cellseg1_rt.version import __version__

__all__ = ["hash_of_settings", "require_same_settings", "settings_of_job"]


def settings_of_job(
    model: Model,
    formats: Iterable[str],
    resize: int | None,
    channels: Sequence[int | str] | None = None,
    tile: str | int = "none",
) -> dict[str, Any]:
    """Settings by name, as the journal keeps them.

    The bundle is told by its manifest's SHA-256, which covers every file of it. Versions are part
    of it because another release of this package or of the runtime may give other labels.
    """
    package = RUNTIMES[model.choice.runtime].package
    return {
        "bundle": sha256_of_file(model.bundle / MANIFEST_NAME),
        "runtime": model.choice.runtime,
        "precision": model.choice.precision,
        "resize": resize,
        "tile": tile,
        "formats": sorted(set(formats)),
        "channels": None if channels is None else list(channels),
        **model.settings.to_dict(),
        "cellseg1-rt": __version__,
        package: _version_of(package),
    }


def hash_of_settings(settings: dict[str, Any]) -> str:
    """SHA-256 of settings, whatever their order."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def require_same_settings(held: dict[str, Any], asked: dict[str, Any], journal: Path) -> None:
    """Refuse to mix the results of two jobs in one folder.

    Raises
    ------
    ConfigError : naming each setting that differs, with both values.
    """
    names = [name for name in {**held, **asked} if held.get(name) != asked.get(name)]
    if not names:
        return
    raise ConfigError(
        "this folder holds a job with other settings",
        where=journal,
        got=", ".join(f"{name} {_shown(asked.get(name))}" for name in names),
        expected=", ".join(f"{name} {_shown(held.get(name))}" for name in names),
        fix="choose another folder, or pass --overwrite to start afresh",
    )


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # under another name, as onnxruntime-gpu is
        module = __import__(package)
        return str(module.__version__)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return "+".join(str(each) for each in value)
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text

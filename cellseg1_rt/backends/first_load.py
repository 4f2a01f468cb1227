"""The bundle's check on a card: run at the first load, and remembered once it has passed.

A fused attention has been silently wrong on some cards with some drivers, so what passed on another
card, driver or library says nothing. Imports the standard library and numpy.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.base import Backend
from cellseg1_rt.check import (
    Check,
    Deviation,
    Outputs,
    deviations_of,
    read_check,
    require_agreement,
    sampled,
)
from cellseg1_rt.contract import CHECK_NAME, Manifest
from cellseg1_rt.engine_files import user_cache
from cellseg1_rt.errors import BundleError, ConfigError
from cellseg1_rt.files import atomic_path, require_writable_folder

__all__ = ["Checkable", "Place", "check_at_first_load", "run_check"]


class Checkable(Backend, Protocol):
    """A backend whose embedding can be looked at."""

    def embedding_on_host(self, embedding: Any) -> NDArray[np.float32]:
        """An embedding that ``encode`` returned, [1, 256, g, g]."""


@dataclass(frozen=True)
class Place:
    """What a check has passed on. Anything else here is another place, and checked anew.

    Attributes
    ----------
    card : its name, as ``NVIDIA GeForce RTX 4090``.
    driver : its release; None where the system does not tell, and then nothing is remembered.
    runtime, version : the library.
    files : SHA-256 of the plans, or of the graphs and weights, that it runs.
    """

    card: str
    driver: str | None
    runtime: str
    version: str
    files: tuple[str, ...]


def check_at_first_load(
    backend: Checkable,
    bundle: Path,
    manifest: Manifest,
    place: Place,
    most_prompts: int,
    *,
    again: bool = False,
) -> list[Deviation] | None:
    """Run the bundle's check unless it has passed here, and remember it.

    Parameters
    ----------
    backend : the bundle, loaded.
    place : where it runs.
    most_prompts : of one call.
    again : run it even where it has passed.

    Returns
    -------
    How far each tensor is from float32's; None where the check was not run.

    Raises
    ------
    VerificationError : if a tensor is outside its tolerance, with what to do.
    BundleError : if the check cannot be read, or ``again`` is asked and the bundle has none.
    """
    check = read_check(bundle, manifest)
    if check is None:
        _say_unchecked(bundle, again)
        return None
    passed = _passed_path(manifest, place)
    if passed.exists() and not again:
        return None
    deviations = run_check(backend, check, manifest, most_prompts)
    require_agreement(
        deviations,
        f"{place.runtime} {place.version} on {place.card} (driver {place.driver or 'not known'})",
        "do not use it there: export the bundle with --precision bf16, or fp32 if that differs "
        "too; or take the other of tensorrt-rtx and tensorrt",
    )
    if place.driver is not None:
        _remember(passed, place, deviations)
    return deviations


def run_check(
    backend: Checkable, check: Check, manifest: Manifest, most_prompts: int
) -> list[Deviation]:
    """Run a check's inputs through a backend, and compare what comes out with its outputs."""
    inputs = check.inputs.first(most_prompts)
    (embedding,) = backend.encode(inputs.image, inputs.size)
    seen = sampled(backend.embedding_on_host(embedding))
    decoded = backend.decode(embedding, inputs.points)
    logits: Any = backend.head(decoded, inputs.index)
    on_host = logits if isinstance(logits, np.ndarray) else logits.copy_to_host()
    found = Outputs(seen, decoded.score, sampled(on_host))
    return deviations_of(found, check, manifest.tolerances)


def _passed_path(manifest: Manifest, place: Place) -> Path:
    """The file that stands for a passed check, named by all that it depends on."""
    parts = {
        **asdict(place),
        "check": manifest.files[CHECK_NAME].sha256,
        "tolerances": manifest.tolerances,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return user_cache() / "checks" / f"{digest[:32]}.json"


def _remember(path: Path, place: Place, deviations: list[Deviation]) -> None:
    values = {**asdict(place), "passed": [asdict(each) for each in deviations]}
    try:
        require_writable_folder(path.parent)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except (ConfigError, OSError) as error:
        warnings.warn(
            f"the card passed the bundle's check, which runs at every load: {error}", stacklevel=3
        )


def _say_unchecked(bundle: Path, asked: bool) -> None:
    what = "the bundle carries no check, as those of earlier versions: results are not checked here"
    fix = "export it again with this version"
    if asked:
        raise BundleError(what, where=bundle, expected=CHECK_NAME, fix=fix)
    warnings.warn(f"{bundle}: {what}. Fix: {fix}", stacklevel=3)

"""Engines as files: what a plan was built from, where it lies, and whether it is still that.

An engine is two files: the plan (``NAME.plan``) and what is known of it (``NAME.json``), which is
written last, so a plan without it does not count. ``cellseg1_rt.engine`` builds them, ``backends``
runs them; they meet only here. Imports the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellseg1_rt.bundles import PACKAGED
from cellseg1_rt.contract import GRAPHS, Manifest
from cellseg1_rt.errors import BundleError
from cellseg1_rt.files import atomic_path, require_writable_folder, sha256_of_file

__all__ = [
    "ENGINES_FOLDER",
    "EngineKey",
    "EngineRecord",
    "Figures",
    "Span",
    "check_plan",
    "default_folder",
    "engine_folders",
    "own_folders",
    "read_record",
    "records_in",
    "shared_folder",
    "user_cache",
    "write_record",
]

ENGINES_FOLDER = "engines"
RECORD_VERSION = 1


@dataclass(frozen=True)
class Span:
    """Least, usual and most rows of a dynamic axis in one call."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class EngineKey:
    """What an engine is made of. Anything else here is another engine, built anew.

    Attributes
    ----------
    graph : a name in ``GRAPHS``.
    graph_sha256, weights_sha256 : of the graph's file and of the weights it refers to.
    flavor, version : the library, ``tensorrt-rtx`` or ``tensorrt``, and its version.
    targets : compute capabilities the plan is for, as ``sm_89``.
    precision : what the graph is typed in.
    profile : for each dynamic axis of the graph (``B``, ``N``, ``M``), its span.
    options : the builder's other settings.
    """

    graph: str
    graph_sha256: str
    weights_sha256: str
    flavor: str
    version: str
    targets: tuple[str, ...]
    precision: str
    profile: dict[str, Span]
    options: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 over all of it, 64 hex digits."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def stem(self) -> str:
        """The name of the engine's two files, without their suffixes."""
        targets = "+".join(self.targets)
        return f"{self.graph}.{targets}.{self.precision}.{self.flavor}.{self.digest[:12]}"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EngineKey:
        """A key from a record's table."""
        profile = {axis: Span(**span) for axis, span in values["profile"].items()}
        key = cls(**{**values, "profile": profile, "targets": tuple(values["targets"])})
        if key.graph not in GRAPHS:
            raise ValueError(f"no graph {key.graph!r}")
        return key


@dataclass(frozen=True)
class Figures:
    """What the builder said of an engine.

    Attributes
    ----------
    layers : layers of the network that was read from the graph.
    build_seconds : wall time, reading the graph included.
    activation_bytes : scratch memory of one call at the profile's most.
    weights_bytes : weights in the card's memory.
    """

    layers: int
    build_seconds: float
    activation_bytes: int
    weights_bytes: int


@dataclass(frozen=True)
class EngineRecord:
    """An engine that was built: its key, its plan's size and SHA-256, its figures, its folder."""

    key: EngineKey
    plan_sha256: str
    plan_bytes: int
    figures: Figures
    folder: Path

    @property
    def plan(self) -> Path:
        """The plan's file."""
        return self.folder / f"{self.key.stem}.plan"

    @property
    def path(self) -> Path:
        """The record's own file."""
        return self.folder / f"{self.key.stem}.json"

    def is_of(self, manifest: Manifest) -> bool:
        """Whether the graph and the weights it was built from are the bundle's."""
        return (self.key.graph_sha256, self.key.weights_sha256) == (
            manifest.files[GRAPHS[self.key.graph].file_name].sha256,
            manifest.weights_of(self.key.graph).sha256,
        )

    def to_dict(self) -> dict[str, Any]:
        """The record file's content."""
        return {
            "record_version": RECORD_VERSION,
            "digest": self.key.digest,
            "key": asdict(self.key),
            "plan_sha256": self.plan_sha256,
            "plan_bytes": self.plan_bytes,
            "figures": asdict(self.figures),
        }


def own_folders(bundle: Path, manifest: Manifest) -> tuple[Path, Path]:
    """Where engines of this bundle alone may lie: inside the bundle, and in the user's cache.

    In the cache the folder is named by the graphs, so that two bundles never share one.
    """
    files = [manifest.files[name].sha256 for name in manifest.model_files]
    return Path(bundle) / ENGINES_FOLDER, _cache_folder(files)


def engine_folders(bundle: Path, manifest: Manifest, own: Path | None = None) -> tuple[Path, ...]:
    """Where a bundle's engines may lie: ``own`` or else ``own_folders``, then ``shared_folder``."""
    first = own_folders(bundle, manifest) if own is None else (own,)
    shared = shared_folder(manifest)
    return first if shared is None else (*first, shared)


def shared_folder(manifest: Manifest) -> Path | None:
    """Where the encoder's engine of a swappable bundle goes; None for any other bundle.

    It lies in the user's cache, named by the encoder alone: bundles of other LoRAs of the same SAM
    find it there.
    """
    if manifest.lora_rank is None:
        return None
    graph = manifest.files[GRAPHS["encoder"].file_name]
    return _cache_folder([graph.sha256, manifest.weights_of("encoder").sha256])


def _cache_folder(hashes: list[str]) -> Path:
    name = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
    return user_cache() / ENGINES_FOLDER / name


def user_cache() -> Path:
    """The folder of the user's cache that is this package's; it need not exist."""
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cellseg1-rt"


def default_folder(bundle: Path, manifest: Manifest) -> Path:
    """``BUNDLE/engines``, or the user's cache where the bundle is read-only or comes packaged."""
    inside, cache = own_folders(bundle, manifest)
    if Path(bundle).resolve() in {folder.resolve() for folder in PACKAGED.values()}:
        return cache
    return inside if os.access(bundle, os.W_OK) else cache


def write_record(record: EngineRecord) -> None:
    """Write the record beside its plan, whole or not at all."""
    require_writable_folder(record.folder)
    with atomic_path(record.path) as temporary:
        temporary.write_text(json.dumps(record.to_dict(), indent=2) + "\n", encoding="utf-8")


def read_record(path: Path) -> EngineRecord:
    """Read an engine's record.

    Raises
    ------
    BundleError : if it is damaged, of another version, or was changed by hand.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["record_version"] != RECORD_VERSION:
            raise ValueError(f"record_version {values['record_version']}")
        record = EngineRecord(
            key=EngineKey.from_dict(values["key"]),
            plan_sha256=values["plan_sha256"],
            plan_bytes=values["plan_bytes"],
            figures=Figures(**values["figures"]),
            folder=path.parent,
        )
        if values["digest"] != record.key.digest or path != record.path:
            raise ValueError("a key that is not the one its name was made of")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            "an engine's record cannot be used",
            where=path,
            got=f"no {error}" if isinstance(error, KeyError) else error,
            fix="delete it and run 'cellseg1-rt build-engine' again",
        ) from error
    return record


def records_in(folder: Path) -> list[EngineRecord]:
    """All engines of a folder, by name.

    Raises
    ------
    BundleError : on a record that cannot be used.
    """
    return [read_record(path) for path in sorted(Path(folder).glob("*.json"))]


def check_plan(record: EngineRecord) -> None:
    """Check that a plan is the one that was built, by size and SHA-256.

    Raises
    ------
    BundleError : naming the file and both figures.
    """
    fix = "run 'cellseg1-rt build-engine' again with --overwrite"
    try:
        size = record.plan.stat().st_size
    except FileNotFoundError as error:
        raise BundleError("the engine's plan is missing", where=record.plan, fix=fix) from error
    if size != record.plan_bytes:
        raise BundleError(
            "damaged engine: the plan has another size than was built",
            where=record.plan,
            got=f"{size} bytes",
            expected=f"{record.plan_bytes} bytes",
            fix=fix,
        )
    digest = sha256_of_file(record.plan)
    if digest != record.plan_sha256:
        raise BundleError(
            "damaged engine: the plan has another SHA-256 than was built",
            where=record.plan,
            got=digest,
            expected=record.plan_sha256,
            fix=fix,
        )

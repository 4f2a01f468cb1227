"""A bundle's engines by a recipe: what is there is kept, what is missing is built, all of it fits.

Builders run in processes of their own; here the library is only asked for version and targets.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellseg1_rt.backends.tensorrt_library import load_library
from cellseg1_rt.contract import GRAPHS, Manifest, read_manifest, verify_files
from cellseg1_rt.engine.memory import Footprint, footprint, largest_batch
from cellseg1_rt.engine.processes import BuildTask, Progress, run_builds
from cellseg1_rt.engine.recipe import EngineRecipe
from cellseg1_rt.engine.targets import resolve_targets
from cellseg1_rt.engine_files import (
    EngineKey,
    EngineRecord,
    check_plan,
    default_folder,
    read_record,
    shared_folder,
    write_record,
)
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.files import require_writable_folder

__all__ = ["BuildOptions", "BuiltEngines", "build_engines", "keys_of"]


@dataclass(frozen=True)
class BuildOptions:
    """What does not change an engine.

    Attributes
    ----------
    folder : where engines go; None is the bundle's default, and for the encoder of a swappable
        bundle the folder that bundles of other LoRAs look into.
    one_plan : several targets in one plan a graph, and not a plan a target.
    jobs : builds at a time.
    overwrite : build again what is there.
    """

    folder: Path | None = None
    one_plan: bool = False
    jobs: int = 2
    overwrite: bool = False


@dataclass(frozen=True)
class BuiltEngines:
    """The three engines for some targets.

    Attributes
    ----------
    engines : by graph.
    kept : graphs whose engine was there already.
    footprint : memory of the three together at the profile's most.
    """

    targets: tuple[str, ...]
    engines: dict[str, EngineRecord]
    kept: frozenset[str]
    footprint: Footprint


def build_engines(
    bundle: Path,
    recipe: EngineRecipe,
    options: BuildOptions = BuildOptions(),
    progress: Progress = lambda _key, _share: None,
) -> list[BuiltEngines]:
    """Build what is missing. Engines appear once all of them are built and fit, or not at all.

    Parameters
    ----------
    bundle : a bundle's folder.
    recipe : for which cards, at which sizes.
    options : where and how.
    progress : is told how far each build is.

    Raises
    ------
    ConfigError : on a recipe or target that this bundle or library cannot have, or engines that do
        not fit the card, with the largest prompt batch that does.
    BundleError : on a damaged bundle or engine.
    MissingExtraError, RuntimeUnavailableError : if the library or the card it needs is not there.
    """
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest)
    recipe.require_precision(manifest.precision)
    trt = load_library(recipe.flavor, f"build-engine --flavor {recipe.flavor}")
    targets = resolve_targets(trt, recipe.flavor, recipe.targets)
    groups = [targets] if options.one_plan else [(target,) for target in targets]
    folders = _folders(bundle, manifest, options.folder)
    keys = [keys_of(manifest, recipe, group, trt.__version__) for group in groups]
    kept = {} if options.overwrite else _kept(folders, keys)
    with _staging(folders) as staging:
        tasks = [
            BuildTask(bundle, key, staging[key.graph])
            for of_group in keys
            for key in of_group.values()
            if key.digest not in kept
        ]
        fresh = {record.key.digest: record for record in run_builds(tasks, options.jobs, progress)}
        built = [
            _group(of_group, kept | fresh, frozenset(kept), manifest, recipe) for of_group in keys
        ]
        for group in built:
            scratch = staging["prompt_decoder"]
            _require_fits(group, bundle, manifest, recipe, scratch, options.jobs, progress)
        moved = {key: _move(record, folders[record.key.graph]) for key, record in fresh.items()}
    return [_group(of_group, kept | moved, frozenset(kept), manifest, recipe) for of_group in keys]


def keys_of(
    manifest: Manifest, recipe: EngineRecipe, targets: tuple[str, ...], version: str
) -> dict[str, EngineKey]:
    """The three engines' keys, by graph."""
    options: dict[str, Any] = {
        "workspace_mbytes": recipe.workspace_mbytes,
        "version_compatible": recipe.version_compatible,
        "hardware_compatibility": recipe.hardware_compatibility,
    }
    return {
        name: EngineKey(
            graph=name,
            graph_sha256=manifest.files[spec.file_name].sha256,
            weights_sha256=manifest.weights_of(name).sha256,
            flavor=recipe.flavor,
            version=version,
            targets=targets,
            precision=manifest.precision,
            profile=recipe.profile_of(name),
            options=options,
        )
        for name, spec in GRAPHS.items()
    }


def _folders(bundle: Path, manifest: Manifest, asked: Path | None) -> dict[str, Path]:
    """Where the engine of each graph goes; the folders are there and can be written."""
    own = require_writable_folder(asked or default_folder(bundle, manifest))
    shared = shared_folder(manifest) if asked is None else None
    folders = dict.fromkeys(GRAPHS, own)
    return folders if shared is None else folders | {"encoder": require_writable_folder(shared)}


@contextmanager
def _staging(folders: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """For each graph a new folder inside its own: a plan is moved within its file system."""
    with ExitStack() as stack:
        made = {
            folder: stack.enter_context(tempfile.TemporaryDirectory(prefix=".build-", dir=folder))
            for folder in set(folders.values())
        }
        yield {graph: Path(made[folder]) for graph, folder in folders.items()}


def _kept(folders: Mapping[str, Path], keys: list[dict[str, EngineKey]]) -> dict[str, EngineRecord]:
    """Engines of these keys that are there and whole."""
    found = {}
    for key in (key for of_group in keys for key in of_group.values()):
        path = folders[key.graph] / f"{key.stem}.json"
        if path.exists():
            record = read_record(path)
            check_plan(record)
            found[key.digest] = record
    return found


def _group(
    keys: dict[str, EngineKey],
    records: Mapping[str, EngineRecord],
    kept: frozenset[str],
    manifest: Manifest,
    recipe: EngineRecipe,
) -> BuiltEngines:
    engines = {name: records[key.digest] for name, key in keys.items()}
    return BuiltEngines(
        next(iter(keys.values())).targets,
        engines,
        frozenset(name for name, key in keys.items() if key.digest in kept),
        footprint(manifest, recipe.profile, {name: each.figures for name, each in engines.items()}),
    )


def _require_fits(
    built: BuiltEngines,
    bundle: Path,
    manifest: Manifest,
    recipe: EngineRecipe,
    staging: Path,
    jobs: int,
    progress: Progress,
) -> None:
    """Refuse engines above the card's budget, and find the batch that would fit."""
    budget = recipe.card.budget_bytes
    if built.footprint.total_bytes <= budget:
        return

    def total_bytes(prompts: int) -> int:
        smaller = recipe.updated(prompt_batch=prompts)
        version = built.engines["encoder"].key.version
        keys = keys_of(manifest, smaller, built.targets, version)
        tasks = [BuildTask(bundle, keys[name], staging) for name in GRAPHS if name != "encoder"]
        records = [built.engines["encoder"], *run_builds(tasks, jobs, progress)]
        figures = {record.key.graph: record.figures for record in records}
        return footprint(manifest, smaller.profile, figures).total_bytes

    asked = recipe.profile["N"].max
    found = largest_batch(total_bytes, budget, asked, built.footprint.total_bytes)
    raise ConfigError(
        f"the engines for {', '.join(built.targets)} do not fit the card",
        where=f"{asked} prompts a call",
        got=f"{built.footprint.total_bytes / 1e6:.0f} MB of weights, activations and buffers",
        expected=f"at most {budget / 1e6:.0f} MB ({recipe.card.budget_share:g} of a card's "
        f"{recipe.card.memory_gbytes:g} GB)",
        fix="a smaller model or fp16; not even a few prompts fit"
        if found is None
        else f"--prompt-batch {found[0]}, the largest that fits: {found[1] / 1e6:.0f} MB",
    )


def _move(record: EngineRecord, folder: Path) -> EngineRecord:
    """Put a plan and its record in their place; the record last, since it makes the engine count.

    Raises
    ------
    BundleError : if the plan is not what its builder wrote.
    """
    check_plan(record)
    moved = EngineRecord(record.key, record.plan_sha256, record.plan_bytes, record.figures, folder)
    record.plan.replace(moved.plan)
    write_record(moved)
    return moved

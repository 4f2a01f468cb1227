"""Which engines of a bundle a card can run, and what is wrong where there are none.

Imports the standard library only.
"""

from __future__ import annotations

from pathlib import Path

from cellseg1_rt.contract import GRAPHS, Manifest
from cellseg1_rt.engine_files import EngineRecord, check_plan, engine_folders, records_in
from cellseg1_rt.errors import RuntimeUnavailableError

__all__ = ["find_engines"]


def find_engines(
    bundle: Path,
    manifest: Manifest,
    *,
    flavor: str,
    version: str,
    target: str,
    folder: Path | None = None,
) -> dict[str, EngineRecord]:
    """The bundle's three engines for this library and card, those of most prompts, plans checked.

    Parameters
    ----------
    bundle, manifest : the bundle.
    flavor, version : the library that is to run them.
    target : the card, as ``sm_89``.
    folder : where to look; None is inside the bundle, and in the user's cache. The encoder of a
        swappable bundle is looked for in the folder that such bundles share, too.

    Raises
    ------
    RuntimeUnavailableError : if there are none, with what was found instead: engines of another
        graph, version or card.
    BundleError : if a record or a plan is damaged.
    """
    folders = engine_folders(bundle, manifest, folder)
    found = [
        record for each in folders for record in records_in(each) if record.key.flavor == flavor
    ]
    fitting = [record for record in found if _misfit(record, manifest, version, target) is None]
    prompts = {
        graph: {r.key.profile["N"].max: r for r in fitting if r.key.graph == graph}
        for graph in ("prompt_decoder", "mask_head")
    }
    batches = prompts["prompt_decoder"].keys() & prompts["mask_head"].keys()
    encoders = [record for record in fitting if record.key.graph == "encoder"]
    if not batches or not encoders:
        raise _none_fits(found, manifest, flavor, version, target, folders[0])
    chosen = {
        "encoder": max(encoders, key=lambda record: record.key.profile["B"].max),
        **{graph: prompts[graph][max(batches)] for graph in prompts},
    }
    for record in chosen.values():
        check_plan(record)
    return {graph: chosen[graph] for graph in GRAPHS}


def _misfit(record: EngineRecord, manifest: Manifest, version: str, target: str) -> str | None:
    """Why an engine cannot be used, or None."""
    if target not in record.key.targets:
        return f"built for {', '.join(record.key.targets)}"
    if not record.is_of(manifest):
        return "built from other graphs or weights than the bundle has now"
    if record.key.version != version:
        return f"built by version {record.key.version}"
    return None


def _none_fits(
    found: list[EngineRecord],
    manifest: Manifest,
    flavor: str,
    version: str,
    target: str,
    folder: Path,
) -> RuntimeUnavailableError:
    reasons = {_misfit(record, manifest, version, target) for record in found} - {None}
    return RuntimeUnavailableError(
        f"no engines of this bundle for the runtime {flavor!r} and this card",
        where=folder,
        got="; ".join(f"engines {reason}" for reason in sorted(map(str, reasons))) or "none",
        expected=f"all three for {target}, {flavor} {version}",
        fix=f"cellseg1-rt build-engine BUNDLE --recipe RECIPE --target {target}",
    )

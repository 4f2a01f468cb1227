"""The devices of a job, loaded: in this process, or on a Ray cluster.

Imports what runs models inside functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cellseg1_rt.backends.choose import wants_card
from cellseg1_rt.bundles import find_bundle
from cellseg1_rt.contract import read_manifest
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.jobs.batch import Segmenter, segmenter_of
from cellseg1_rt.jobs.devices import Devices, load_devices, parse_devices
from cellseg1_rt.jobs.identity import settings_of_job
from cellseg1_rt.jobs.job import Elsewhere
from cellseg1_rt.jobs.large import LargeImages
from cellseg1_rt.jobs.remote import Plan
from cellseg1_rt.runtime.model import load

__all__ = ["Opened", "open_devices"]


@dataclass(frozen=True)
class Opened:
    """Devices that are ready.

    Attributes
    ----------
    devices : for ``run_job``.
    settings : of the job.
    told : what a person should know of them, a line each.
    large : what is done with images that are cut into tiles; workers elsewhere know by themselves.
    """

    devices: Sequence[Segmenter] | Elsewhere
    settings: dict[str, Any]
    told: list[str]
    large: LargeImages | None = None


@contextmanager
def open_devices(
    plan: Plan, devices: str | None = None, ray: str | None = None
) -> Iterator[Opened]:
    """Load a model for each device.

    Parameters
    ----------
    plan : what to load.
    devices : as ``parse_devices`` takes it; None is one here, and all on a cluster.
    ray : the address of a cluster, or None for this process.

    Raises
    ------
    CellSeg1RtError : as ``load``, ``load_devices`` and ``RayDevices`` do.
    """
    asked = parse_devices(devices or ("1" if ray is None else "all"))
    if ray is None:
        yield _here(plan, asked)
        return
    if asked.cards is not None:
        raise ConfigError(
            "on a cluster Ray gives out the cards",
            where="--devices",
            got=",".join(map(str, asked.cards)),
            expected="all, or a number of workers a machine",
        )
    from cellseg1_rt.jobs.ray_workers import RayDevices

    folder = find_bundle(plan.bundle)
    on_card = wants_card(plan.options.get("runtime", "auto"), folder, read_manifest(folder))
    is_folder = Path(plan.bundle).exists()
    bundle = str(folder.absolute()) if is_folder else plan.bundle
    with RayDevices(ray, replace(plan, bundle=bundle, on_card=on_card), asked.count) as workers:
        yield Opened(workers, workers.settings, workers.told)


def _here(plan: Plan, asked: Devices) -> Opened:
    loaded = load_devices(
        asked, lambda threads: load(plan.bundle, threads=threads, **plan.options), plan.threads
    )
    first = loaded[0].model
    choice = first.choice
    told = [f"runtime {choice.runtime}, {choice.precision}: {choice.reason}"]
    if len(loaded) > 1:
        cards = [str(device.card) for device in loaded if device.card is not None]
        told.append(f"{len(loaded)} workers" + (f" on cards {', '.join(cards)}" if cards else ""))
    segmenters = [device.run(segmenter_of(device.model)) for device in loaded]
    large = LargeImages.of_model(first, plan.job.get("tile", "none"))
    return Opened(segmenters, settings_of_job(first, **plan.job), told, large)

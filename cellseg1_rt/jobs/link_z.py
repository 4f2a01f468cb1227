"""Slices of a stack that a job segmented, linked to one label map of the stack.

Imports numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.formats import read_image
from cellseg1_rt.formats.label_stack import write_label_stack
from cellseg1_rt.jobs.inputs import Task
from cellseg1_rt.jobs.records import Record
from cellseg1_rt.runtime.link import SliceLinker

__all__ = ["LinkedStack", "require_linkable", "stacks_of_tasks"]

_FORMAT = "tif"  # the output that slices are read from


@dataclass
class LinkedStack:
    """The sink that makes ``NAME_linked.ome.tif`` of a stack whose slices are all done.

    Attributes
    ----------
    file : its name in the job's folder.
    slices : the slices' labels, in the order of z.
    names : the slices' images.
    """

    file: str
    slices: tuple[Path, ...]
    names: tuple[str, ...]

    def write(self, path: Path, done: Iterable[Record]) -> None:
        """Link the slices, one after another; two are in memory at a time."""
        first = read_image(self.slices[0])
        shape = (len(self.slices), first.pixels.shape[0], first.pixels.shape[1])
        write_label_stack(path, self._linked(), shape, first.pixel_size_um)

    def _linked(self) -> Iterator[NDArray[np.uint32]]:
        linker = SliceLinker()
        for path in self.slices:
            yield linker.add(read_image(path).pixels)


def stacks_of_tasks(tasks: Sequence[Task]) -> list[LinkedStack]:
    """Every stack along z among the images of a job; of a series, one for each point in time."""
    found: dict[tuple[object, ...], list[Task]] = {}
    for task in tasks:
        if task.plane is not None and _z_of(task) is not None:
            others = tuple(each for each in task.plane.at if each[0].lower() != "z")
            found.setdefault((task.source, task.plane.scene, others), []).append(task)
    stacks = []
    for slices in found.values():
        slices.sort(key=lambda task: _z_of(task) or 0)
        stacks.append(
            LinkedStack(
                f"{_name_without_z(slices[0])}_linked.ome.tif",
                tuple(task.outputs[_FORMAT] for task in slices),
                tuple(task.name for task in slices),
            )
        )
    return stacks


def require_linkable(tasks: Sequence[Task], is_shard: bool) -> None:
    """Refuse ``--link-z`` where it cannot be done.

    Raises
    ------
    ConfigError : if labels are not written as ``tif``, slices are spread over shards, or there is
        no stack.
    """
    where = "--link-z"
    if is_shard:
        raise ConfigError("one or the other", where="--link-z, --shard", got="both")
    if any(_FORMAT not in task.outputs for task in tasks):
        raise ConfigError(
            "links what the format tif holds", where=where, fix=f"add {_FORMAT} to --format"
        )
    if not stacks_of_tasks(tasks):
        raise ConfigError(
            "no stack among the images",
            where=where,
            expected="images with several planes along z",
            fix="name the axis z in the file, or leave the option out",
        )


def _z_of(task: Task) -> int | None:
    at = () if task.plane is None else task.plane.at
    return next((index for axis, index in at if axis.lower() == "z"), None)


def _name_without_z(task: Task) -> str:
    """``cells_t002`` of ``cells_t002_z003``: what all slices of a stack have in common."""
    parts = task.name.split("_")
    of_z = [place for place, part in enumerate(parts) if part[:1] == "z" and part[1:].isdecimal()]
    return "_".join(parts[: of_z[-1]] + parts[of_z[-1] + 1 :])

"""Which planes an image of several axes has, in order, and what each is called.

The rules are told in docs/inputs.md. Imports the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from cellseg1_rt.formats.planes import PlaneAddress

__all__ = ["Listing", "Scene", "listing_of", "scene_parts"]

# tifffile's letters for a sequence of pages, and for an axis that nobody named.
_UNNAMED = ("I", "Q")
_FEWEST_DIGITS = 3


@dataclass(frozen=True)
class Scene:
    """One of the images in a file, and the axes along which its planes are stacked.

    Attributes
    ----------
    key : what finds it again: its number from 0, or its path; empty for an only one.
    part : what the names of its planes begin with; may be empty.
    axes : letter and length of each, all longer than 1, the slowest first.
    """

    key: str
    part: str
    axes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Listing:
    """The planes of a file.

    Attributes
    ----------
    planes : at least one.
    note : what the file does not say, and what it was taken for; empty where nothing was guessed.
    """

    planes: tuple[PlaneAddress, ...]
    note: str = ""


def listing_of(scenes: Iterable[Scene], note: str = "") -> Listing:
    """Every plane of every scene, the last axis fastest.

    An index is written with as many digits as the last one has, and three at least.
    """
    planes = []
    for scene in scenes:
        for indices in product(*(range(length) for _, length in scene.axes)):
            parts = [scene.part] if scene.part else []
            for (axis, length), index in zip(scene.axes, indices, strict=True):
                digits = max(_FEWEST_DIGITS, len(str(length - 1)))
                letter = "p" if axis in _UNNAMED else axis.lower()
                parts.append(f"{letter}{index:0{digits}}")
            at = tuple((axis, i) for (axis, _), i in zip(scene.axes, indices, strict=True))
            planes.append(PlaneAddress(scene.key, at, "_".join(parts)))
    return Listing(tuple(planes), note)


def scene_parts(names: Sequence[str]) -> list[str]:
    """What the scenes of a file are called in the names of outputs.

    Their own names, with what is no letter, digit, dot, plus or minus made a minus, if all have
    one and no two are the same whatever the case; else ``s000``, ``s001`` and so on. An only scene
    needs no name.
    """
    if len(names) < 2:
        return [""] * len(names)
    parts = [re.sub(r"[^\w.+-]+", "-", name).strip("-.") for name in names]
    if all(parts) and len({part.casefold() for part in parts}) == len(parts):
        return parts
    digits = max(_FEWEST_DIGITS, len(str(len(names) - 1)))
    return [f"s{index:0{digits}}" for index in range(len(names))]

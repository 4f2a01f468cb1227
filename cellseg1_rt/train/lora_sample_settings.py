"""Every number of LoRA training that concerns its data, checked. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from cellseg1_rt.backbone import PATCH_SIZE
from cellseg1_rt.errors import ConfigError

__all__ = ["SampleSettings"]


@dataclass(frozen=True)
class SampleSettings:
    """How tiles are cut, points drawn and samples augmented. The defaults are the published ones.

    Attributes
    ----------
    image_size : side S of a sample, px: that of the model's input.
    windows : what samples are drawn from: ``tiles`` of ``tile_px``, as published, or ``crops``,
        the windows that inference will look at. Tiles are enlarged to ``image_size``, and a large
        image is reduced to it when it is segmented: cells are then learned much larger than met.
    tile_px : side of a tile, px.
    smallest_set : a list of fewer tiles than this is repeated.
    most_cells : cells of a tile that may get a point.
    smallest_cell_px : cells of this area or less get no point.
    edge_band_px : cells wholly in a band of this width along a tile's or sample's edge get none.
    core_share : points lie in this share of a cell's or the background's pixels, the innermost.
    background_per_cell : background points for each of a tile's cells, rounded up.
    most_background : background points of a tile at most.
    background_px : one background point at most for each area of this many candidates, plus one.
    densest : cells' area over background's, above which no background point is drawn.
    jitter, jitter_share : brightness and contrast change by up to ± this; how often.
    flip_share : how often a tile is flipped.
    crop_share, crop_scale, crop_ratio : how often a crop is taken; its share of the tile's area;
        its width over its height.
    affine_share : how often shift, scale and rotation are changed.
    shift : up to ± this share of a side.
    scale : factor, lowest and highest.
    rotate_deg : up to ± this.
    """

    image_size: int = 512
    windows: str = "tiles"
    tile_px: int = 256
    smallest_set: int = 32
    most_cells: int = 30
    smallest_cell_px: int = 100
    edge_band_px: int = 20
    core_share: float = 0.2
    background_per_cell: float = 0.5
    most_background: int = 30
    background_px: int = 1000
    densest: float = 5.0
    jitter: float = 0.1
    jitter_share: float = 0.5
    flip_share: float = 0.75
    crop_share: float = 0.5
    crop_scale: tuple[float, float] = (0.3, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 1.33)
    affine_share: float = 0.8
    shift: float = 0.0625
    scale: tuple[float, float] = (0.5, 1.5)
    rotate_deg: float = 45.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # TOML has no tuples, and a list would not be hashable
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            _require_type(field.name, str(field.type), value)
            holds, expected = _RANGES[field.name]
            if not holds(value):
                raise ConfigError(
                    "out of range", where=f"sampling, {field.name}", got=value, expected=expected
                )


def _require_type(name: str, kind: str, value: Any) -> None:
    if kind == "str":
        return  # its choices are its range
    values = value if kind.startswith("tuple") else (value,)
    wanted, words = ((int,), "a whole number") if kind == "int" else ((int, float), "a number")
    if kind.startswith("tuple"):
        words = "two numbers, the lowest and the highest"
    sound = isinstance(values, tuple) and len(values) == (2 if kind.startswith("tuple") else 1)
    for part in values if sound else ():
        sound = sound and isinstance(part, wanted) and not isinstance(part, bool)
        sound = sound and math.isfinite(part)
    if not sound:
        raise ConfigError(
            "of the wrong kind", where=f"sampling, {name}", got=repr(value), expected=words
        )


Check = tuple[Callable[[Any], bool], str]

_FROM_0: Check = (lambda value: value >= 0, "a number from 0 on")
_FROM_1: Check = (lambda value: value >= 1, "a whole number from 1 on")
_SHARE: Check = (lambda value: 0 <= value <= 1, "a share in [0, 1]")
_RANGES: dict[str, Check] = {
    "image_size": (
        lambda value: value >= PATCH_SIZE and value % PATCH_SIZE == 0,
        f"a multiple of {PATCH_SIZE} from {PATCH_SIZE} on",
    ),
    "windows": (lambda value: value in ("tiles", "crops"), "tiles or crops"),
    "tile_px": _FROM_1,
    "smallest_set": _FROM_0,
    "most_cells": _FROM_1,
    "smallest_cell_px": _FROM_0,
    "edge_band_px": _FROM_0,
    "core_share": (lambda value: 0 < value <= 1, "a share in (0, 1]"),
    "background_per_cell": _FROM_0,
    "most_background": _FROM_0,
    "background_px": _FROM_1,
    "densest": _FROM_0,
    "jitter": _SHARE,
    "jitter_share": _SHARE,
    "flip_share": _SHARE,
    "crop_share": _SHARE,
    "crop_scale": (lambda value: 0 < value[0] <= value[1] <= 1, "0 < lowest <= highest <= 1"),
    "crop_ratio": (lambda value: 0 < value[0] <= value[1], "0 < lowest <= highest"),
    "affine_share": _SHARE,
    "shift": _SHARE,
    "scale": (lambda value: 0 < value[0] <= value[1], "0 < lowest <= highest"),
    "rotate_deg": (lambda value: 0 <= value <= 180, "degrees in [0, 180]"),
}

"""The inference settings: the published thresholds, checked once, passed everywhere as one value.

Imports the standard library only.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from cellseg1_rt.errors import ConfigError

__all__ = ["InferenceSettings"]


@dataclass(frozen=True)
class InferenceSettings:
    """How prompts become labels. Defaults are CellSeg1's published values, but for ``crops``.

    A threshold of 0 switches its filter off (``score``, ``stability``, ``max_area_ratio``).

    Attributes
    ----------
    points_per_side : grid points along each side of a crop; a crop is prompted with its square.
    crops : layers of overlapping crops besides the whole image. 0 is one embedding; the published
        configuration is 1, which is 5 embeddings.
    score : keep candidates whose score (cell probability) is above this, 0..1.
    stability : keep candidates whose stability is at least this, 0..1.
    stability_offset : logits above +offset over logits above -offset is the stability.
    crop_nms : mask IoU above which the lower-ranked candidate is dropped, within and across crops.
    box_nms : the same for the last NMS, after small regions are cleaned, where the larger of the
        two counts.
    min_area : holes and islands smaller than this many px are filled and dropped.
    max_area_ratio : keep candidates smaller than this share of the image.
    """

    points_per_side: int = 32
    crops: int = 0
    score: float = 0.8
    stability: float = 0.6
    stability_offset: float = 0.8
    crop_nms: float = 0.05
    box_nms: float = 0.05
    min_area: int = 20
    max_area_ratio: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise ConfigError(
                    "not a number of the right kind",
                    where=f"setting {field.name!r}",
                    got=repr(value),
                    expected="an integer" if whole else "a number",
                )
            low, high = _RANGES[field.name]
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(
                    "out of range",
                    where=f"setting {field.name!r}",
                    got=value,
                    expected=f"{low} to {high}",
                )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InferenceSettings:
        """Settings from a manifest or a recipe.

        Raises
        ------
        ConfigError : on a name that is not a setting, or a value out of its range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                "unknown setting",
                where=", ".join(unknown),
                expected=f"one of {', '.join(sorted(known))}",
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the order of the fields."""
        return asdict(self)

    def updated(self, **values: Any) -> InferenceSettings:
        """A copy in which every value that is not None replaces the old one."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})


_RANGES: dict[str, tuple[float, float]] = {
    "points_per_side": (1, 512),
    "crops": (0, 4),
    "score": (0.0, 1.0),
    "stability": (0.0, 1.0),
    "stability_offset": (0.0, 100.0),
    "crop_nms": (0.0, 1.0),
    "box_nms": (0.0, 1.0),
    "min_area": (0, 2**31 - 1),
    "max_area_ratio": (0.0, 1.0),
}

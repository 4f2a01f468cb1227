"""The numbers of a pretraining (``train/recipes/tiny.toml``), checked. Standard library only."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from cellseg1_rt.backbone import PATCH_SIZE
from cellseg1_rt.errors import ConfigError

__all__ = ["LossWeights", "Optimizer", "PretrainRecipe", "Stage"]

SMALLEST_WINDOW_PX = 48
"""Below this a synthetic scene has no room for its cells."""

Part = TypeVar("Part", "LossWeights", "Optimizer", "Stage", "PretrainRecipe")


@dataclass(frozen=True)
class Optimizer:
    """AdamW and its schedule: linear warm-up, constant, linear to zero at the very end."""

    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    warmup_steps: int
    decay_share: float
    clip_norm: float

    def __post_init__(self) -> None:
        _require(self, "learning_rate", self.learning_rate >= 0, "a number from 0 on")
        _require(self, "weight_decay", self.weight_decay >= 0, "a number from 0 on")
        for name in ("beta1", "beta2"):
            _require(self, name, 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        _require(self, "warmup_steps", self.warmup_steps >= 1, "a whole number from 1 on")
        _require(self, "decay_share", 0 < self.decay_share <= 1, "a share in (0, 1]")
        _require(self, "clip_norm", self.clip_norm > 0, "a number above 0")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms.

    Attributes
    ----------
    focal, dice, score, dense : factors on the terms.
    focal_gamma : the focal loss's exponent.
    neighbours : extra weight, within dice, of a mask's parts on other cells.
    quality : share of a cell's score that tells good masks from bad ones, 0..1.
    """

    focal: float
    focal_gamma: float
    dice: float
    neighbours: float
    quality: float
    score: float
    dense: float

    def __post_init__(self) -> None:
        for field in fields(self):
            _require(self, field.name, getattr(self, field.name) >= 0, "a number from 0 on")
        _require(self, "quality", self.quality <= 1, "a share in [0, 1]")


@dataclass(frozen=True)
class Stage:
    """A stretch of training on windows of one size.

    Attributes
    ----------
    window_px : side of a window of the model's input.
    steps : optimisation steps.
    images_per_step, points_per_image : windows a step, and prompts in each.
    synthetic_share : probability that a window is a synthetic scene, 0..1.
    """

    window_px: int
    steps: int
    images_per_step: int
    points_per_image: int
    synthetic_share: float

    def __post_init__(self) -> None:
        _require(
            self,
            "window_px",
            self.window_px >= SMALLEST_WINDOW_PX and self.window_px % PATCH_SIZE == 0,
            f"a multiple of {PATCH_SIZE} from {SMALLEST_WINDOW_PX} on",
        )
        for name in ("steps", "images_per_step", "points_per_image"):
            _require(self, name, getattr(self, name) >= 1, "a whole number from 1 on")
        _require(self, "synthetic_share", 0 <= self.synthetic_share <= 1, "a share in [0, 1]")


@dataclass(frozen=True)
class PretrainRecipe:
    """What to train and how.

    Attributes
    ----------
    backbone : name of the export recipe with the encoder's shape.
    image_size : side of the model's input in px: the frame that windows lie in.
    seed : seed of the weights and of every sample.
    held_out_images : pairs kept for validation.
    validate_every, checkpoint_every : steps.
    average_decay : of the exponential moving average of the weights, which is what is kept.
    """

    backbone: str
    image_size: int
    seed: int
    held_out_images: int
    validate_every: int
    checkpoint_every: int
    average_decay: float
    optimizer: Optimizer
    loss: LossWeights
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        for name in ("validate_every", "checkpoint_every"):
            _require(self, name, getattr(self, name) >= 1, "a whole number from 1 on")
        _require(self, "held_out_images", self.held_out_images >= 0, "a whole number from 0 on")
        _require(self, "average_decay", 0 <= self.average_decay < 1, "a number in [0, 1)")
        _require(self, "stages", len(self.stages) > 0, "at least one [[stages]] table")
        largest = max(stage.window_px for stage in self.stages)
        _require(
            self,
            "image_size",
            self.image_size % PATCH_SIZE == 0 and self.image_size >= largest,
            f"a multiple of {PATCH_SIZE}, no smaller than the largest window ({largest})",
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PretrainRecipe:
        """A recipe from its TOML tables.

        Raises
        ------
        ConfigError : on a missing or unknown field, or a value out of its range.
        """
        tables = dict(values)
        if "optimizer" in tables:
            tables["optimizer"] = _part(Optimizer, tables["optimizer"], "[optimizer]")
        if "loss" in tables:
            tables["loss"] = _part(LossWeights, tables["loss"], "[loss]")
        if "stages" in tables:
            tables["stages"] = _stages(tables["stages"])
        return _part(cls, tables, "top level")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, to tell one recipe from another."""
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages]}

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that ``step`` (from 0) belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, constant, and linear to zero over the last ``decay_share`` of all."""
        decay_steps = max(1, round(self.total_steps * self.optimizer.decay_share))
        left = (self.total_steps - step) / decay_steps
        warm = (step + 1) / self.optimizer.warmup_steps
        return self.optimizer.learning_rate * min(1.0, warm, left)


def _stages(tables: Any) -> tuple[Stage, ...]:
    if not isinstance(tables, list | tuple):
        raise ConfigError("not a list of tables", where="pretrain recipe, stages", got=repr(tables))
    return tuple(
        _part(Stage, table, f"[[stages]] {number}") for number, table in enumerate(tables, start=1)
    )


def _part(kind: type[Part], values: Any, where: str) -> Part:
    """A table as its dataclass: no field missing or unknown, each of its type."""
    if not isinstance(values, dict):
        name = where.strip("[]")
        raise ConfigError(
            "not a table", where=f"pretrain recipe, top level, {name}", got=repr(values)
        )
    expected = {field.name: str(field.type) for field in fields(kind)}
    for problem, names in (
        ("missing", expected.keys() - values.keys()),
        ("unknown", values.keys() - expected.keys()),
    ):
        if names:
            raise ConfigError(
                f"{problem} field",
                where=f"pretrain recipe, {where}",
                got=", ".join(sorted(names)),
                expected=", ".join(expected),
            )
    for name, value in values.items():
        place = f"pretrain recipe, {where}, {name}"
        wanted = _TYPES.get(expected[name])
        if wanted and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise ConfigError(f"not of type {expected[name]}", where=place, got=repr(value))
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError("not finite", where=place, got=value)
    return kind(**values)


_TYPES: dict[str, type | tuple[type, ...]] = {"int": int, "float": (int, float), "str": str}


def _require(part: Any, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(
            "out of range",
            where=f"pretrain recipe, {type(part).__name__}.{name}",
            got=repr(getattr(part, name)),
            expected=expected,
        )

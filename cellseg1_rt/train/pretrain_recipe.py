"""The numbers of a pretraining (``train/recipes/tiny.toml``), checked. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from cellseg1_rt.backbone import PATCH_SIZE
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.train.tables import part_from_table, require_range

__all__ = ["LossWeights", "Optimizer", "PretrainRecipe", "Stage"]

SMALLEST_WINDOW_PX = 48
"""Below this a synthetic scene has no room for its cells."""


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
        require_range(self, "learning_rate", self.learning_rate >= 0, "a number from 0 on")
        require_range(self, "weight_decay", self.weight_decay >= 0, "a number from 0 on")
        for name in ("beta1", "beta2"):
            require_range(self, name, 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        require_range(self, "warmup_steps", self.warmup_steps >= 1, "a whole number from 1 on")
        require_range(self, "decay_share", 0 < self.decay_share <= 1, "a share in (0, 1]")
        require_range(self, "clip_norm", self.clip_norm > 0, "a number above 0")


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
            require_range(self, field.name, getattr(self, field.name) >= 0, "a number from 0 on")
        require_range(self, "quality", self.quality <= 1, "a share in [0, 1]")


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
        require_range(
            self,
            "window_px",
            self.window_px >= SMALLEST_WINDOW_PX and self.window_px % PATCH_SIZE == 0,
            f"a multiple of {PATCH_SIZE} from {SMALLEST_WINDOW_PX} on",
        )
        for name in ("steps", "images_per_step", "points_per_image"):
            require_range(self, name, getattr(self, name) >= 1, "a whole number from 1 on")
        require_range(self, "synthetic_share", 0 <= self.synthetic_share <= 1, "a share in [0, 1]")


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
            require_range(self, name, getattr(self, name) >= 1, "a whole number from 1 on")
        require_range(
            self, "held_out_images", self.held_out_images >= 0, "a whole number from 0 on"
        )
        require_range(self, "average_decay", 0 <= self.average_decay < 1, "a number in [0, 1)")
        require_range(self, "stages", len(self.stages) > 0, "at least one [[stages]] table")
        largest = max(stage.window_px for stage in self.stages)
        require_range(
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
        ConfigError : on a recipe of another kind, a missing or unknown field, or a value out of its
            range.
        """
        if "lora" in values and "stages" not in values:
            raise ConfigError(
                "a recipe for train, not for pretrain",
                where="pretrain recipe",
                got=f"the tables {', '.join(sorted(values))}",
                expected="the tables optimizer, loss and stages",
                fix="choose tiny",
            )
        tables = dict(values)
        if "optimizer" in tables:
            tables["optimizer"] = part_from_table(
                Optimizer, tables["optimizer"], "pretrain recipe, [optimizer]"
            )
        if "loss" in tables:
            tables["loss"] = part_from_table(LossWeights, tables["loss"], "pretrain recipe, [loss]")
        if "stages" in tables:
            tables["stages"] = _stages(tables["stages"])
        return part_from_table(cls, tables, "pretrain recipe, top level")

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
        part_from_table(Stage, table, f"pretrain recipe, [[stages]] {number}")
        for number, table in enumerate(tables, start=1)
    )

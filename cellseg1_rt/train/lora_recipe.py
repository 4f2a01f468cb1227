"""The numbers of LoRA training (``train/recipes/published.toml``, ``quick.toml``), checked.

Imports the standard library only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.train.lora_sample_settings import SampleSettings
from cellseg1_rt.train.tables import part_from_table, require_range

__all__ = ["EarlyStop", "LoraOptimizer", "LoraOptions", "LoraRecipe", "Schedule"]


@dataclass(frozen=True)
class LoraOptions:
    """What is trained: rank of every product B·A, and the dropout on every sum."""

    rank: int
    dropout: float

    def __post_init__(self) -> None:
        require_range(self, "rank", self.rank >= 1, "a whole number from 1 on")
        require_range(self, "dropout", 0 <= self.dropout < 1, "a share in [0, 1)")


@dataclass(frozen=True)
class LoraOptimizer:
    """AdamW under PyTorch's OneCycleLR, whose other settings are its defaults.

    Attributes
    ----------
    learning_rate : the highest of the cycle.
    weight_decay : of AdamW.
    rising_share : share of the planned steps in which the rate rises (``pct_start``).
    batch_tiles : tiles of a batch, whose points are averaged together.
    batches_per_step : batches that a step is made of.
    heads_share : rate of the mask decoder's tensors outside its transformer over that of the LoRA.
        0 leaves them as they are, as published. A LoRA file carries full copies of them, so what is
        trained of them is used wherever the file is.
    """

    learning_rate: float
    weight_decay: float
    rising_share: float
    batch_tiles: int
    batches_per_step: int
    heads_share: float = 0.0

    def __post_init__(self) -> None:
        require_range(self, "learning_rate", self.learning_rate > 0, "a number above 0")
        require_range(self, "weight_decay", self.weight_decay >= 0, "a number from 0 on")
        require_range(self, "rising_share", 0 < self.rising_share < 1, "a share in (0, 1)")
        require_range(self, "heads_share", 0 <= self.heads_share <= 1, "a share in [0, 1]")
        for name in ("batch_tiles", "batches_per_step"):
            require_range(self, name, getattr(self, name) >= 1, "a whole number from 1 on")

    def is_step_due(self, batch: int, batches: int) -> bool:
        """Whether a step follows batch ``batch`` (from 0) of an epoch of ``batches``."""
        return (batch + 1) % self.batches_per_step == 0 or batch == batches - 1

    def divisor_of(self, batch: int, batches: int) -> int:
        """What a batch's loss is divided by.

        The published code divides by the full count, but an epoch's last batch by how many its
        group has, so that of a short last group only the last batch counts in full.
        """
        in_group = batch % self.batches_per_step + 1
        return in_group if batch == batches - 1 else self.batches_per_step

    def planned_steps(self, epochs: int, batches: int) -> int:
        """Steps that the cycle is laid out for.

        The published code's precedence: epochs·(batches + 7) // 8, which is more than are made
        where 8 does not divide the batches, so the cycle does not reach its end.
        """
        return epochs * (batches + self.batches_per_step - 1) // self.batches_per_step


@dataclass(frozen=True)
class Schedule:
    """How often all tiles are seen.

    Attributes
    ----------
    epochs : for up to ``few_images`` training images.
    few_images : see above.
    epochs_of_many : for more images.
    """

    epochs: int
    few_images: int
    epochs_of_many: int

    def __post_init__(self) -> None:
        for name in ("epochs", "epochs_of_many"):
            require_range(self, name, getattr(self, name) >= 1, "a whole number from 1 on")
        require_range(self, "few_images", self.few_images >= 0, "a whole number from 0 on")

    def epochs_for(self, images: int) -> int:
        """Epochs for a number of training images."""
        return self.epochs if images <= self.few_images else self.epochs_of_many


@dataclass(frozen=True)
class EarlyStop:
    """When to stop before the schedule's end, judged on a held-out corner of each image.

    Attributes
    ----------
    corner_share : sides of the corner over the image's.
    least_cells : whole cells that the corners must hold together; with fewer, nothing is held out.
    validate_every : epochs.
    patience : validations in a row without a better one, after which training stops.
    """

    corner_share: float
    least_cells: int
    validate_every: int
    patience: int

    def __post_init__(self) -> None:
        require_range(self, "corner_share", 0 < self.corner_share <= 0.5, "a share in (0, 0.5]")
        for name in ("least_cells", "validate_every", "patience"):
            require_range(self, name, getattr(self, name) >= 1, "a whole number from 1 on")


@dataclass(frozen=True)
class LoraRecipe:
    """What to train and how.

    Attributes
    ----------
    seed : of A, of dropout, of the tiles' order and of every sample.
    data : tiles, points and augmentation; by default the published numbers.
    early_stop : None trains to the schedule's end on all of every image.
    keep_known : of what training changes, keep the share that the SAM was lacking before:
        1 - its AP@0.5 on the training images. Otherwise all of it, as published.
    least_width_px : a bundle that is made of the LoRA segments with as many layers of crops as
        show the median cell this wide, in px of the model's input; 0: as many as the grid needs.
    """

    seed: int
    lora: LoraOptions
    optimizer: LoraOptimizer
    schedule: Schedule
    data: SampleSettings = field(default_factory=SampleSettings)
    early_stop: EarlyStop | None = None
    keep_known: bool = False
    least_width_px: float = 0.0

    def __post_init__(self) -> None:
        require_range(self, "seed", self.seed >= 0, "a whole number from 0 on")
        least = self.least_width_px
        require_range(self, "least_width_px", least >= 0, "a number from 0 on")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LoraRecipe:
        """A recipe from its TOML tables.

        Raises
        ------
        ConfigError : on a recipe of another kind, a missing or unknown field, or a value out of its
            range.
        """
        if "stages" in values and "lora" not in values:
            raise ConfigError(
                "a recipe for pretrain, not for train",
                where="train recipe",
                got=f"the tables {', '.join(sorted(values))}",
                expected="the tables lora, optimizer and schedule",
                fix="choose published or quick",
            )
        tables = dict(values)
        for name, kind in _TABLES.items():
            if name in tables:
                tables[name] = part_from_table(kind, tables[name], f"train recipe, [{name}]")
        return part_from_table(cls, tables, "train recipe, top level")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, to tell one recipe from another."""
        return asdict(self)


_TABLES: dict[str, type] = {
    "lora": LoraOptions,
    "optimizer": LoraOptimizer,
    "schedule": Schedule,
    "data": SampleSettings,
    "early_stop": EarlyStop,
}

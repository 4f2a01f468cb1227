"""What a person chooses before training: the SAM to start from, the device, how to run.

May import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.bundles import find_bundle
from cellseg1_rt.contract import WEIGHTS_NAME, read_manifest
from cellseg1_rt.errors import ConfigError, RuntimeUnavailableError
from cellseg1_rt.recipes import read_recipe

__all__ = ["SamSource", "TrainOptions", "find_device", "find_sam"]


@dataclass(frozen=True)
class SamSource:
    """The weights that training starts from, and the encoder they are of."""

    weights: Path
    backbone: Backbone


@dataclass(frozen=True)
class TrainOptions:
    """Where and how a training runs; with one exception none of it changes what is computed.

    Attributes
    ----------
    device : ``auto`` (CUDA where there is a card, said aloud), ``cpu``, ``cuda``, ``cuda:1``...
    precision : ``fp32``, or ``bf16``, which rounds: the exception.
    batch : tiles that the encoder sees together; None chooses. The recipe's batch is unchanged:
        its points are averaged together whatever fits at once.
    gradient_checkpointing : less memory, more time.
    epochs : instead of the recipe's.
    """

    device: str = "auto"
    precision: str = "fp32"
    batch: int | None = None
    gradient_checkpointing: bool = False
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(
                "not offered", where="precision", got=self.precision, expected="fp32 or bf16"
            )
        for name in ("batch", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(
                    "out of range", where=name, got=value, expected="a whole number from 1 on"
                )


def find_sam(sam: str | Path, backbone: str | None) -> SamSource:
    """What ``--sam`` and ``--backbone`` mean.

    Parameters
    ----------
    sam : a bundle's folder or packaged name (``tiny``), which brings its backbone; or a checkpoint.
        A swappable bundle stands for its SAM, without its LoRA.
    backbone : export recipe with the checkpoint's backbone; needed with a checkpoint only.

    Raises
    ------
    ConfigError : if it is missing, or is not the bundle's.
    """
    found = find_bundle(sam)
    if found.is_dir():
        own = read_manifest(found).backbone
        if backbone is not None and _backbone_of(backbone) != own:
            raise ConfigError(
                "this bundle has another backbone",
                where=sam,
                got=own.name,
                expected=backbone,
                fix="leave --backbone out",
            )
        return SamSource(found / WEIGHTS_NAME, own)
    if backbone is None:
        raise ConfigError(
            "which backbone a checkpoint has is not in it",
            where=sam,
            expected="--backbone",
            fix="pass --backbone vit_h, vit_l or vit_b",
        )
    return SamSource(found, _backbone_of(backbone))


def find_device(name: str, tell: Callable[[str], None]) -> torch.device:
    """The device that a name means; ``auto`` is a card where there is one, said aloud.

    Raises
    ------
    ConfigError : if it is no device's name.
    RuntimeUnavailableError : if the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        tell(f"device {name}")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            "no such device", where="device", got=name, expected="auto, cpu, cuda or cuda:N"
        ) from error
    count = torch.cuda.device_count()
    if device.type != "cpu" and (device.type != "cuda" or (device.index or 0) >= count):
        raise RuntimeUnavailableError(
            "this device is not there",
            where="device",
            got=name,
            expected=", ".join(["cpu", *(f"cuda:{index}" for index in range(count))]),
        )
    return device


def _backbone_of(recipe: str) -> Backbone:
    values = read_recipe("export", recipe)
    if "backbone" not in values:
        raise ConfigError("missing from the recipe", where=recipe, expected="the table backbone")
    return Backbone.from_dict(values["backbone"])

"""From images to weights. Runs PyTorch; recipes are in ``recipes/``.

The package can be called: ``cellseg1_rt.train("cells.png", "labels.png", "lora.pth", sam="tiny")``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellseg1_rt.train.lora_loop import Trained

__all__ = ["train"]


def train(
    image: str | PathLike[str],
    labels: str | PathLike[str],
    output: str | PathLike[str],
    *,
    sam: str | PathLike[str] = "tiny",
    backbone: str | None = None,
    recipe: str | PathLike[str] = "published",
    work: str | PathLike[str] | None = None,
    resume: bool = False,
    report: Callable[[dict[str, float]], None] = lambda _: None,
    tell: Callable[[str], None] = print,
    **options: Any,
) -> Trained:
    """Train a LoRA on an annotated image, or on two folders of them, and write it.

    Parameters
    ----------
    image, labels : files, or folders whose files pair by name.
    output : ``.pth``, as CellSeg1 writes it, with NAME.json beside it; or ``.safetensors``.
    sam : a bundle (``tiny`` or a folder), which brings its backbone, or a SAM checkpoint.
    backbone : export recipe with the checkpoint's backbone, such as ``vit_h``.
    recipe : ``published``, ``quick``, or a ``.toml`` file.
    work : folder for checkpoint, log and curves; by default ``output`` with suffix ``.work``.
    resume : go on from the checkpoint in ``work``.
    report : called with the figures of every step and every validation.
    tell : called with each line about the annotation and about choices that were made.
    options : fields of ``TrainOptions``: device, precision, batch, gradient_checkpointing, epochs.

    Returns
    -------
    What was trained: its tensors, its epoch, and what ended it.

    Raises
    ------
    InputError, ConfigError, WeightsError : on inputs that cannot be used, or a loss that is not
        finite.
    """
    from cellseg1_rt.recipes import read_recipe
    from cellseg1_rt.train.lora_choices import TrainOptions, find_sam
    from cellseg1_rt.train.lora_files import train_files
    from cellseg1_rt.train.lora_recipe import LoraRecipe

    return train_files(
        Path(image),
        Path(labels),
        Path(output),
        find_sam(Path(sam), backbone),
        LoraRecipe.from_dict(read_recipe("train", Path(recipe))),
        TrainOptions(**options),
        work=None if work is None else Path(work),
        resume=resume,
        report=report,
        tell=tell,
    )


class _CallablePackage(ModuleType):
    """A module that is called as the function it is named for (see "Customizing module attribute
    access" in Python's reference)."""

    def __call__(self, *arguments: Any, **options: Any) -> Trained:
        return train(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage

"""``cellseg1-rt merge``: SAM and LoRA into one weights file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["merge"]


def merge(
    sam: Annotated[Path, typer.Option(help="SAM checkpoint, .pth or .safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, .safetensors.")],
    lora: Annotated[
        Path | None,
        typer.Option(help="LoRA file from training; without it the SAM alone is written."),
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="Export recipe whose backbone both files have: name or .toml file.")
    ] = "vit_h",
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the model's square input in px; the recipe's if not given."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Refuse a LoRA of another rank (CellSeg1's own have 4).")
    ] = None,
) -> None:
    """Merge a LoRA into its SAM, exactly, into one weights file."""
    from cellseg1_rt.backbone import Backbone
    from cellseg1_rt.errors import ConfigError
    from cellseg1_rt.extras import require
    from cellseg1_rt.recipes import read_recipe

    for package in ("torch", "safetensors", "segment_anything"):
        require(package, extra="train", needed_for="merge")

    from cellseg1_rt.export.merge import merge_files

    recipe = read_recipe("export", backbone)
    try:
        table, size = recipe["backbone"], image_size or recipe["image_size"]
    except KeyError as error:
        raise ConfigError("missing from the recipe", where=backbone, expected=error) from error
    summary = merge_files(sam, lora, output, Backbone.from_dict(table), size, expected_rank=rank)
    what = "SAM alone, no LoRA" if summary.rank is None else f"SAM + LoRA of rank {summary.rank}"
    typer.echo(
        f"{summary.output}: {table['name']} at {summary.image_size} px, {what}, "
        f"{summary.tensors} tensors, {summary.size_bytes / 1e6:.1f} MB"
    )

"""``cellseg1-rt export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cellseg1_rt.export.bundle import Exported


def export(
    weights: Annotated[Path, typer.Argument(help="Merged safetensors, or a SAM checkpoint.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder.")],
    recipe: Annotated[
        str, typer.Option(help="Export recipe: vit_h, vit_l, vit_b, tiny, or a .toml file.")
    ] = "vit_h",
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16 or bf16, typed into the graphs; else the recipe's."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the model's input in px, a multiple of 16.")
    ] = None,
    swappable_lora: Annotated[
        Path | None,
        typer.Option(
            help="A LoRA of these weights, kept apart from the encoder: bundles of other LoRAs of "
            "the same SAM then share its engine."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that is there.")
    ] = False,
) -> None:
    """Export weights as a bundle: three ONNX graphs and a manifest, verified."""
    from cellseg1_rt.extras import require

    for package in ("torch", "segment_anything", "onnx"):
        require(package, extra="train", needed_for="export")
    from cellseg1_rt.export.bundle import ExportRecipe, export_bundle
    from cellseg1_rt.recipes import read_recipe

    values = read_recipe("export", recipe)
    if precision is not None:
        values["precision"] = precision
    if image_size is not None:
        values["image_size"] = image_size
    exported = export_bundle(
        weights,
        output,
        ExportRecipe.from_dict(values),
        swappable_lora=swappable_lora,
        overwrite=overwrite,
    )
    _show(exported)


def _show(exported: Exported) -> None:
    print("largest difference from SAM in PyTorch fp32, in units of the output's spread")
    for who, differences in (("graph", exported.differences), ("rounding", exported.rounding)):
        for difference in differences:
            print(
                f"{who:8} {difference.graph:15} {difference.tensor:10} {difference.relative:.1e} "
                f"(typical {difference.typical:.1e})"
            )
    size_mb = sum(entry.size_bytes for entry in exported.manifest.files.values()) / 1e6
    print(f"{exported.bundle}: {exported.manifest.backbone.name}, {size_mb:.1f} MB, verified")

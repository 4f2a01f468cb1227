"""``cellseg1-rt train``: from an annotated image to a LoRA, and on to a bundle."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cellseg1_rt.export.bundle import ExportRecipe
    from cellseg1_rt.train.lora_choices import SamSource

__all__ = ["train"]


def train(
    image: Annotated[Path, typer.Argument(help="The image, or a folder of images.")],
    labels: Annotated[
        Path, typer.Argument(help="Its labels, or a folder of labels, paired by file name.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="LoRA to write, .pth or .safetensors.")
    ],
    sam: Annotated[
        str, typer.Option(help="What to start from: tiny, a bundle's folder, or a SAM checkpoint.")
    ],
    backbone: Annotated[
        str | None,
        typer.Option(help="Backbone of a checkpoint: vit_h, vit_l, vit_b, or a .toml file."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Training recipe: published, quick, or a .toml file.")
    ] = "published",
    epochs: Annotated[int | None, typer.Option(help="Passes, instead of the recipe's.")] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N. auto says what it takes.")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, or bf16, which rounds.")] = "fp32",
    batch: Annotated[
        int | None,
        typer.Option(help="Tiles at once; if not given, what fits. Results stay the recipe's."),
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    work: Annotated[
        Path | None,
        typer.Option(help="For checkpoint, log, curves and preview. Default: OUTPUT, suffix .work"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the work folder.")
    ] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="Go on to merge and export: the bundle's folder.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that is there.")
    ] = False,
) -> None:
    """Train on one annotated image. An interrupt keeps the best so far."""
    from cellseg1_rt.extras import require

    for package in ("torch", "segment_anything", "safetensors"):
        require(package, extra="train", needed_for="train")
    if bundle is not None:
        require("onnx", extra="train", needed_for="train --bundle")
        require("onnxruntime", extra="cpu", needed_for="train --bundle")
        _require_free(bundle, overwrite)
    from cellseg1_rt.recipes import read_recipe
    from cellseg1_rt.train.lora_choices import TrainOptions, find_sam
    from cellseg1_rt.train.lora_files import train_files
    from cellseg1_rt.train.lora_recipe import LoraRecipe

    source = find_sam(sam, backbone)
    training = LoraRecipe.from_dict(read_recipe("train", recipe))
    export_recipe = None if bundle is None else _export_recipe(sam, backbone, source)
    trained = train_files(
        image,
        labels,
        output,
        source,
        training,
        TrainOptions(device, precision, batch, gradient_checkpointing, epochs),
        work=work,
        resume=resume,
        report=_show,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(f"{output}: trained, epoch {trained.epoch} kept ({trained.ended})")
    if bundle is not None and export_recipe is not None:
        least = training.least_width_px
        _make_bundle(source, output, bundle, export_recipe, least, overwrite=overwrite)


def _require_free(bundle: Path, overwrite: bool) -> None:
    """What export would refuse too, but before hours of training and not after."""
    from cellseg1_rt.errors import ConfigError

    if bundle.exists() and not overwrite and (not bundle.is_dir() or any(bundle.iterdir())):
        raise ConfigError(
            "already there",
            where=bundle,
            expected="a folder that does not exist yet",
            fix="choose another folder, or pass --overwrite",
        )


def _show(figures: dict[str, float]) -> None:
    print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)


def _export_recipe(sam: str, backbone: str | None, source: SamSource) -> ExportRecipe:
    """The backbone's own export recipe; of a bundle's folder, as that bundle was exported."""
    from cellseg1_rt.bundles import PACKAGED, find_bundle
    from cellseg1_rt.contract import read_manifest
    from cellseg1_rt.export.bundle import ExportRecipe
    from cellseg1_rt.recipes import read_recipe

    found = find_bundle(sam)
    name = backbone or (sam if found == PACKAGED.get(sam) else None)
    if name is not None:
        return ExportRecipe.from_dict(read_recipe("export", name))
    manifest = read_manifest(found)
    return ExportRecipe(
        source.backbone, manifest.image_size, manifest.precision, "fp32", manifest.settings
    )


def _make_bundle(
    source: SamSource,
    lora: Path,
    bundle: Path,
    recipe: ExportRecipe,
    least_width_px: float,
    *,
    overwrite: bool,
) -> None:
    import tempfile

    from cellseg1_rt.export.bundle import export_bundle
    from cellseg1_rt.export.merge import merge_files
    from cellseg1_rt.model.lora import read_provenance
    from cellseg1_rt.train.crops_for_cells import with_crops_for_cells

    settings, why = with_crops_for_cells(
        recipe.settings, read_provenance(lora), recipe.image_size, least_width_px
    )
    print(why)
    recipe = replace(recipe, settings=settings)
    with tempfile.TemporaryDirectory(prefix=".merge-", dir=lora.resolve().parent) as folder:
        merged = Path(folder) / "merged.safetensors"
        merge_files(source.weights, lora, merged, source.backbone, recipe.image_size)
        exported = export_bundle(merged, bundle, recipe, overwrite=overwrite)
    worst = max(difference.relative for difference in exported.differences)
    print(f"{bundle}: merged and exported, within {worst:.1e} of PyTorch")

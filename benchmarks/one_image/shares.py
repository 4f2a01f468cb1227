"""How much of what training changed should be kept? One training, tested at several shares.

    python benchmarks/one_image/made_up.py PRETRAIN OUT
    python benchmarks/one_image/shares.py OUT/stain 03 [--seed 0] [--runtime openvino]

Prints AP@0.5 of the image that was trained on, which tells what the recipe would choose from the
packaged model's, and the mean of the others of its folder.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from study import test

import cellseg1_rt
from cellseg1_rt.evaluate import average_precision
from cellseg1_rt.export.bundle import ExportRecipe, export_bundle
from cellseg1_rt.export.merge import merge_files
from cellseg1_rt.formats import read_labels
from cellseg1_rt.model.lora import add_lora, lora_state, read_lora, write_lora
from cellseg1_rt.model.lora_layout import lora_sites
from cellseg1_rt.model.weights import load_sam
from cellseg1_rt.recipes import read_recipe
from cellseg1_rt.train.lora_choices import TrainOptions, find_sam
from cellseg1_rt.train.lora_files import train_files
from cellseg1_rt.train.lora_recipe import LoraRecipe
from cellseg1_rt.train.start_share import shared_lora

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def main(
    domain: Annotated[Path, typer.Argument(help="A folder with images/ and labels/.")],
    train: Annotated[str, typer.Argument(help="Name of the image to train on, without suffix.")],
    seed: int = 0,
    recipe: str = "quick",
    runtime: str = "auto",
    precision: str = "bundle",
) -> None:
    """Train once, then test each share."""
    source = find_sam("tiny", None)
    settings = LoraRecipe.from_dict(read_recipe("train", recipe))
    settings = replace(settings, seed=seed, keep_known=False)
    exported = ExportRecipe.from_dict(read_recipe("export", "tiny"))
    (image,), (labels,) = (
        list((domain / part).glob(f"{train}.*")) for part in ("images", "labels")
    )
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        options = TrainOptions(device="cpu", precision="bf16")
        train_files(image, labels, folder / "whole.pth", source, settings, options)
        trained = read_lora(folder / "whole.pth", source.backbone)
        sam = load_sam(source.weights, source.backbone, settings.data.image_size)
        start = lora_state(add_lora(sam, settings.lora.rank))
        sites = lora_sites(source.backbone.depth, source.backbone.embed_dim)
        for share in SHARES:
            lora, merged, bundle = (
                folder / name for name in ("lora.pth", "merged.safetensors", f"bundle_{share}")
            )
            write_lora(lora, shared_lora(start, trained, sites, share))
            merge_files(source.weights, lora, merged, source.backbone, settings.data.image_size)
            export_bundle(merged, bundle, exported)
            model = cellseg1_rt.load(bundle, runtime=runtime, precision=precision)
            found = model.segment(cellseg1_rt.read_image(image).pixels, name=image).labels
            own = average_precision(found, read_labels(labels))
            others = test(model, domain, (train,))
            mean = sum(others.values()) / len(others)
            print(f"share {share}: trained on {own:.3f}, others {mean:.3f} {others}", flush=True)


if __name__ == "__main__":
    typer.run(main)

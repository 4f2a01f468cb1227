"""``cellseg1-rt pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the weights go (.safetensors).")
    ],
    data: Annotated[
        Path, typer.Option(help="Folder with images/ and labels/, paired by file name.")
    ],
    recipe: Annotated[
        str, typer.Option(help="Pretraining recipe: tiny, tiny_again, tiny_whole, or a .toml file.")
    ] = "tiny",
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for checkpoint and log. Default: OUTPUT with suffix .work"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the work folder.")
    ] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Begin with these weights or this bundle (tiny), not with random ones."),
    ] = None,
) -> None:
    """Train a small SAM of your own: the embedded default, and a fast backbone for CPUs."""
    from cellseg1_rt.extras import require

    for package in ("torch", "segment_anything"):
        require(package, extra="train", needed_for="pretrain")
    from cellseg1_rt.recipes import read_recipe
    from cellseg1_rt.train.pretrain_files import pretrain_files
    from cellseg1_rt.train.pretrain_recipe import PretrainRecipe

    def show(figures: dict[str, float]) -> None:
        print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)

    pretrain_files(
        PretrainRecipe.from_dict(read_recipe("train", recipe)),
        data,
        output,
        work or output.with_suffix(".work"),
        resume=resume,
        start_from=start_from,
        report=show,
    )
    print(f"{output}: trained")

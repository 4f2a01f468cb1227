"""``cellseg1-rt segment``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def segment(
    inputs: Annotated[
        list[str], typer.Argument(help="Image files, folders of images, or glob patterns.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A bundle's folder, or 'tiny'.")
    ] = "tiny",
    format: Annotated[
        str, typer.Option(help="What to write, comma-separated: tif, png, csv, overlay.")
    ] = "tif,csv",
    runtime: Annotated[
        str, typer.Option(help="auto, onnxruntime or openvino. auto says what it takes and why.")
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(help="bundle, or what to compute in instead: fp32, fp16, bf16 (openvino)."),
    ] = "bundle",
    crops: Annotated[
        int | None, typer.Option(help="Layers of crops: 0 is one embedding, 1 the published five.")
    ] = None,
    points: Annotated[int | None, typer.Option(help="Grid points a side of a crop.")] = None,
    score: Annotated[float | None, typer.Option(help="Least cell probability.")] = None,
    stability: Annotated[float | None, typer.Option(help="Least stability of a mask.")] = None,
    nms: Annotated[
        float | None, typer.Option(help="Mask IoU above which the lesser of two cells is dropped.")
    ] = None,
    min_area: Annotated[
        int | None, typer.Option(help="Holes and islands below this area (px) are cleaned.")
    ] = None,
    max_area_ratio: Annotated[
        float | None, typer.Option(help="Largest share of the image a cell may cover; 0: any.")
    ] = None,
    resize: Annotated[
        str, typer.Option(help="none, or px a side to stretch images to (published: 512).")
    ] = "none",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes all cores.")] = 0,
    prompt_batch: Annotated[int, typer.Option(help="Most prompts in one decoder call.")] = 64,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that are there.")
    ] = False,
) -> None:
    """Segment images with a bundle. Thresholds default to the bundle's own."""
    from cellseg1_rt.errors import ConfigError
    from cellseg1_rt.files import require_writable_folder
    from cellseg1_rt.jobs.batch import run_tasks
    from cellseg1_rt.jobs.inputs import find_images, plan_tasks
    from cellseg1_rt.runtime.model import load

    if resize != "none" and not (resize.isdecimal() and 0 < int(resize) <= 2**15):
        raise ConfigError("not a size", where="--resize", got=resize, expected="none or a number")
    if prompt_batch < 1 or threads < 0:
        raise ConfigError(
            "out of range",
            where="--prompt-batch, --threads",
            got=f"{prompt_batch}, {threads}",
            expected="at least 1, at least 0",
        )
    images = find_images(inputs)
    tasks = plan_tasks(images, output, format.split(","), overwrite=overwrite)
    changed = {
        "crops": crops,
        "points_per_side": points,
        "score": score,
        "stability": stability,
        "crop_nms": nms,
        "box_nms": nms,
        "min_area": min_area,
        "max_area_ratio": max_area_ratio,
    }
    loaded = load(
        model,
        runtime=runtime,
        precision=precision,
        threads=threads,
        prompt_batch=prompt_batch,
        **{name: value for name, value in changed.items() if value is not None},
    )
    is_new = not output.exists()
    require_writable_folder(output)
    choice = loaded.choice
    print(f"runtime {choice.runtime}, {choice.precision}: {choice.reason}", file=sys.stderr)
    failed = 0
    for outcome in run_tasks(loaded, tasks, resize=None if resize == "none" else int(resize)):
        if outcome.result is None:
            failed += 1
            print(f"error: {outcome.error}", file=sys.stderr)
        else:
            count = len(outcome.result.cells)
            print(f"{outcome.task.source}: {count} cells, {outcome.seconds:.1f} s")
    if failed == len(tasks) and is_new:
        output.rmdir()  # nothing came of it, so nothing is left
    else:
        print(f"{len(tasks) - failed} of {len(tasks)} images done, results in {output}")
    if failed:
        raise typer.Exit(1)

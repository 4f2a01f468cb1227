"""``cellseg1-rt segment``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cellseg1_rt.jobs.folder import Mode
    from cellseg1_rt.jobs.summary import Summary


def segment(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders of images, OME-Zarr folders, glob patterns, or @list.txt with a "
            "path a line. Stacks, series and plates are taken plane by plane."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A bundle's folder, or 'tiny'.")
    ] = "tiny",
    format: Annotated[
        str,
        typer.Option(
            help="Comma-separated: tif, ome, zarr, png, roi, geojson, csv, parquet, overlay."
        ),
    ] = "tif,csv",
    runtime: Annotated[
        str,
        typer.Option(
            help="auto, onnxruntime, openvino; on cards tensorrt-rtx, tensorrt, cuda, "
            "onnxruntime-tensorrt, onnxruntime-tensorrt-rtx. auto says what it takes and why."
        ),
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
    tile: Annotated[
        str,
        typer.Option(
            help="auto, none, or px a side: cut larger images into overlapping tiles of that size. "
            "auto: as large as the training image."
        ),
    ] = "auto",
    link_z: Annotated[
        bool, typer.Option("--link-z", help="Link the slices of stacks to labels of the stack.")
    ] = False,
    channels: Annotated[
        str | None,
        typer.Option(help="Up to 4, in this order, from 0 or by name: 0,2 or DAPI,GFP."),
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes all cores.")] = 0,
    prompt_batch: Annotated[int, typer.Option(help="Most prompts in one decoder call.")] = 64,
    workers: Annotated[
        int, typer.Option(help="Threads that read images, and as many that write; 0 chooses.")
    ] = 0,
    devices: Annotated[
        str | None,
        typer.Option(
            help="Workers side by side: all (cards), a number, or cards such as 0,1. One where not "
            "given; with --ray, all."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Work on a Ray cluster: auto, or the address of its head."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: do only part i of n, chosen by the images' names.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Also do again what was changed since it was written."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start afresh; replace results that are there.")
    ] = False,
) -> None:
    """Segment images with a bundle. Thresholds default to the bundle's own.

    The same command goes on where an earlier run of it ended. An interrupt keeps what is done.
    """
    from cellseg1_rt.formats.channels import parse_channels
    from cellseg1_rt.formats.outputs import require_for_outputs
    from cellseg1_rt.jobs.display import show_job
    from cellseg1_rt.jobs.folder import require_free
    from cellseg1_rt.jobs.inputs import find_inputs, parse_shard, plan_tasks
    from cellseg1_rt.jobs.job import Job, default_workers, run_job
    from cellseg1_rt.jobs.link_z import require_linkable
    from cellseg1_rt.jobs.opened import open_devices
    from cellseg1_rt.jobs.remote import Plan
    from cellseg1_rt.jobs.signals import stop_on_signals
    from cellseg1_rt.jobs.stacks import split_stacks

    side = _side_px(resize)
    _require_in_range(prompt_batch, threads, workers)
    mode, formats = _mode(resume, overwrite), format.split(",")
    part = None if shard is None else parse_shard(shard)
    picked = None if channels is None else parse_channels(channels)
    images = split_stacks(find_inputs(inputs), lambda note: print(f"note: {note}", file=sys.stderr))
    tasks = plan_tasks(images, output, formats, part, picked)
    require_for_outputs(formats)
    if link_z:
        require_linkable(tasks, part is not None)
    require_free(output, tasks, mode)
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
    options = {"runtime": runtime, "precision": precision, "prompt_batch": prompt_batch}
    options |= {name: value for name, value in changed.items() if value is not None}
    asked = {
        "formats": formats,
        "resize": side,
        "channels": picked,
        "tile": _tile_px(tile, side),
    }
    with open_devices(Plan(model, options, asked, threads), devices, ray) as opened:
        print(*opened.told, sep="\n", file=sys.stderr)
        job = Job(
            tasks,
            output,
            opened.settings,
            side,
            part,
            mode,
            workers or default_workers(),
            opened.large,
            link_z,
        )
        with stop_on_signals() as stop, show_job() as report:
            summary = run_job(job, opened.devices, stop=stop, report=report)
    _tell(summary, output)


def _side_px(resize: str) -> int | None:
    from cellseg1_rt.errors import ConfigError

    if resize == "none":
        return None
    if not (resize.isdecimal() and 0 < int(resize) <= 2**15):
        raise ConfigError("not a size", where="--resize", got=resize, expected="none or a number")
    return int(resize)


def _tile_px(tile: str, side: int | None) -> str | int:
    from cellseg1_rt.errors import ConfigError
    from cellseg1_rt.runtime.tiling import checked_tile

    choice = checked_tile(tile)
    if side is None:
        return choice
    if choice in ("auto", "none"):
        return "none"  # what is stretched is not large
    raise ConfigError("one or the other", where="--resize, --tile", got="both")


def _require_in_range(prompt_batch: int, threads: int, workers: int) -> None:
    from cellseg1_rt.errors import ConfigError

    if prompt_batch < 1 or threads < 0 or not 0 <= workers <= 64:
        raise ConfigError(
            "out of range",
            where="--prompt-batch, --threads, --workers",
            got=f"{prompt_batch}, {threads}, {workers}",
            expected="at least 1, at least 0, 0 to 64",
        )


def _mode(resume: bool, overwrite: bool) -> Mode:
    from cellseg1_rt.errors import ConfigError
    from cellseg1_rt.jobs.folder import Mode

    if resume and overwrite:
        raise ConfigError("one or the other", where="--resume, --overwrite", got="both")
    return Mode.OVERWRITE if overwrite else Mode.RESUME if resume else Mode.GO_ON


def _tell(summary: Summary, output: Path) -> None:
    """The last line, and the exit code."""
    from cellseg1_rt.jobs.signals import INTERRUPTED

    before = f" ({summary.before} before)" if summary.before else ""
    print(f"{summary.done} of {summary.images} images done{before}, results in {output}")
    if summary.left:
        print(f"interrupted, {summary.left} left: the same command goes on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if summary.failed:
        raise typer.Exit(1)

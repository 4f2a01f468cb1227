"""``cellseg1-rt benchmark``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def benchmark(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or 'tiny'.")],
    images: Annotated[
        list[str] | None, typer.Argument(help="Files, folders or globs. Default: the samples.")
    ] = None,
    runtime: Annotated[
        list[str],
        typer.Option(
            help="auto, onnxruntime, openvino, tensorrt-rtx, tensorrt, cuda, onnxruntime-tensorrt "
            "or onnxruntime-tensorrt-rtx; may be given repeatedly. All but the first three run on "
            "an NVIDIA card."
        ),
    ] = ["auto"],  # noqa: B006 (typer copies it)
    precision: Annotated[
        list[str], typer.Option(help="bundle, fp32, fp16 or bf16; may be given repeatedly.")
    ] = ["bundle"],  # noqa: B006
    crops: Annotated[
        int | None, typer.Option(help="Layers of crops: 0 is one embedding, 1 the published five.")
    ] = None,
    points: Annotated[int | None, typer.Option(help="Grid points a side of a crop.")] = None,
    prompt_batch: Annotated[int, typer.Option(help="Most prompts in one decoder call.")] = 64,
    repeats: Annotated[int, typer.Option(help="Rounds over the images that are kept.")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes all cores.")] = 0,
    against: Annotated[
        str | None, typer.Option(help="plain: upstream's way in PyTorch, in the same rounds.")
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Also the peak memory of each, in its own process.")
    ] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the report here; the layout is stable.")
    ] = None,
) -> None:
    """Time a bundle stage by stage, beside what this machine does at best."""
    from cellseg1_rt.benchmarking.run import Request, run_benchmark
    from cellseg1_rt.benchmarking.table import lines_of
    from cellseg1_rt.files import atomic_path, require_writable_folder

    if json_path is not None:
        require_writable_folder(json_path.parent)
    changed = {"crops": crops, "points_per_side": points}
    request = Request(
        bundle,
        tuple(images or ()),
        tuple(runtime),
        tuple(precision),
        threads,
        prompt_batch,
        repeats,
        against,
        memory,
        {name: value for name, value in changed.items() if value is not None},
    )
    report = run_benchmark(request, lambda line: print(line, file=sys.stderr, flush=True))
    for line in lines_of(report):
        print(line)
    if json_path is not None:
        with atomic_path(json_path) as temporary:
            temporary.write_text(report.to_json(), encoding="utf-8")

"""``cellseg1-rt demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for labels, tables and pictures.")
    ] = Path("cellseg1-rt-demo"),
    runtime: Annotated[
        str,
        typer.Option(
            help="auto, onnxruntime, openvino, tensorrt-rtx, tensorrt, cuda, onnxruntime-tensorrt "
            "or onnxruntime-tensorrt-rtx."
        ),
    ] = "auto",
) -> None:
    """Segment the sample images that come with the package and compare with their labels."""
    from cellseg1_rt.files import require_writable_folder
    from cellseg1_rt.jobs.demo import run_demo, write_picture
    from cellseg1_rt.runtime.model import load

    require_writable_folder(output)
    model = load("tiny", runtime=runtime)
    print(f"runtime {model.choice.runtime}: {model.choice.reason}")
    print(f"{'sample':14} {'cells':>6} {'labelled':>9} {'AP@0.5':>7} {'seconds':>8}")
    rows = []
    for row in run_demo(model, output):
        rows.append(row)
        print(
            f"{row.name:14} {row.found:6} {row.labelled:9} "
            f"{row.average_precision:7.3f} {row.seconds:8.1f}",
            flush=True,
        )
    mean = sum(row.average_precision for row in rows) / len(rows)
    seconds = sum(row.seconds for row in rows)
    print(f"{'mean':14} {'':6} {'':9} {mean:7.3f} {seconds / len(rows):8.1f}")
    print(f"labels, tables and overlays in {output}; all at a glance: {write_picture(output)}")

"""A job against a loop that only segments: what reading, writing and the journal cost.

    python benchmarks/jobs.py [--blocks 20] [--images 100] [--points 8] [--json out.json]

The packaged samples under other names and with other bytes are segmented in blocks, each block once
by a bare loop over images in memory, whose results are thrown away, and once by a job that reads
files, hashes them, writes labels and tables, flushes them and keeps a journal. Which goes first
alternates. Both use one loaded model: the fastest of the runtimes and precisions that are here, as
measured first, or the one that is asked for. Afterwards the job's labels are compared with the
loop's. The ratio is the median of the blocks' own. Resident memory is read after each image of a
job.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import cellseg1_rt
from cellseg1_rt.benchmarking.machine import describe_bundle, describe_machine, versions_of
from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.errors import CellSeg1RtError, VerificationError
from cellseg1_rt.formats import read_image, read_labels
from cellseg1_rt.jobs.batch import segmenter_of
from cellseg1_rt.jobs.identity import settings_of_job
from cellseg1_rt.jobs.inputs import find_inputs, plan_tasks
from cellseg1_rt.jobs.job import Job, default_workers, run_job
from cellseg1_rt.jobs.outcomes import Outcome
from cellseg1_rt.jobs.tally import Tally

FORMATS = ("tif", "csv")
CONFIGURATIONS = (("onnxruntime", "bundle"), ("openvino", "bundle"), ("openvino", "bf16"))
WARM_UP_IMAGES = 300
"""Images after which memory is to stay as it is."""


@dataclass(frozen=True)
class Block:
    """One block both ways, wall and CPU time in seconds; ``ratio`` is job by loop, of wall time."""

    first: str
    loop_s: float
    loop_cpu_s: float
    job_s: float
    job_cpu_s: float
    ratio: float
    ratio_cpu: float


def write_images(folder: Path, count: int) -> list[Path]:
    """The samples again and again; a note in each file makes its bytes its own."""
    samples = sorted((SAMPLES / "images").iterdir())
    paths = []
    for number in range(count):
        note = PngInfo()
        note.add_text("number", str(number))
        paths.append(folder / f"image{number:05}.png")
        Image.open(samples[number % len(samples)]).save(paths[-1], pnginfo=note)
    return paths


def fastest(model: str, points: int, threads: int, images: int = 8) -> tuple[str, str]:
    """The runtime and precision that takes the least time for the samples."""
    pixels = [read_image(path).pixels for path in sorted((SAMPLES / "images").iterdir())][:images]
    seconds: dict[tuple[str, str], float] = {}
    for runtime, precision in CONFIGURATIONS:
        try:
            loaded = cellseg1_rt.load(
                model, runtime=runtime, precision=precision, threads=threads, points_per_side=points
            )
        except CellSeg1RtError:  # it is not installed, or this CPU has not that precision
            continue
        loaded.segment(pixels[0])
        seconds[runtime, precision] = min(timed(partial(loop, loaded, pixels))[1] for _ in range(2))
        print(f"{runtime} {precision}: {seconds[runtime, precision] / len(pixels):.3f} s an image")
    return min(seconds, key=lambda name: seconds[name])


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """What ``run`` gives, its wall time and its CPU time over all threads, in s."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = run()
    return value, time.perf_counter() - wall, time.process_time() - cpu


def loop(model: cellseg1_rt.Model, pixels: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """The labels of images in memory."""
    return [model.segment(image).labels for image in pixels]


def job(
    model: cellseg1_rt.Model, paths: list[Path], folder: Path, workers: int, rss: list[int]
) -> None:
    """A whole job, from an empty folder to the summary."""

    def report(outcome: Outcome, tally: Tally) -> None:
        rss.append(resident_bytes())

    tasks = plan_tasks(find_inputs(paths), folder, FORMATS)
    settings = settings_of_job(model, FORMATS, None)
    summary = run_job(
        Job(tasks, folder, settings, workers=workers),
        [segmenter_of(model)],
        stop=threading.Event(),
        report=report,
    )
    if summary.done != len(paths):
        raise VerificationError("images failed", where="jobs", got=summary.failures[0].error)


def resident_bytes() -> int:
    """Resident size of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run_blocks(
    model: cellseg1_rt.Model, folder: Path, blocks: int, images: int, workers: int, rss: list[int]
) -> Iterator[Block]:
    """Each block both ways, and compared."""
    paths = write_images(folder, blocks * images)
    for number in range(blocks):
        block = paths[number * images : (number + 1) * images]
        pixels = [read_image(path).pixels for path in block]
        out = folder / "out"
        ways: dict[str, Callable[[], Any]] = {"loop": partial(loop, model, pixels)}
        ways["job"] = partial(job, model, block, out, workers, rss)
        order = list(ways) if number % 2 == 0 else list(ways)[::-1]
        found = {name: timed(ways[name]) for name in order}
        for path, expected in zip(block, found["loop"][0], strict=True):
            if not np.array_equal(read_labels(out / f"{path.stem}_labels.tif"), expected):
                raise VerificationError("the job gave other labels than the loop", where=path.name)
        shutil.rmtree(out)
        (_, loop_s, loop_cpu_s), (_, job_s, job_cpu_s) = found["loop"], found["job"]
        yield Block(
            order[0], loop_s, loop_cpu_s, job_s, job_cpu_s, job_s / loop_s, job_cpu_s / loop_cpu_s
        )


def memory_figures(rss: list[int]) -> dict[str, Any]:
    """Resident memory over the images of all jobs, in 10⁶ bytes, and how far it strays."""
    mbytes = np.array(rss) / 1e6
    later = mbytes[WARM_UP_IMAGES:]
    figures: dict[str, Any] = {"every_20th_image_mbytes": np.round(mbytes[::20], 1).tolist()}
    if len(later):
        middle = float(np.median(later))
        figures |= {
            "median_after_warm_up_mbytes": round(middle, 1),
            "lowest_share": round(float(later.min()) / middle, 3),
            "highest_share": round(float(later.max()) / middle, 3),
        }
    return figures


def main(
    blocks: int = 20,
    images: Annotated[int, typer.Option(help="Images a block.")] = 100,
    points: Annotated[int, typer.Option(help="Grid points a side.")] = 8,
    model: Annotated[str, typer.Option("--model", "-m")] = "tiny",
    runtime: Annotated[str, typer.Option(help="fastest, or a runtime.")] = "fastest",
    precision: str = "bundle",
    threads: int = 0,
    workers: Annotated[int, typer.Option(help="Readers, and writers; 0 chooses.")] = 0,
    folder: Annotated[Path | None, typer.Option(help="Where images and results go.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print each block and the median ratio; ``--json`` keeps them with machine and versions."""
    if runtime == "fastest":
        # In a process of its own, so that the memory of the others is not in the figures.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            runtime, precision = pool.submit(fastest, model, points, threads).result()
    loaded = cellseg1_rt.load(
        model, runtime=runtime, precision=precision, threads=threads, points_per_side=points
    )
    workers = workers or default_workers()
    rss: list[int] = []
    done: list[Block] = []
    with tempfile.TemporaryDirectory(dir=folder) as held:
        for block in run_blocks(loaded, Path(held), blocks, images, workers, rss):
            done.append(block)
            print(
                f"block {len(done)}: loop {block.loop_s:.2f} s, job {block.job_s:.2f} s, "
                f"ratio {block.ratio:.3f} (CPU time {block.ratio_cpu:.3f}), {rss[-1] / 1e6:.0f} MB",
                flush=True,
            )
    report = {
        "machine": describe_machine(threads),
        "versions": versions_of(("numba", "numpy", "onnxruntime", "openvino", "pillow")),
        "bundle": describe_bundle(loaded.bundle, loaded.manifest),
        "runtime": loaded.choice.runtime,
        "precision": loaded.choice.precision,
        "points_per_side": points,
        "workers": workers,
        "formats": FORMATS,
        "images_a_block": images,
        "median_ratio": round(median(block.ratio for block in done), 4),
        "median_ratio_cpu": round(median(block.ratio_cpu for block in done), 4),
        "images_per_s": round(images / median(block.job_s for block in done), 2),
        "memory": memory_figures(rss),
        "blocks": [asdict(block) for block in done],
    }
    print(
        f"median ratio {report['median_ratio']}, CPU time {report['median_ratio_cpu']}, "
        f"{report['images_per_s']} images/s"
    )
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

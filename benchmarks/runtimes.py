"""Encode, decode and mask head of a bundle on every runtime and precision of this machine.

    python benchmarks/runtimes.py [-m tiny] [--image cells.png] [--batches 64] [--json out.json]

Times are of alternating rounds: every round runs each runtime once, so that what else the machine
does meets all of them. Ratios are medians of the rounds' own ratios. Beside each speed stands how
far scores and logits are from ONNX Runtime's, in units of their standard deviation. This is for
choosing the prompts a call and for seeing errors of the graphs; whole images, stage by stage and
against the plain path, are `cellseg1-rt benchmark`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import cellseg1_rt
from cellseg1_rt.backends.base import Backend
from cellseg1_rt.backends.choose import RUNTIMES, choose_runtime, load_backend
from cellseg1_rt.benchmarking.machine import cpu_name
from cellseg1_rt.bundles import SAMPLES, find_bundle
from cellseg1_rt.contract import MANIFEST_NAME, read_manifest
from cellseg1_rt.diagnostics import describe_installation
from cellseg1_rt.errors import ConfigError, MissingExtraError, RuntimeUnavailableError
from cellseg1_rt.files import sha256_of_file
from cellseg1_rt.geometry import crops_of_image, input_size_of_crop, prompt_grid
from cellseg1_rt.runtime.normalise import rgb_from_pixels
from cellseg1_rt.runtime.prompts import input_of_crop

STAGES = ("encode", "decode", "head")
SURVIVING = 1 / 3
"""Share of prompts whose masks are asked for: what is typical of an image."""


def main(
    model: Annotated[str, typer.Option("--model", "-m")] = "tiny",
    image: Path = SAMPLES / "images" / "1400420310c9.png",
    points: Annotated[int, typer.Option(help="Grid points a side.")] = 32,
    batches: Annotated[str, typer.Option(help="Prompts a call, comma-separated.")] = "64",
    rounds: int = 5,
    threads: int = 2,
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print a row a batch size and runtime."""
    folder = find_bundle(model)
    loaded = dict(load_all(folder, threads))
    asked = question(image, points, next(iter(loaded.values()))[0].image_size)
    installed = describe_installation()
    machine = {"cpu": cpu_name(), "threads": threads, **installed["cpu"]}
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"{len(asked['points'])} prompts, a third to the mask head; seconds: median (min–max)")
    rows = []
    for batch in map(int, batches.split(",")):
        for row in compare(loaded, asked, batch, rounds):
            rows.append(row)
            print(line_of(row), flush=True)
    if json_path is not None:
        report = {
            "machine": machine,
            "versions": {
                name: version(RUNTIMES[name].package)
                for name in {label.split()[0] for label in loaded}
            },
            "cellseg1_rt": cellseg1_rt.__version__,
            "manifest_sha256": sha256_of_file(folder / MANIFEST_NAME),
            "image": image.name,
            "load_seconds": {name: round(seconds, 2) for name, (_, seconds) in loaded.items()},
            "rows": rows,
        }
        json_path.write_text(json.dumps(report, indent=2) + "\n")


def load_all(
    folder: Path, threads: int, only: str = "*"
) -> Iterator[tuple[str, tuple[Backend, float]]]:
    """Backends by runtime and precision, the reference first, and the seconds each took to load.

    ``only`` is a glob of such names, as ``openvino *``.
    """
    manifest = read_manifest(folder)
    for name, runtime in RUNTIMES.items():
        for precision in runtime.computes.get(manifest.precision, ()):
            if not fnmatch(f"{name} {precision}", only):
                continue
            started = time.perf_counter()
            try:
                choice = choose_runtime(
                    name, precision=precision, bundle_precision=manifest.precision
                )
                backend = load_backend(choice, folder, manifest, threads=threads)
            except (ConfigError, MissingExtraError, RuntimeUnavailableError) as error:
                print(f"{name} {precision} left out: {error}")
                continue
            yield f"{name} {precision}", (backend, time.perf_counter() - started)


def question(image: Path, points: int, image_size: int) -> dict[str, np.ndarray]:
    """The model's input for an image, and the grid of prompts in it."""
    rgb = rgb_from_pixels(cellseg1_rt.read_image(image).pixels, where=image)
    crop = crops_of_image(*rgb.shape[:2], 0)[0]
    height, width = input_size_of_crop(crop, image_size)
    padded, size = input_of_crop(rgb, crop, image_size)
    return {
        "image": padded[None],
        "size": np.array([size], np.int32),
        "points": (prompt_grid(points) * (width, height)).astype(np.float32),
    }


def compare(
    loaded: dict[str, tuple[Backend, float]],
    asked: dict[str, np.ndarray],
    batch: int,
    rounds: int,
) -> Iterator[dict[str, Any]]:
    """Rows of one batch size. The first round warms up and is told of as ``first_seconds``."""
    times: dict[str, list[list[float]]] = {name: [] for name in loaded}
    answers: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for _ in range(rounds + 1):
        for name, (backend, _) in loaded.items():
            seconds, scores, logits = run_once(backend, asked, batch)
            times[name].append(seconds)
            answers[name] = scores, logits
    reference = next(iter(loaded))
    base = np.array(times[reference][1:])
    for name in loaded:
        measured = np.array(times[name][1:])
        yield {
            "runtime": name,
            "prompt_batch": batch,
            "first_seconds": round(sum(times[name][0]), 3),
            "seconds": {stage: summary(measured[:, column]) for column, stage in enumerate(STAGES)},
            "times_faster": {
                stage: round(float(np.median(base[:, column] / measured[:, column])), 3)
                for column, stage in enumerate(STAGES)
            },
            "difference": {
                what: float(f"{np.abs(ours - theirs).max() / theirs.std():.2e}")
                for what, ours, theirs in zip(
                    ("score", "logits"), answers[name], answers[reference], strict=True
                )
            },
        }


def run_once(
    backend: Backend, asked: dict[str, np.ndarray], batch: int
) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Seconds of each stage, all scores, and the first batch's logits of every third prompt."""
    started = time.perf_counter()
    (embedding,) = backend.encode(asked["image"], asked["size"])
    encode, decode, head = time.perf_counter() - started, 0.0, 0.0
    scores, kept = [], None
    for first in range(0, len(asked["points"]), batch):
        points = asked["points"][first : first + batch]
        index = np.arange(0, len(points), round(1 / SURVIVING), dtype=np.int64)
        started = time.perf_counter()
        decoded = backend.decode(embedding, points)
        middle = time.perf_counter()
        logits = backend.head(decoded, index)
        decode, head = decode + middle - started, head + time.perf_counter() - middle
        scores.append(decoded.score)
        kept = logits if kept is None else kept
    return [encode, decode, head], np.concatenate(scores), kept


def summary(seconds: np.ndarray) -> dict[str, float]:
    values = {"median": np.median(seconds), "min": seconds.min(), "max": seconds.max()}
    return {name: round(float(value), 4) for name, value in values.items()}


def line_of(row: dict[str, Any]) -> str:
    cells = [f"{row['runtime']:17} batch {row['prompt_batch']:4}"]
    for stage in STAGES:
        seconds = row["seconds"][stage]
        cells.append(
            f"{stage} {seconds['median']:.3f} ({seconds['min']:.3f}–{seconds['max']:.3f}) "
            f"×{row['times_faster'][stage]:.2f}"
        )
    difference = row["difference"]
    cells.append(f"score {difference['score']:.0e}, logits {difference['logits']:.0e} off")
    return " | ".join(cells)


if __name__ == "__main__":
    typer.run(main)

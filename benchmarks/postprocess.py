"""Candidates, NMS, clean-up and painting of 1,024 prompts (330 survive), against the plain way.

    python benchmarks/postprocess.py [--pairs 5] [--plain-pairs 2] [--json out.json]

Logits are made from the label maps of the packaged samples, so that no model is needed: each of 32
by 32 grid points gets the cell it lies in or nearest to, as clipped distances from its border at
128 × 128, a little deformed, some with a hole or an island. At 2048 px the same logits answer for
an image four times as wide, so cells grow with it. Fast and plain run by turns in the same process;
each row gives medians and the median of the pairs' ratios, and in how many pixels labels differ.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cv2
import numba
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from scipy import ndimage

import cellseg1_rt
from cellseg1_rt.benchmarking.plain_masks import masks_of_batch
from cellseg1_rt.benchmarking.plain_model import BATCH
from cellseg1_rt.benchmarking.plain_path import labels_from_masks
from cellseg1_rt.benchmarking.stopwatch import Stopwatch
from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.formats import read_labels
from cellseg1_rt.geometry import Crop, prompt_grid
from cellseg1_rt.runtime.candidates import candidates_of_crop
from cellseg1_rt.runtime.pipeline import PROMPT_BATCH, Candidates, result_from_candidates
from cellseg1_rt.runtime.prompts import Survivors
from cellseg1_rt.settings import InferenceSettings

MODEL_PX, CELLS, SIDE, SURVIVORS = 512, 128, 32, 330
SETTINGS = InferenceSettings()
SCENES = {"large nuclei": ("1f0008060150",), "small nuclei": ("f26f4c2c70c3", "9ebcfaf23229")}
SIZES_PX = (512, 2048)


@dataclass(frozen=True)
class Answers:
    """What a model could have said: score [N], point_xy [N, 2] in shares, logits [N, 128, 128]."""

    score: NDArray[np.float32]
    point_xy: NDArray[np.float32]
    logits: NDArray[np.float32]


def scene_labels(stems: tuple[str, ...]) -> NDArray[np.int64]:
    """A label map of 512 × 512: one sample stretched, or two of them twice, side by side."""
    maps = [read_labels(SAMPLES / "labels" / f"{stem}.png").astype(np.int32) for stem in stems]
    if len(maps) == 1:
        return cv2.resize(maps[0], (MODEL_PX, MODEL_PX), interpolation=cv2.INTER_NEAREST)
    quarter = MODEL_PX // 2
    a, b = (labels[:quarter, :quarter] for labels in maps)
    tiles = [a, b, b[::-1], a[:, ::-1]]
    numbered = [np.where(tile > 0, tile + 1000 * i, 0) for i, tile in enumerate(tiles)]
    return np.block([numbered[:2], numbered[2:]])


def answers_of(labels: NDArray[np.int64], seed: int = 7) -> Answers:
    """Scores and logits for the grid; the 330 prompts deepest in cells score above 0.8."""
    rng = np.random.default_rng(seed)
    shares = prompt_grid(SIDE)
    x, y = (shares * MODEL_PX).astype(int).T
    outside, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    depth = ndimage.distance_transform_edt(labels > 0) - outside
    cells = labels[tuple(nearest[:, y, x])]
    logits = np.stack([_logits_of(labels == cell, rng) for cell in cells]).astype(np.float32)
    score = rng.uniform(0.2, 0.79, len(shares)).astype(np.float32)
    best = np.argsort(-depth[y, x], kind="stable")[:SURVIVORS]
    score[best] = rng.uniform(0.81, 1.0, SURVIVORS)
    return Answers(score, shares.astype(np.float32), logits)


def _logits_of(cell: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float64]:
    distance = ndimage.distance_transform_edt(cell) - ndimage.distance_transform_edt(~cell)
    logits = cv2.resize(np.clip(distance / 2, -9, 9), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    noise = rng.normal(0, 0.5, (CELLS // 8, CELLS // 8))
    logits += cv2.resize(noise, (CELLS, CELLS), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.3:
        ys, xs = np.nonzero(logits > -6)
        place = rng.integers(len(ys))
        logits[ys[place], xs[place]] *= -1
    return logits


def fast_candidates(answers: Answers, side_px: int) -> Candidates:
    """What the pipeline does with a crop's batches, from logits on."""
    batches = []
    for first in range(0, len(answers.score), PROMPT_BATCH):
        batch = slice(first, first + PROMPT_BATCH)
        chosen = np.flatnonzero(answers.score[batch] > np.float32(SETTINGS.score)) + first
        points = answers.point_xy[chosen] * np.float32(side_px)
        batches.append(Survivors(answers.score[chosen], points, answers.logits[chosen]))
    size = (side_px, side_px)
    crop = Crop(0, 0, side_px, side_px)
    found = candidates_of_crop(batches, crop, 0, size, MODEL_PX, SETTINGS)
    return Candidates(found, size, floors=SETTINGS, settings=SETTINGS)


def plain_labels(answers: Answers, side_px: int) -> NDArray[np.int32]:
    """What upstream does from logits on: every mask at full size, NMS pair by pair."""
    size, crop = (side_px, side_px), Crop(0, 0, side_px, side_px)
    scores, logits = torch.from_numpy(answers.score), torch.from_numpy(answers.logits)[:, None]
    found = []
    for first in range(0, len(scores), BATCH):
        batch = slice(first, first + BATCH)
        found += masks_of_batch(scores[batch], logits[batch], crop, size, MODEL_PX, SETTINGS)
    return labels_from_masks([found], size, SETTINGS, Stopwatch())


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """What ``run`` gives, its wall time and its CPU time over all threads, in ms."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = run()
    return value, (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def compare(scene: str, side_px: int, pairs: int, plain_pairs: int) -> dict[str, Any]:
    """One row: both ways by turns, then other thresholds on held candidates."""
    answers = answers_of(scene_labels(SCENES[scene]))
    held = fast_candidates(answers, side_px)
    held.labels(score=0.9, nms=0.1)
    fast, plain, other = [], [], []
    for pair in range(pairs):
        candidates, *of_candidates = timed(lambda: fast_candidates(answers, side_px))
        result, *of_rest = timed(lambda c=candidates: result_from_candidates(c, SETTINGS))
        fast.append((*of_candidates, *of_rest))
        other.append(timed(lambda: held.labels(score=0.9, nms=0.1))[1])
        if pair < plain_pairs:
            labels, *of_plain = timed(lambda: plain_labels(answers, side_px))
            plain.append(tuple(of_plain))
    ratios = [
        {"wall": p[0] / (f[0] + f[2]), "cpu": p[1] / (f[1] + f[3])}
        for f, p in zip(fast, plain, strict=False)
    ]
    return {
        "scene": scene,
        "side_px": side_px,
        "prompts": len(answers.score),
        "survivors": int((answers.score > SETTINGS.score).sum()),
        "candidates": len(candidates),
        "cells": len(result.cells),
        "fast_ms": median(f[0] + f[2] for f in fast),
        "fast_cpu_ms": median(f[1] + f[3] for f in fast),
        "of_it_candidates_ms": median(f[0] for f in fast),
        "of_it_nms_clean_paint_ms": median(f[2] for f in fast),
        "other_thresholds_ms": median(other),
        "plain_ms": median(p[0] for p in plain),
        "plain_cpu_ms": median(p[1] for p in plain),
        "ratio": median(r["wall"] for r in ratios),
        "ratio_cpu": median(r["cpu"] for r in ratios),
        "pixels_that_differ": int(np.count_nonzero(result.labels != labels)),
    }


FIRST_RUN = """
import time, numpy as np
from cellseg1_rt.runtime.pipeline import segment_rgb
from cellseg1_rt.settings import InferenceSettings
class Blob:
    image_size = 64
    def encode(self, images, sizes): return [None]
    def decode(self, embedding, points):
        self.score = np.full(len(points), 0.9, np.float32)
        return self
    def head(self, decoded, index):
        logits = np.full((len(index), 16, 16), -5, np.float32)
        logits[:, 3:7, 4:9] = 5
        return logits
started = time.perf_counter()
segment_rgb(np.ones((59, 61, 3), np.uint8), Blob(), InferenceSettings(points_per_side=3))
print(time.perf_counter() - started, time.process_time())
"""


def first_run() -> dict[str, float]:
    """Seconds of a process's first image, with nothing compiled before and with all of it."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("compiling_s", "from_cache_s"):
            done = subprocess.run(
                [sys.executable, "-c", FIRST_RUN],
                env={**os.environ, "NUMBA_CACHE_DIR": folder},
                check=True,
                capture_output=True,
                text=True,
            )
            seconds[name] = float(done.stdout.split()[0])
    return seconds


def main(
    pairs: int = 5,
    plain_pairs: Annotated[int, typer.Option(help="How often the plain way runs.")] = 2,
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print a row for each scene and size; ``--json`` keeps them with the machine and versions."""
    first = first_run()
    print(f"first image of a process: {first['compiling_s']:.1f} s while kernels compile, ", end="")
    print(f"{first['from_cache_s']:.2f} s from their cache")
    rows = []
    for side_px in SIZES_PX:
        for scene in SCENES:
            row = compare(scene, side_px, pairs, plain_pairs)
            rows.append(row)
            print(
                f"{scene}, {side_px} px: {row['survivors']} survivors, {row['cells']} cells: "
                f"{row['fast_ms']:.1f} ms ({row['of_it_candidates_ms']:.1f} candidates, "
                f"{row['of_it_nms_clean_paint_ms']:.1f} the rest), plain {row['plain_ms']:.0f} ms, "
                f"ratio {row['ratio']:.0f} (CPU time {row['ratio_cpu']:.0f}); other thresholds "
                f"{row['other_thresholds_ms']:.1f} ms; {row['pixels_that_differ']} pixels differ",
                flush=True,
            )
    if json_path is not None:
        report = {
            "cellseg1_rt": cellseg1_rt.__version__,
            "machine": platform.machine(),
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "load_average_1min": os.getloadavg()[0],
            "torch_threads": torch.get_num_threads(),
            "numba": numba.__version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
            "pairs": {"fast": pairs, "plain": plain_pairs},
            "first_image": first,
            "rows": rows,
        }
        json_path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)

"""Gradients of a training batch, against the same in plain PyTorch: how much quicker, and equal?

    python benchmarks/train_step.py [--pairs 5] [--batches 3] [--json out.json]

The packaged model with a LoRA, on batches of four tiles as the published recipe draws them from the
packaged samples. Plain is ``tests/reference/training.py``: segment-anything's own modules, the
encoder once a tile too, LoRA and dropout as upstream has them. Both take turns on each batch,
without dropout, where results must be equal, and with the published dropout. Forward and backward
are timed; drawing samples and the optimiser are not. CPU time counts all threads: on a busy machine
it is the fairer of the two.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

from cellseg1_rt.benchmarking.machine import describe_machine, versions_of
from cellseg1_rt.bundles import PACKAGED, SAMPLES
from cellseg1_rt.contract import WEIGHTS_NAME, read_manifest
from cellseg1_rt.formats import read_image, read_labels
from cellseg1_rt.model.lora import add_lora, lora_parameters, lora_state
from cellseg1_rt.model.lora_layout import lora_sites
from cellseg1_rt.model.weights import load_sam
from cellseg1_rt.recipes import read_recipe
from cellseg1_rt.runtime.normalise import rgb_from_pixels
from cellseg1_rt.train.lora_loss import tensors_from_sample
from cellseg1_rt.train.lora_recipe import LoraRecipe
from cellseg1_rt.train.lora_samples import LoraSample, draw_lora_sample, tiles_of_pairs
from cellseg1_rt.train.lora_step import StepOptions, add_gradients

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from reference import training

MODEL = PACKAGED["tiny"]
B_STD = 0.02


@dataclass(frozen=True)
class Row:
    """Seconds of a batch, medians over pairs; ratios are medians of the pairs' own."""

    dropout: float
    tiles: int
    points: int
    masks: int
    ours_s: float
    plain_s: float
    ratio: float
    ours_cpu_s: float
    plain_cpu_s: float
    ratio_cpu: float
    loss_difference: float | None
    gradient_difference: float | None


def batches_of_samples(recipe: LoraRecipe, count: int) -> list[list[LoraSample]]:
    """The first batches of the first epoch on all samples."""
    pairs = []
    for path in sorted((SAMPLES / "images").iterdir()):
        rgb = rgb_from_pixels(read_image(path).pixels)
        pairs.append((rgb, read_labels(SAMPLES / "labels" / path.name).astype(np.int32)))
    tiles = tiles_of_pairs(pairs, recipe.data, crops=0)
    order = np.random.default_rng((recipe.seed, 0)).permutation(len(tiles)).tolist()
    size = recipe.optimizer.batch_tiles
    return [
        [
            sample
            for place in range(first, first + size)
            if (sample := draw_lora_sample(tiles[order[place]], (0, 0, place), recipe.data))
        ]
        for first in range(0, count * size, size)
    ]


class Both:
    """The same model twice: ours, and plain."""

    def __init__(self, recipe: LoraRecipe, dropout: float) -> None:
        backbone = read_manifest(MODEL).backbone
        torch.manual_seed(recipe.seed)
        self.sam = add_lora(load_sam(MODEL / WEIGHTS_NAME, backbone), recipe.lora.rank, dropout)
        with torch.no_grad():
            for b in lora_parameters(self.sam)[1::2]:
                b.normal_(0, B_STD)
        self.sam.train()
        self.plain = load_sam(MODEL / WEIGHTS_NAME, backbone)
        state = lora_state(self.sam)
        self.parameters = training.add_lora(self.plain, state, lambda _: nn.Dropout(dropout))
        self.plain.train()
        sites = lora_sites(backbone.depth, backbone.embed_dim)
        self.names = [key for site in sites for key in (site.a_key, site.b_key)]
        self.options = StepOptions(recipe.optimizer.batch_tiles)

    def run_ours(self, samples: list[LoraSample]) -> float:
        self.sam.zero_grad(set_to_none=True)
        tiles = [tensors_from_sample(sample) for sample in samples]
        return add_gradients(self.sam, tiles, self.options, 8).total

    def run_plain(self, samples: list[LoraSample]) -> float:
        for parameter in self.parameters.values():
            parameter.grad = None
        loss = sum(training.batch_loss(self.plain, samples))
        torch.autograd.backward(loss / 8)
        return float(loss.detach())

    def gradient_difference(self) -> float:
        """The largest, over the largest gradient."""
        ours = dict(zip(self.names, lora_parameters(self.sam), strict=True))
        largest = max(float(p.grad.abs().max()) for p in self.parameters.values())
        return (
            max(
                float((ours[name].grad - p.grad).abs().max()) for name, p in self.parameters.items()
            )
            / largest
        )


def timed(run: Callable[[], float]) -> tuple[float, float, float]:
    """What ``run`` gives, wall seconds, CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = run()
    return value, time.perf_counter() - wall, time.process_time() - cpu


def compare(both: Both, samples: list[LoraSample], pairs: int, dropout: float) -> Row:
    ours, plain = [], []
    for _ in range(pairs):
        ours.append(timed(lambda: both.run_ours(samples)))
        plain.append(timed(lambda: both.run_plain(samples)))
    exact = dropout == 0
    return Row(
        dropout=dropout,
        tiles=len(samples),
        points=sum(len(sample.cell) for sample in samples),
        masks=sum(int((sample.cell > 0).sum()) for sample in samples),
        ours_s=median(row[1] for row in ours),
        plain_s=median(row[1] for row in plain),
        ratio=median(p[1] / o[1] for o, p in zip(ours, plain, strict=True)),
        ours_cpu_s=median(row[2] for row in ours),
        plain_cpu_s=median(row[2] for row in plain),
        ratio_cpu=median(p[2] / o[2] for o, p in zip(ours, plain, strict=True)),
        loss_difference=abs(ours[-1][0] - plain[-1][0]) if exact else None,
        gradient_difference=both.gradient_difference() if exact else None,
    )


def main(
    pairs: int = 5,
    batches: Annotated[int, typer.Option(help="Batches of four tiles to time.")] = 3,
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print a row for each batch and dropout; ``--json`` keeps them with machine and versions."""
    recipe = LoraRecipe.from_dict(read_recipe("train", "published"))
    drawn = batches_of_samples(recipe, batches)
    rows: list[dict[str, Any]] = []
    for dropout in (0.0, recipe.lora.dropout):
        both = Both(recipe, dropout)
        both.run_ours(drawn[0][:1])
        both.run_plain(drawn[0][:1])
        for samples in drawn:
            row = compare(both, samples, pairs, dropout)
            rows.append(asdict(row))
            equal = ""
            if row.gradient_difference is not None:
                equal = (
                    f"; losses differ by {row.loss_difference:.1e}, gradients by "
                    f"{row.gradient_difference:.1e} of the largest"
                )
            print(
                f"dropout {dropout}: {row.tiles} tiles, {row.points} points, {row.masks} masks: "
                f"{row.ours_s:.2f} s, plain {row.plain_s:.2f} s, ratio {row.ratio:.2f} "
                f"(CPU time {row.ratio_cpu:.2f}){equal}",
                flush=True,
            )
    if json_path is not None:
        report = {
            "machine": describe_machine(torch.get_num_threads()),
            "versions": versions_of(("torch", "numpy", "segment-anything")),
            "pairs": pairs,
            "rows": rows,
        }
        json_path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)

"""The graphs a bundle holds against segment-anything's own modules as graphs: what rewriting gave.

    python benchmarks/rewrites.py [--backbone tiny] [--rounds 5] [--json out.json]

Both sets of graphs have the same weights (the packaged ones for ``tiny``, seeded random ones for
others) and inputs, and run on the same runtimes; the encoder also in PyTorch fp32. Every round runs
each once, so that what else the machine does meets all of them; ratios are medians of the rounds'
own ratios. Decoding is 1,024 prompts and the mask head for a third of them, 64 prompts a call.
``tiny`` is timed in both, other backbones, whose decoder is the same, in the encoder. Of ViT-H each
run holds 2 to 5 GB: ``--only 'openvino bf16'`` times one runtime at a time.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from runtimes import load_all, question, run_once, summary

from cellseg1_rt.backends.base import Backend
from cellseg1_rt.benchmarking.machine import describe_machine, versions_of
from cellseg1_rt.bundles import SAMPLES, find_bundle
from cellseg1_rt.contract import GRAPHS, WEIGHTS_NAME
from cellseg1_rt.export.bundle import ExportRecipe, export_bundle
from cellseg1_rt.export.onnx_graphs import write_graph
from cellseg1_rt.export.plain_graphs import plain_modules
from cellseg1_rt.export.weight_file import WeightFile
from cellseg1_rt.model.initialise import initialise
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.model.weights import load_sam, write_safetensors
from cellseg1_rt.recipes import read_recipe

PROMPT_BATCH = 64
IMAGE = SAMPLES / "images" / "1400420310c9.png"


def main(
    backbone: Annotated[str, typer.Option(help="tiny, vit_b, vit_l or vit_h.")] = "tiny",
    rounds: int = 5,
    threads: int = 2,
    only: Annotated[str, typer.Option(help="Glob of runtimes, as 'openvino *'.")] = "*",
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print seconds and ratios of every runtime with either set of graphs."""
    recipe = ExportRecipe.from_dict(read_recipe("export", backbone))
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as place:
        ours, plain = bundles(recipe, Path(place))
        asked = question(IMAGE, 32, recipe.image_size)
        loaded = {
            f"{label}, {name}": backend
            for label, folder in (("plain", plain), ("rewritten", ours))
            for name, (backend, _) in load_all(folder, threads, only)
        }
        runs = runs_of(loaded, asked, with_decoder=backbone == "tiny")
        sam = load_sam(ours / WEIGHTS_NAME, recipe.backbone, recipe.image_size)
        runs["plain, PyTorch fp32"] = encode_in_pytorch(plain_modules(sam)["encoder"], asked)
        seconds: dict[str, list[list[float]]] = {name: [] for name in runs}
        for number in range(rounds + 1):  # the first warms up
            for name, run in runs.items():
                measured = run()
                if number:
                    seconds[name].append(measured)
    rows = rows_of(seconds)
    for row in rows:
        print(json.dumps(row))
    if json_path is not None:
        report = {
            "backbone": backbone,
            "image_size": recipe.image_size,
            "prompts": len(asked["points"]),
            "prompt_batch": PROMPT_BATCH,
            "rounds": rounds,
            "machine": describe_machine(threads),
            "versions": versions_of(("torch", "onnxruntime", "openvino")),
            "rows": rows,
        }
        json_path.write_text(json.dumps(report, indent=2) + "\n")


def bundles(recipe: ExportRecipe, folder: Path) -> tuple[Path, Path]:
    """A bundle, and a copy of it whose graphs are of segment-anything's own modules."""
    weights = folder / "weights.safetensors"
    if recipe.backbone.name == "tiny":
        shutil.copy(find_bundle("tiny") / WEIGHTS_NAME, weights)
    else:
        torch.manual_seed(7)
        sam = initialise(build_sam(recipe.backbone, recipe.image_size))
        write_safetensors(weights, sam.state_dict(), metadata={}, dtype=torch.float32)
        del sam
    ours, plain = export_bundle(weights, folder / "ours", recipe).bundle, folder / "plain"
    plain.mkdir()
    for name in (WEIGHTS_NAME, "manifest.json"):
        (plain / name).hardlink_to(ours / name)
    sam = load_sam(ours / WEIGHTS_NAME, recipe.backbone, recipe.image_size)
    weight_file = WeightFile(plain / WEIGHTS_NAME)
    for name, module in plain_modules(sam).items():
        write_graph(
            GRAPHS[name],
            module,
            plain / GRAPHS[name].file_name,
            image_size=recipe.image_size,
            precision=recipe.precision,
            weights=weight_file,
        )
    return ours, plain


def runs_of(
    loaded: dict[str, Backend], asked: dict[str, np.ndarray], *, with_decoder: bool
) -> dict[str, Callable[[], list[float]]]:
    """What a round runs, by name: each gives the seconds of its stages."""

    def all_stages(backend: Backend) -> list[float]:
        return run_once(backend, asked, PROMPT_BATCH)[0]

    def encoding(backend: Backend) -> list[float]:
        started = time.perf_counter()
        backend.encode(asked["image"], asked["size"])
        return [time.perf_counter() - started]

    run = all_stages if with_decoder else encoding
    return {name: partial(run, backend) for name, backend in loaded.items()}


def encode_in_pytorch(
    encoder: torch.nn.Module, asked: dict[str, np.ndarray]
) -> Callable[[], list[float]]:
    image, size = torch.from_numpy(asked["image"]), torch.from_numpy(asked["size"])

    @torch.inference_mode()
    def run() -> list[float]:
        started = time.perf_counter()
        encoder(image, size)
        return [time.perf_counter() - started]

    return run


def rows_of(seconds: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """Seconds of every run, and how many times faster it is than the plain ones it answers to."""
    encode = {name: np.array(measured)[:, 0] for name, measured in seconds.items()}
    decode = {
        name: np.array(measured)[:, 1:].sum(axis=1)
        for name, measured in seconds.items()
        if len(measured[0]) > 1
    }
    rows = []
    for name in seconds:
        row: dict[str, Any] = {"run": name, "encode_s": summary(encode[name])}
        bases = {"encode": (encode, ["plain, PyTorch fp32", _plain_of(name)])}
        if name in decode:
            row["decode_and_head_s"] = summary(decode[name])
            bases["decode_and_head"] = (decode, ["plain, onnxruntime fp32", _plain_of(name)])
        for stage, (times, references) in bases.items():
            row[f"{stage}_times_faster_than"] = {
                base: round(float(np.median(times[base] / times[name])), 2)
                for base in dict.fromkeys(references)
                if base in times and base != name
            }
        rows.append(row)
    return rows


def _plain_of(name: str) -> str:
    return name.replace("rewritten", "plain")


if __name__ == "__main__":
    typer.run(main)

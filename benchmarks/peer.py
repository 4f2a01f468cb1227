"""segment-anything's own mask generator on a bundle's weights, beside this package and the truth.

    python benchmarks/peer.py [-m tiny] [--points 32] [--repeats 2] [--json out.json]

Three paths take turns on each of the packaged samples: this package, ``SamAutomaticMaskGenerator``
as it comes, and the same with SAM's first mask instead of its three. Beside each time stands
AP@0.5 against the samples' labels.

Settings are the bundle's: points, thresholds of score and stability, offset, NMS threshold, least
area; crops 0. Where they cannot match: its NMS is of boxes, ours of masks; its last NMS is of boxes
too; as it comes it takes masks 1 to 3 of each point, which CellSeg1 does not train, and never mask
0, which it does; it has no largest area, so masks above that share of the image are dropped
afterwards; it gives masks, not labels, so they are painted as CellSeg1 paints, large ones first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

import cellseg1_rt
from cellseg1_rt.benchmarking.machine import describe_bundle, describe_machine, versions_of
from cellseg1_rt.benchmarking.plain_labels import painted
from cellseg1_rt.benchmarking.plain_model import BATCH, PlainModel
from cellseg1_rt.benchmarking.summary import spread_of
from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.evaluate import average_precision
from cellseg1_rt.formats import read_labels
from cellseg1_rt.runtime.model import rgb_for_model
from cellseg1_rt.settings import InferenceSettings

Segment = Callable[[NDArray[np.uint8]], NDArray[Any]]


class FirstMaskPredictor(SamPredictor):
    """Gives mask 0 and its score where the generator asks for SAM's three masks."""

    def predict_torch(self, *arguments: Any, **named: Any) -> Any:
        return super().predict_torch(*arguments, **{**named, "multimask_output": False})


def peer(sam: Any, settings: InferenceSettings, *, first_mask: bool) -> Segment:
    """The generator as a function from RGB to labels."""
    generator = SamAutomaticMaskGenerator(
        sam,
        points_per_side=settings.points_per_side,
        points_per_batch=BATCH,
        pred_iou_thresh=settings.score,
        stability_score_thresh=settings.stability,
        stability_score_offset=settings.stability_offset,
        box_nms_thresh=settings.box_nms,
        crop_n_layers=0,
        min_mask_region_area=settings.min_area,
    )
    if first_mask:
        generator.predictor = FirstMaskPredictor(sam)

    def segment(rgb: NDArray[np.uint8]) -> NDArray[Any]:
        found = [record["segmentation"] for record in generator.generate(rgb)]
        small = [mask for mask in found if mask.mean() < settings.max_area_ratio]
        return painted(small, (rgb.shape[0], rgb.shape[1]))

    return segment


def compare(
    paths: dict[str, Segment], images: list[Path], repeats: int
) -> dict[str, list[tuple[str, float, float]]]:
    """(image, seconds, AP@0.5) of each path; who begins moves on by one with each image."""
    rows: dict[str, list[tuple[str, float, float]]] = {name: [] for name in paths}
    names = list(paths)
    for segment in paths.values():
        segment(rgb_for_model(cellseg1_rt.read_image(images[0]).pixels))  # warms up, is not kept
    for number in range(repeats * len(images)):
        image = images[number % len(images)]
        rgb = rgb_for_model(cellseg1_rt.read_image(image).pixels)
        truth = read_labels(SAMPLES / "labels" / image.name)
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            started = time.perf_counter()
            labels = paths[name](rgb)
            seconds = time.perf_counter() - started
            rows[name].append((image.stem, seconds, average_precision(labels, truth)))
            print(f"{image.stem}  {name}: {seconds:.2f} s, AP@0.5 {rows[name][-1][2]:.3f}")
    return rows


def main(
    model: Annotated[str, typer.Option("--model", "-m")] = "tiny",
    points: Annotated[int, typer.Option(help="Grid points a side.")] = 32,
    repeats: Annotated[int, typer.Option(help="Rounds over the samples.")] = 2,
    limit: Annotated[int, typer.Option(help="Take only the first samples; 0: all.")] = 0,
    runtime: str = "auto",
    precision: str = "bundle",
    threads: Annotated[int, typer.Option(help="0 takes all cores.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print a row a path; ``--json`` keeps every figure with the machine and versions."""
    ours = cellseg1_rt.load(
        model,
        runtime=runtime,
        precision=precision,
        threads=threads,
        points_per_side=points,
        crops=0,
    )
    machine = describe_machine(threads)
    torch.set_num_threads(machine["threads"])
    sam = PlainModel(ours.bundle, ours.manifest).sam
    paths: dict[str, Segment] = {
        f"cellseg1-rt, {ours.choice.runtime} {ours.choice.precision}": (
            lambda rgb: ours.segment(rgb).labels
        ),
        "mask generator, as it comes": peer(sam, ours.settings, first_mask=False),
        "mask generator, mask 0": peer(sam, ours.settings, first_mask=True),
    }
    images = sorted((SAMPLES / "images").iterdir())[: limit or None]
    rows = compare(paths, images, repeats)
    report = {
        "machine": machine,
        "versions": versions_of(("onnxruntime", "openvino", "torch", "segment-anything")),
        "bundle": describe_bundle(ours.bundle, ours.manifest),
        "settings": ours.settings.to_dict(),
        "repeats": repeats,
        "paths": {name: summary(found) for name, found in rows.items()},
    }
    print(f"\n{machine['cpu']}, {machine['threads']} threads, {len(images)} samples")
    for name, path in report["paths"].items():
        seconds = path["seconds"]
        print(
            f"{name:36} {seconds['median']:7.2f} s ({seconds['q1']:.2f}–{seconds['q3']:.2f})  "
            f"AP@0.5 {path['ap50']:.3f}"
        )
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n")


def summary(rows: list[tuple[str, float, float]]) -> dict[str, Any]:
    """Median and quartiles of seconds, mean AP, and both by image."""
    return {
        "seconds": vars(spread_of([seconds for _, seconds, _ in rows])),
        "ap50": float(np.mean([ap for _, _, ap in rows])),
        "images": [{"image": image, "seconds": s, "ap50": ap} for image, s, ap in rows],
    }


if __name__ == "__main__":
    typer.run(main)

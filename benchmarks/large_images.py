"""Large images: are cells at seams as good as others, and does memory stay where it is?

    python benchmarks/large_images.py IMAGES [--side 6000] [--pairs 400] [--json out.json]

IMAGES is a folder of images, which are laid side by side, mirrored now and then, into one plane of
SIDE × SIDE px, stored as OME-Zarr. ``cellseg1-rt segment --tile auto`` segments it in a process of
its own, whose peak of resident memory is kept. Then:

- Pairs. A seam is the line in the middle of an overlap. A cell on one is segmented again in a
  window centred on it; a cell in the middle of a tile, in a window that is shifted against its tile
  just as much. Both match if the window has a cell of IoU 0.5 or more with them. Shifts are whole
  steps of the grid, so that prompts stay where they were: a cell in the very middle of a window
  would always lie between four of them.
- Straight cuts: cells of which a side of the box is covered to 60 % or more; and duplicates: cells
  whose box lies to half or more in that of another. The share at seams and elsewhere. Cells at the
  edges of the images that the plane was made of are left out.

``--pairs 0`` leaves the pairs out, for planes of which only the memory is asked.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from subprocess import Popen
from typing import Annotated, Any

import numpy as np
import typer
import zarr
from numpy.typing import NDArray

import cellseg1_rt
from cellseg1_rt.benchmarking.machine import describe_bundle, describe_machine, versions_of
from cellseg1_rt.formats.images import IMAGE_SUFFIXES, read_image
from cellseg1_rt.formats.planes import PlaneSource
from cellseg1_rt.formats.stacks import open_plane
from cellseg1_rt.geometry import Crop
from cellseg1_rt.runtime.large import stats_of_plane
from cellseg1_rt.runtime.normalise import PixelStats, rgb_from_pixels
from cellseg1_rt.runtime.pipeline import segment_rgb
from cellseg1_rt.runtime.tiles import TilePlan
from cellseg1_rt.runtime.tiling import Tiling

CHUNK_PX = 512
MATCH_IOU, STRAIGHT_SHARE, DUPLICATE_SHARE = 0.5, 0.6, 0.5


def write_mosaic(folder: Path, images: list[Path], side: int, seed: int) -> list[NDArray[np.int64]]:
    """The plane, uint8, row of images by row; the lines (y, x) at which images meet."""
    rng = np.random.default_rng(seed)
    greys = [rgb_from_pixels(read_image(path).pixels)[..., 1] for path in images]
    step = min(min(grey.shape) for grey in greys)
    root = zarr.open_group(str(folder), mode="w", zarr_format=2)
    scale = {"type": "scale", "scale": [1.0, 1.0]}
    root.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": axis, "type": "space"} for axis in "yx"],
            "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
        }
    ]
    plane = root.create_array(
        "0",
        shape=(side, side),
        dtype=np.uint8,
        chunks=(CHUNK_PX, CHUNK_PX),
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    for top in range(0, side, step):
        row = np.zeros((step, side), np.uint8)
        for left in range(0, side, step):
            grey = greys[rng.integers(len(greys))][:step, :step]
            turned = grey[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
            row[:, left : left + step] = turned[:, : side - left]
        plane[top : top + step] = row[: side - top]
    lines = np.arange(0, side + 1, step)
    return [lines, lines]


def segment_in_child(command: list[str]) -> tuple[float, float]:
    """Run ``cellseg1-rt``; wall time in s and the peak of resident memory in 10⁶ bytes."""
    started = time.perf_counter()
    code = "from cellseg1_rt.cli.main import main; main()"
    process = Popen([sys.executable, "-c", code, *command])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"segment ended with {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e6


def seams(plan: TilePlan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The middle of each overlap: rows and columns of pixels."""
    return tuple(  # type: ignore[return-value]
        np.array([(a[1] + b[0]) / 2 for a, b in pairwise(spans)])
        for spans in (plan.rows, plan.columns)
    )


def crosses(boxes: NDArray[np.int64], lines: tuple[NDArray[Any], ...], near: int = 0) -> Any:
    """Whether a box (x0, y0, x1, y1) lies over one of the lines (rows, columns), or near one."""
    x0, y0, x1, y1 = boxes.T[..., np.newaxis]
    over_row = (y0 - near < lines[0]) & (y1 + near >= lines[0])
    over_column = (x0 - near < lines[1]) & (x1 + near >= lines[1])
    return over_row.any(axis=1) | over_column.any(axis=1)


def owner_window(plan: TilePlan, box: NDArray[np.int64]) -> Crop:
    """The tile that holds a box farthest from its borders, axis by axis."""
    chosen = []
    for first, last, spans in ((box[1], box[3], plan.rows), (box[0], box[2], plan.columns)):
        chosen.append(max(spans, key=lambda span: min(first - span[0], span[1] - last)))
    (y0, y1), (x0, x1) = chosen
    return Crop(x0, y0, x1, y1)


@dataclass(frozen=True)
class Again:
    """Segments windows of the plane once more, and compares."""

    model: cellseg1_rt.Model
    source: PlaneSource
    stats: PixelStats
    labels: Any

    def matches(self, label: int, window: Crop) -> bool:
        rows, columns = slice(window.y0, window.y1), slice(window.x0, window.x1)
        rgb = rgb_from_pixels(self.source.read(rows, columns), stats=self.stats)
        model = self.model
        found = segment_rgb(rgb, model.backend, model.settings, model.prompt_batch).labels
        mask = np.asarray(self.labels[rows, columns]) == label
        for other in np.unique(found[mask]):
            same = found == other
            union = np.count_nonzero(same | mask)
            if other and np.count_nonzero(same & mask) >= MATCH_IOU * union:
                return True
        return False


def paired(
    again: Again, plan: TilePlan, boxes: NDArray[np.int64], pairs: int, seed: int
) -> dict[str, Any]:
    """Cells on seams and cells in the middle of tiles, each pair moved by the same shift."""
    rng = np.random.default_rng(seed)
    step = plan.tile_px / again.model.settings.points_per_side
    centres = np.stack([boxes[:, [1, 3]].mean(axis=1), boxes[:, [0, 2]].mean(axis=1)], axis=1)
    windows = [owner_window(plan, box) for box in boxes]
    middles = np.array([((w.y0 + w.y1) / 2, (w.x0 + w.x1) / 2) for w in windows])
    inner = np.flatnonzero(np.abs(centres - middles).max(axis=1) < plan.tile_px / 8)
    on_seam = rng.permutation(np.flatnonzero(crosses(boxes, seams(plan))))
    outcomes: list[tuple[bool, bool]] = []
    for seam_cell in on_seam:
        if len(outcomes) == pairs:
            break
        steps = np.rint((centres[seam_cell] - middles[seam_cell]) / step)
        shift = np.rint(steps * step).astype(int)
        partner = _partner(rng.permutation(inner), windows, shift, plan)
        moved = _moved(windows[seam_cell], shift, plan)
        if partner is None or moved is None:
            continue
        cell, window = partner
        outcomes.append(
            (again.matches(int(seam_cell) + 1, moved), again.matches(int(cell) + 1, window))
        )
        if len(outcomes) % 20 == 0:
            print(f"{len(outcomes)} pairs, matched {np.mean(outcomes, axis=0)}", flush=True)
    found = np.array(outcomes, float).reshape(-1, 2)
    difference = found[:, 0] - found[:, 1]
    return {
        "pairs": len(found),
        "matched_on_seams": float(found[:, 0].mean()),
        "matched_inside": float(found[:, 1].mean()),
        "difference": float(difference.mean()),
        "standard_error": float(difference.std() / math.sqrt(len(found))),
    }


def _partner(
    cells: NDArray[np.int64], windows: list[Crop], shift: NDArray[Any], plan: TilePlan
) -> tuple[int, Crop] | None:
    """A cell whose window, shifted the one way or the other, still lies in the plane."""
    for cell in cells[:50]:
        for way in (shift, -shift):
            window = _moved(windows[cell], way, plan)
            if window is not None:
                return int(cell), window
    return None


def _moved(window: Crop, shift: NDArray[Any], plan: TilePlan) -> Crop | None:
    dy, dx = (int(each) for each in shift)
    moved = Crop(window.x0 + dx, window.y0 + dy, window.x1 + dx, window.y1 + dy)
    inside = min(moved.x0, moved.y0) >= 0 and moved.x1 <= plan.width and moved.y1 <= plan.height
    return moved if inside else None


def boxes_of_table(path: Path) -> NDArray[np.int64]:
    """Boxes (x0, y0, x1, y1), both ends inclusive, of all cells."""
    table = np.genfromtxt(path, delimiter=",", names=True)
    return np.stack([table[name] for name in ("x0", "y0", "x1", "y1")], axis=1).astype(np.int64)


def oddities(
    labels: Any, boxes: NDArray[np.int64], on_seam: NDArray[np.bool_], usable: NDArray[np.bool_]
) -> dict[str, Any]:
    """Shares of straight cuts and duplicates among cells at seams and elsewhere."""
    straight = np.zeros(len(boxes), bool)
    for cell in np.flatnonzero(usable):
        x0, y0, x1, y1 = boxes[cell].tolist()
        mask = np.asarray(labels[y0 : y1 + 1, x0 : x1 + 1]) == cell + 1
        sides = (mask[0].mean(), mask[-1].mean(), mask[:, 0].mean(), mask[:, -1].mean())
        straight[cell] = max(sides) >= STRAIGHT_SHARE and min(mask.shape) > 5
    doubled = np.array([_lies_in_another(boxes, cell) for cell in range(len(boxes))], bool)
    figures: dict[str, Any] = {}
    for name, having in (("straight_cuts", straight), ("duplicates", doubled)):
        for place, chosen in (("at_seams", on_seam & usable), ("elsewhere", ~on_seam & usable)):
            cells, count = int(chosen.sum()), int((having & chosen).sum())
            share = count / cells if cells else None
            figures[f"{name}_{place}"] = {"cells": cells, "having": count, "share": share}
    return figures


def _lies_in_another(boxes: NDArray[np.int64], cell: int) -> bool:
    low, high = np.maximum(boxes[:, :2], boxes[cell, :2]), np.minimum(boxes[:, 2:], boxes[cell, 2:])
    common = (high - low + 1).clip(0).prod(axis=1)
    common[cell] = 0
    return bool(common.max() >= DUPLICATE_SHARE * (boxes[cell, 2:] - boxes[cell, :2] + 1).prod())


def main(
    images: Annotated[Path, typer.Argument(help="A folder of images.")],
    side: int = 6000,
    pairs: int = 400,
    points: Annotated[int, typer.Option(help="Grid points a side.")] = 32,
    model: Annotated[str, typer.Option("--model", "-m")] = "tiny",
    runtime: str = "auto",
    precision: str = "bundle",
    tile: str = "auto",
    threads: int = 0,
    seed: int = 1,
    folder: Annotated[Path | None, typer.Option(help="Where plane and labels go.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the figures; ``--json`` keeps them with machine and versions."""
    paths = sorted(path for path in images.iterdir() if path.name.lower().endswith(IMAGE_SUFFIXES))
    options = {"runtime": runtime, "precision": precision, "threads": threads}
    loaded = cellseg1_rt.load(model, points_per_side=points, **options)
    plan = Tiling.of_bundle(loaded.manifest, tile).plan((side, side))
    if plan is None:
        raise SystemExit("the plane is too small to be cut into tiles")
    with tempfile.TemporaryDirectory(dir=folder) as held:
        plane = Path(held) / "mosaic.ome.zarr"
        lines = write_mosaic(plane, paths, side, seed)
        command = ["segment", str(plane), "-o", f"{held}/out", "-m", model, "--format", "zarr,csv"]
        for name, value in {**options, "points": points, "tile": tile}.items():
            command += [f"--{name}", str(value)]
        seconds, peak = segment_in_child(command)
        print(f"{side} × {side} px: {seconds:.0f} s, peak {peak:.0f} MB", flush=True)
        boxes = boxes_of_table(Path(f"{held}/out/mosaic_cells.csv"))
        labels = zarr.open(f"{held}/out/mosaic.ome.zarr/labels/cells/0", mode="r")
        usable = ~crosses(boxes, (lines[0], lines[1]), near=2)
        figures = oddities(labels, boxes, crosses(boxes, seams(plan), near=2), usable)
        if pairs:
            with open_plane(plane) as source:
                again = Again(loaded, source, stats_of_plane(source), labels)
                figures["pairs"] = paired(again, plan, boxes, pairs, seed)
    report = {
        "machine": describe_machine(threads),
        "versions": versions_of(("numba", "numpy", "onnxruntime", "openvino", "zarr")),
        "bundle": describe_bundle(loaded.bundle, loaded.manifest),
        "runtime": loaded.choice.runtime,
        "precision": loaded.choice.precision,
        "points_per_side": points,
        "images": len(paths),
        "side_px": side,
        "tiles": len(plan),
        "tile_px": plan.tile_px,
        "overlap_px": plan.overlap_px,
        "cells": len(boxes),
        "seconds": round(seconds, 1),
        "peak_rss_mbytes": round(peak, 1),
        **figures,
    }
    print(json.dumps(report, indent=2))
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

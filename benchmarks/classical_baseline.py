"""A tuned classical baseline for bright nuclei: threshold, distance transform, watershed.

The best of a fixed grid of settings on one folder, reported on others as mean AP@0.5::

    python benchmarks/classical_baseline.py --tune PRETRAIN --test DOMAINS --only 'fluo_*' \
        --json benchmarks/results/classical_baseline.json

``--tune`` has ``images/`` and ``labels/`` with equal stems, ``--test`` such a folder per domain.
Numbers are the same on every run and for any ``--jobs``; only the times differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby, product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

import cv2
import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import ndimage

from cellseg1_rt.errors import CellSeg1RtError, InputError
from cellseg1_rt.evaluate import average_precision
from cellseg1_rt.files import atomic_path
from cellseg1_rt.formats import read_image, read_labels
from cellseg1_rt.runtime.normalise import rgb_from_pixels
from cellseg1_rt.version import __version__

Threshold = Literal["otsu", "otsu-of-root", "local"]
Seeds = Literal["none", "h-maxima", "peaks"]
Pairs = list[tuple[Path, Path]]

LARGEST_HOLE_PX = 400
"""Holes up to this area are filled: nucleoli, and the inside of what is wider than a window."""
LOCAL_FLOOR = 0.5
"""Share of Otsu's threshold below which nothing is foreground, however dark its surroundings."""


@dataclass(frozen=True)
class Setting:
    """One point of the grid.

    Attributes
    ----------
    smoothing_px : standard deviation of the Gaussian before the threshold; 0 for none.
    threshold : Otsu's, Otsu's of the square root (finds dim nuclei), or the mean around a pixel.
    amount : factor on Otsu's threshold; for ``local`` the side of the window in px.
    seeds : where touching nuclei get a seed each: nowhere, h-maxima of the distance transform, or
        its highest points in a window.
    seed_px : height h of a maximum; for ``peaks`` half the side of the window.
    min_area_px : smaller objects are dropped.
    """

    smoothing_px: float
    threshold: Threshold
    amount: float
    seeds: Seeds
    seed_px: float
    min_area_px: int

    def __str__(self) -> str:
        seeds = "whole" if self.seeds == "none" else f"{self.seeds} {self.seed_px:g} px"
        return (
            f"smoothing {self.smoothing_px:g} px, {self.threshold} {self.amount:g}, {seeds}, "
            f"area from {self.min_area_px} px"
        )


THRESHOLDS: tuple[tuple[Threshold, float], ...] = (
    ("otsu", 0.7),
    ("otsu", 0.85),
    ("otsu", 1.0),
    ("otsu-of-root", 1.0),
    ("local", 11),
    ("local", 15),
    ("local", 21),
    ("local", 31),
    ("local", 51),
)
SEEDS: tuple[tuple[Seeds, float], ...] = (
    ("none", 0),
    ("h-maxima", 0.75),
    ("h-maxima", 1.5),
    ("h-maxima", 3),
    ("peaks", 9),
)
GRID = tuple(
    Setting(smoothing_px, *threshold, *seeds, min_area_px)
    for smoothing_px, threshold, seeds, min_area_px in product(
        (0.0, 1.0), THRESHOLDS, SEEDS, (20, 40, 80)
    )
)


def segment(grey: NDArray[np.uint8], settings: Sequence[Setting]) -> Iterator[NDArray[np.int32]]:
    """Label maps [H, W] of ``settings``, in order; neighbours in the list share their work.

    Parameters
    ----------
    grey : uint8 [H, W], bright nuclei on a dark ground.
    settings : what to try.
    """
    for smoothing_px, alike in groupby(settings, lambda s: s.smoothing_px):
        smooth = grey.astype(np.float32)
        if smoothing_px:
            smooth = np.asarray(cv2.GaussianBlur(smooth, (0, 0), smoothing_px), np.float32)
        for (kind, amount), masked in groupby(alike, lambda s: (s.threshold, s.amount)):
            mask = foreground(smooth, kind, amount)
            distance = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
            for (seeds, seed_px), split in groupby(masked, lambda s: (s.seeds, s.seed_px)):
                labels = divide(mask, distance, find_seeds(distance, seeds, seed_px))
                areas = np.bincount(labels.ravel())
                for setting in split:
                    keep = areas >= setting.min_area_px
                    yield np.where(keep[labels], labels, 0).astype(np.int32)


def foreground(smooth: NDArray[np.float32], kind: Threshold, amount: float) -> NDArray[np.uint8]:
    """Foreground [H, W], 0 or 1, of a smoothed image with values 0..255."""
    values = np.sqrt(smooth * 255) if kind == "otsu-of-root" else smooth
    levels = np.round(values).astype(np.uint8)  # OpenCV's threshold is the last dark level
    otsu, _ = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    if kind == "local":
        around = cv2.blur(smooth, (int(amount), int(amount)))
        mask = smooth > np.maximum(around, LOCAL_FLOOR * otsu)
    else:
        mask = levels > amount * otsu
    holes = (~mask).astype(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(holes, connectivity=4)
    filled = mask | (stats[:, cv2.CC_STAT_AREA] <= LARGEST_HOLE_PX)[parts]
    return filled.astype(np.uint8)


def find_seeds(distance: NDArray[np.float32], kind: Seeds, size_px: float) -> NDArray[np.int32]:
    """Seeds [H, W], numbered from 1, of a distance transform."""
    if kind == "none":
        chosen = np.zeros(distance.shape, np.bool_)
    elif kind == "peaks":
        side = 2 * int(size_px) + 1
        highest = cv2.dilate(distance, np.ones((side, side), np.uint8))
        chosen = (distance > 0) & (distance == highest)
    else:
        # Only where no path leads higher without first going down by h is all of h left over.
        lowered = np.maximum(distance - np.float32(size_px), 0)
        chosen = distance - _reconstructed(lowered, distance) > size_px - 1e-3
    return np.asarray(cv2.connectedComponents(chosen.astype(np.uint8))[1], np.int32)


def divide(
    mask: NDArray[np.uint8], distance: NDArray[np.float32], seeds: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Labels [H, W]: each object whole, or along its necks where it holds several seeds.

    scipy's watershed floods over the *difference* of neighbouring pixels, which is the same
    everywhere on a distance transform. On a chequerboard of signs the difference of two neighbours
    is the sum of their heights, and so it floods by height: two disks of radius 25 and 12 are cut
    at their neck instead of 48 px away from it.
    """
    count, objects = cv2.connectedComponents(mask, connectivity=4)
    labels = np.asarray(objects, np.int32)
    found = np.zeros((count, 2), np.int32)  # the lowest and the highest seed of each object
    inside = (seeds > 0) & (mask > 0)
    found[:, 0] = np.iinfo(np.int32).max
    np.minimum.at(found[:, 0], labels[inside], seeds[inside])
    np.maximum.at(found[:, 1], labels[inside], seeds[inside])
    several = (found[:, 0] < found[:, 1])[labels] & (mask > 0)
    if not several.any():
        return labels
    deepest = float(distance.max())
    depth = np.round((deepest - distance) * min(16, 2**15 / (deepest + 1))).astype(np.int32)
    signs = 1 - 2 * (np.add.outer(*map(np.arange, mask.shape)) % 2)
    markers = np.where(several, seeds, -1).astype(np.int32)
    flooded = ndimage.watershed_ift((2**15 + signs * depth).astype(np.uint16), markers)
    return np.where(several, flooded + count, labels).astype(np.int32)


def _reconstructed(low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float32]:
    """Morphological reconstruction: dilations of ``low`` under ``high`` until nothing changes."""
    kernel = np.ones((3, 3), np.uint8)
    while True:
        grown = cv2.min(cv2.dilate(low, kernel), high)
        if np.array_equal(grown, low):
            return np.asarray(low, np.float32)
        low = grown


def read_grey(path: Path) -> NDArray[np.uint8]:
    """An image as the model gets it, stretched to 0..255, its brightest channel."""
    return np.asarray(rgb_from_pixels(read_image(path).pixels, where=path).max(axis=2), np.uint8)


def find_pairs(folder: Path, every: int = 1, limit: int | None = None) -> Pairs:
    """Images and labels of equal stems, by name: every n-th, and of these the first ``limit``.

    Raises
    ------
    InputError : if there are no images, or one has no labels.
    """
    labels = {path.stem: path for path in sorted((folder / "labels").glob("*"))}
    images = sorted((folder / "images").glob("*"))[::every][:limit]
    missing = [path.name for path in images if path.stem not in labels]
    if missing or not images:
        raise InputError(
            "no images with labels",
            where=folder,
            got=f"no labels for {missing[0]}" if missing else "no images",
            expected="images/ and labels/ with files of equal stems",
        )
    return [(path, labels[path.stem]) for path in images]


def score_pair(pair: tuple[Path, Path], settings: Sequence[Setting]) -> list[float]:
    """AP@0.5 of each setting on one image."""
    true = read_labels(pair[1])
    return [average_precision(found, true) for found in segment(read_grey(pair[0]), settings)]


def score_pairs(pairs: Pairs, settings: Sequence[Setting], jobs: int = 1) -> NDArray[np.float64]:
    """AP@0.5 [images, settings]."""
    score = partial(score_pair, settings=settings)
    if jobs == 1:
        return np.array([score(pair) for pair in pairs])
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        return np.array(list(pool.map(score, pairs)))


def tune(pairs: Pairs, settings: Sequence[Setting], jobs: int = 1) -> tuple[Setting, list[float]]:
    """The setting with the highest mean AP@0.5, the first of equals, and the means of all."""
    means = score_pairs(pairs, settings, jobs).mean(axis=0)
    return settings[int(means.argmax())], means.tolist()


def report_domain(pairs: Pairs, setting: Setting) -> dict[str, Any]:
    """Mean AP@0.5 of a domain, each image's, and the median CPU time of ``segment`` alone."""
    times_ms = []
    for path, _ in pairs:
        grey = read_grey(path)
        started = time.process_time()
        list(segment(grey, [setting]))
        times_ms.append(1000 * (time.process_time() - started))
    scores = score_pairs(pairs, [setting])[:, 0].tolist()
    return {
        "ap50": round(mean(scores), 4),
        "images": {path.stem: round(ap, 4) for (path, _), ap in zip(pairs, scores, strict=True)},
        "median_cpu_ms": round(median(times_ms), 1),
    }


def run(arguments: argparse.Namespace, settings: Sequence[Setting] = GRID) -> dict[str, Any]:
    """Tune, test, and return what ``--json`` writes."""
    cv2.setNumThreads(1)
    pairs = find_pairs(arguments.tune, arguments.every, arguments.limit)
    best, means = tune(pairs, settings, arguments.jobs)
    folders = sorted(path for path in arguments.test.glob(arguments.only) if path.is_dir())
    domains = {
        folder.name: report_domain(find_pairs(folder, limit=arguments.limit), best)
        for folder in folders
    }
    return {
        "benchmark": "classical baseline: threshold, distance transform, watershed",
        "metric": "mean over images of AP at IoU 0.5",
        "tuned_on": {
            "folder": arguments.tune.resolve().name,
            "images": len(pairs),
            "which": f"every {arguments.every}th by name" if arguments.every > 1 else "all",
            "settings": len(settings),
            "ap50": round(max(means), 4),
        },
        "best": asdict(best),
        "domains": domains,
        "grid": {str(setting): round(ap, 4) for setting, ap in zip(settings, means, strict=True)},
        "versions": {
            "cellseg1-rt": __version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "python": platform.python_version(),
            "scipy": scipy.__version__,
        },
        "hardware": {"cpus": os.cpu_count(), "architecture": platform.machine()},
    }


def show(result: dict[str, Any]) -> None:
    """Print the chosen setting, and a line per domain."""
    tuned = result["tuned_on"]
    print(f"best of {tuned['settings']} on {tuned['images']} images: AP@0.5 {tuned['ap50']:.3f}")
    print(f"  {Setting(**result['best'])}")
    for name, domain in result["domains"].items():
        print(f"{name}: AP@0.5 {domain['ap50']:.3f}, {domain['median_cpu_ms']:.0f} ms per image")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tune", type=Path, required=True, help="folder to choose the setting on: images/, labels/"
    )
    parser.add_argument("--test", type=Path, required=True, help="folder of domain folders")
    parser.add_argument("--only", default="*", help="glob of the domains to test (default: all)")
    parser.add_argument("--every", type=int, default=1, help="tune on every n-th image by name")
    parser.add_argument("--limit", type=int, help="at most so many images of each folder")
    parser.add_argument("--jobs", type=int, default=1, help="processes to tune with")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args(argv)
    try:
        result = run(arguments)
    except CellSeg1RtError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    show(result)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(arguments.json) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Kinds of image that the packaged model has never seen, to choose a recipe's numbers on.

    python benchmarks/one_image/made_up.py PRETRAIN OUT
    python benchmarks/one_image/study.py OUT results.jsonl --only '*' --recipe mine.toml

Nuclei of PRETRAIN that pretraining held out, drawn as their outlines, the same with a little of the
image itself, as dark bodies in bright halos on a rough ground, and as a stain on a pale one. So no
image that a study judges by is looked at while numbers are chosen.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.train.pretrain_data import read_pairs, split_pairs

HELD_OUT = 24  # as the pretraining recipes have it
CHOSEN = (3, 5, 13, 23)
Floats = NDArray[np.float32]


def main(pretrain: Path, out: Path) -> None:
    """Write OUT/outline, OUT/faint, OUT/halo and OUT/stain, four pairs each."""
    samples = {pair.digest for pair in read_pairs(SAMPLES)}
    _, held_out = split_pairs(read_pairs(pretrain), HELD_OUT, samples)
    kinds = {"outline": outline, "faint": faint, "halo": halo, "stain": Stain()}
    for name, draw in kinds.items():
        for part in ("images", "labels"):
            (out / name / part).mkdir(parents=True, exist_ok=True)
        for index in CHOSEN:
            pair = held_out[index]
            grey = np.asarray(pair.image, np.float32)
            grey = grey.mean(axis=2) if grey.ndim == 3 else grey
            file = f"{index:02d}.png"
            cv2.imwrite(str(out / name / "images" / file), draw(grey).astype(np.uint8))
            cv2.imwrite(str(out / name / "labels" / file), pair.labels.astype(np.uint16))


def outline(grey: Floats) -> Floats:
    """Bright where brightness changes."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.2)
    slope = np.hypot(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1))
    return np.clip(40 + 170 * slope / np.percentile(slope, 99.5), 0, 255)


def faint(grey: Floats) -> Floats:
    """Outlines through which 15 % of the image shows: the packaged model half knows it."""
    bright = 20 + 200 * np.clip(grey / np.percentile(grey, 99.5), 0, 1)
    return 0.15 * bright + 0.85 * outline(grey)


def halo(grey: Floats) -> Floats:
    """A little like phase contrast: dark, with a bright rim, on a ground that is not flat."""
    bright = np.clip(grey / np.percentile(grey, 99.5), 0, 1)
    rim = cv2.GaussianBlur(bright, (0, 0), 2) - 1.4 * cv2.GaussianBlur(bright, (0, 0), 6)
    noise = np.random.default_rng(3).normal(size=grey.shape).astype(np.float32)
    ground = 48 * cv2.GaussianBlur(noise, (0, 0), 1.5)
    return np.clip(128 - 130 * rim + ground, 0, 255)


class Stain:
    """Violet bodies on pale pink, both of uneven colour; its noise goes on from image to image."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(5)

    def __call__(self, grey: Floats) -> Floats:
        share = np.clip(grey / np.percentile(grey, 99.5), 0, 1)[..., None]
        body_texture = 1 + self._noise(grey, 1.0, 0.6) + self._noise(grey, 4, 1.2)
        ground = (
            (232, 205, 222)
            + self._noise(grey, 6, 10) * (10, 25, 14)
            + self._noise(grey, 1.2, 3) * (4, 8, 5)
        )
        body = np.float32([110, 70, 140]) * body_texture
        return np.clip(ground * (1 - share) + body * share, 0, 255)[..., ::-1]  # as OpenCV wants

    def _noise(self, grey: Floats, blur_px: float, height: float) -> Floats:
        noise = self._random.normal(size=grey.shape).astype(np.float32)
        return height * cv2.GaussianBlur(noise, (0, 0), blur_px)[..., None]


if __name__ == "__main__":
    typer.run(main)

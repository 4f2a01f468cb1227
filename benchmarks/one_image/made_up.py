"""Kinds of image that the packaged model has never seen, to choose a recipe's numbers on.

    python benchmarks/one_image/made_up.py PRETRAIN OUT
    python benchmarks/one_image/study.py OUT results.jsonl --only '*' --recipe mine.toml

Nuclei of PRETRAIN that pretraining held out, drawn as their outlines, the same with a little of the
image itself, as dark bodies in bright halos on a rough ground, and as a stain on a pale one. So no
image that a study judges by is looked at while numbers are chosen. The wide kinds are outlines and
halos again: planes of 1,024 px put together from windows of many images, those of pretraining too,
since too few are held out; about 200 cells, small in the model's input. The rods need no nuclei: a
colony of 5, 9, 14 or 18 in a large empty image, side by side, two to four times as long as wide.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.train.crops_for_cells import median_diameter_px
from cellseg1_rt.train.lora_tiles import number_cells
from cellseg1_rt.train.pretrain_data import Pair, read_pairs, split_pairs

HELD_OUT = 24  # as the pretraining recipes have it
CHOSEN = (3, 5, 13, 23)
WINDOW_PX = 256
RODS = (5, 9, 14, 18)
ROD_PX = 18
Floats = NDArray[np.float32]


def main(pretrain: Path, out: Path) -> None:
    """Write the kinds as folders of OUT: four pairs each, of the wide ones three."""
    samples = {pair.digest for pair in read_pairs(SAMPLES)}
    seen, held_out = split_pairs(read_pairs(pretrain), HELD_OUT, samples)
    kinds = {"outline": outline, "faint": faint, "halo": halo, "stain": Stain()}
    for name, draw in kinds.items():
        for index in CHOSEN:
            pair = held_out[index]
            write_pair(out / name, f"{index:02d}.png", draw(grey_of(pair)), pair.labels)
    for index, (grey, labels) in zip(CHOSEN, planes([*seen, *held_out]), strict=False):
        for name in ("outline", "halo"):
            write_pair(out / f"wide_{name}", f"{index:02d}.png", kinds[name](grey), labels)
    for index, count in zip(CHOSEN, RODS, strict=True):
        labels = colony(count, index)
        write_pair(out / "rods", f"{index:02d}.png", dark_in_glow(labels, index), labels)


def write_pair(folder: Path, file: str, image: Floats, labels: NDArray[np.int32]) -> None:
    """One image and its labels."""
    for part, pixels in (("images", image.astype(np.uint8)), ("labels", labels.astype(np.uint16))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / part / file), pixels)


def grey_of(pair: Pair) -> Floats:
    """The mean of its channels."""
    grey = np.asarray(pair.image, np.float32)
    return grey.mean(axis=2) if grey.ndim == 3 else grey


def planes(pairs: list[Pair]) -> Iterator[tuple[Floats, NDArray[np.int32]]]:
    """Three planes of 4 × 4 windows, each the corner of an image of cells 25 to 60 px across."""
    fitting = [pair for pair in pairs if is_fitting(pair.labels)]
    order = np.random.default_rng(1).permutation(len(fitting))
    for plane in range(3):
        grey = np.zeros((4 * WINDOW_PX, 4 * WINDOW_PX), np.float32)
        labels = np.zeros(grey.shape, np.int32)
        for place in range(16):
            pair = fitting[order[(16 * plane + place) % len(fitting)]]
            window = grey_of(pair)[:WINDOW_PX, :WINDOW_PX]
            top, left = (WINDOW_PX * step for step in divmod(place, 4))
            at = (slice(top, top + WINDOW_PX), slice(left, left + WINDOW_PX))
            grey[at] = np.clip(window / np.percentile(window, 99.5) * 255, 0, 255)
            cells = pair.labels[:WINDOW_PX, :WINDOW_PX]
            labels[at] = np.where(cells > 0, cells + labels.max(), 0)
        yield grey, number_cells(labels)


def is_fitting(labels: NDArray[np.int32]) -> bool:
    """Whether a corner of these can be a window of a wide plane."""
    if min(labels.shape) < WINDOW_PX or not labels.any():
        return False
    corner = labels[:WINDOW_PX, :WINDOW_PX]
    return 25 <= median_diameter_px(number_cells(labels)) <= 60 and len(np.unique(corner)) > 5


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


def colony(count: int, seed: int, height: int = 727, width: int = 1026) -> NDArray[np.int32]:
    """Labels of rods about one middle and one direction, none of which touches another."""
    random = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    middle = random.uniform(350, width - 350), random.uniform(280, height - 280)
    direction = random.uniform(0, np.pi)
    tries = 0
    while labels.max() < count:
        tries += 1
        away = random.uniform(0, 2 * np.pi)
        half_length = random.uniform(ROD_PX, 60) / 2
        angle = direction + 0.25 * random.normal()
        centre = middle + np.sqrt(tries) * np.array([np.cos(away), np.sin(away)])
        along = half_length * np.array([np.cos(angle), np.sin(angle)])
        rod = np.zeros((height, width), np.uint8)
        ends = ((centre + sign * along).astype(int).tolist() for sign in (-1, 1))
        cv2.line(rod, *ends, 1, ROD_PX)
        if not labels[cv2.dilate(rod, np.ones((3, 3), np.uint8)) > 0].any():
            labels[rod > 0] = labels.max() + 1
    return labels


def dark_in_glow(labels: NDArray[np.int32], seed: int) -> Floats:
    """Like bacteria in phase contrast: blurred dark bodies of uneven depth in a common glow."""
    random = np.random.default_rng(seed)
    inside = (labels > 0).astype(np.float32)
    depth = random.uniform(0.6, 1, labels.max() + 1).astype(np.float32)[labels] * inside
    bodies, near, far = (
        cv2.GaussianBlur(part, (0, 0), blur_px)
        for part, blur_px in ((depth, 2.5), (inside, 2), (inside, 14))
    )
    ground = np.zeros(labels.shape, np.float32)
    for blur_px, height in ((25, 350), (1, 5.25)):
        noise = random.normal(size=labels.shape).astype(np.float32)
        ground += height * cv2.GaussianBlur(noise, (0, 0), blur_px)
    return np.clip(150 - 110 * bodies + 120 * np.clip(far - near, 0, 1) + ground, 0, 255)


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

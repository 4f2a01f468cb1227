"""Samples for ``pretrain``: real pairs from a folder and synthetic scenes, augmented, with points.

A sample is a pure function of (dataset, recipe seed, step, position in the step), so a resumed run
sees exactly what an uninterrupted one would. Numpy and OpenCV only.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backbone import PATCH_SIZE
from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_image, read_labels
from cellseg1_rt.runtime.normalise import rgb_from_pixels
from cellseg1_rt.train.pretrain_points import draw_points
from cellseg1_rt.train.scenes import draw_scene, repaint

__all__ = [
    "Pair",
    "Sample",
    "TrainingSet",
    "draw_sample",
    "read_pairs",
    "split_pairs",
    "whole_image_sample",
]

SMALLEST_CELL_PX = 16
"""Cells cut or scaled below this area are taken out of the labels: no outline is left to learn."""

CROP_SHARE = 0.2
CROP_ZOOMS = (1.4, 2.0)
"""This share of real crops has the scale of inference with ``--crops 1``: one of four crops shows
cells 1.5 to 1.9 times as large as the whole image does."""

SHRUNK_SHARE = 0.15
SHRUNK_DIAMETERS_PX = (7.0, 14.0)
"""This share of real crops is shrunk until its median cell has one of these diameters: cells as
small as in crowded pictures, of which there are few."""

REPAINTED_SHARE = 0.15
"""Real labels under a synthetic appearance: real shapes and crowding in every kind of picture."""


@dataclass(frozen=True)
class Pair:
    """A real image and its labels.

    Attributes
    ----------
    name : the file's stem.
    digest : SHA-256 of the decoded RGB pixels; the same picture has it under any name or format.
    image : uint8 [H, W, 3], RGB, normalised as at inference.
    labels : int32 [H, W].
    """

    name: str
    digest: str
    image: NDArray[np.uint8]
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class Sample:
    """One square training window with its prompts.

    Attributes
    ----------
    image : uint8 [W, W, 3], RGB.
    size : valid (height, width); the rest is padding.
    labels : int32 [W, W], 0 in background and padding.
    points_xy : float32 [N, 2], (x, y), pixels of the window; those in cells come first.
    cell : int32 [N], the label under each point; 0 is a background point.
    origin : (top, left) of the window in the model's input, in tokens.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    labels: NDArray[np.int32]
    points_xy: NDArray[np.float32]
    cell: NDArray[np.int32]
    origin: tuple[int, int]


class TrainingSet:
    """Real pairs and how often each is drawn.

    Crowded pictures teach more, and pictures of a size that few have are of another microscope:
    the weight is √cells / √(pictures of this size).
    """

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs
        sizes = Counter(pair.labels.shape for pair in pairs)
        weights = np.array(
            [np.sqrt(len(np.unique(pair.labels)) / sizes[pair.labels.shape]) for pair in pairs]
        )
        self.cumulative = np.cumsum(weights / weights.sum()) if pairs else weights

    def draw(self, rng: np.random.Generator) -> Pair:
        """One pair."""
        place = np.searchsorted(self.cumulative, rng.random(), side="right")
        return self.pairs[min(int(place), len(self.pairs) - 1)]


def read_pairs(folder: Path) -> list[Pair]:
    """All pairs of ``folder/images`` and ``folder/labels`` (same stems), ordered by content.

    Raises
    ------
    InputError : if a folder is missing or empty, an image has no labels, or sizes differ.
    """
    labels = {path.stem: path for path in sorted((folder / "labels").glob("*"))}
    images = sorted((folder / "images").glob("*"))
    if not images:
        raise InputError(
            "no training images", where=folder, expected="the sub-folders images/ and labels/"
        )
    pairs = []
    for path in images:
        if path.stem not in labels:
            raise InputError("image without labels", where=path, expected=f"labels/{path.stem}.*")
        image = rgb_from_pixels(read_image(path).pixels)
        target = read_labels(labels[path.stem]).astype(np.int32)
        if image.shape[:2] != target.shape:
            raise InputError(
                "image and labels differ in size",
                where=path,
                got=f"{image.shape[:2]} and {target.shape}",
            )
        pairs.append(Pair(path.stem, hashlib.sha256(image.tobytes()).hexdigest(), image, target))
    return sorted(pairs, key=lambda pair: pair.digest)


def split_pairs(
    pairs: list[Pair], held_out: int, excluded_digests: set[str]
) -> tuple[list[Pair], list[Pair]]:
    """Training and validation pairs: no picture twice, none without cells, none excluded."""
    allowed = {
        pair.digest: pair
        for pair in pairs
        if pair.digest not in excluded_digests and _without_small(pair.labels).any()
    }
    ordered = list(allowed.values())
    return ordered[held_out:], ordered[:held_out]


def draw_sample(
    training: TrainingSet,
    key: tuple[int, ...],
    *,
    window_px: int,
    image_size: int,
    points: int,
    synthetic_share: float,
) -> Sample:
    """A training sample.

    Parameters
    ----------
    training : real training pairs.
    key : integers that seed everything random about this sample.
    window_px : side W of the sample.
    image_size : side of the model's input; real cells appear at that scale, give or take.
    points : prompts N.
    synthetic_share : probability of a synthetic scene, 0..1.
    """
    rng = np.random.default_rng(key)
    while True:
        if not training.pairs or rng.random() < synthetic_share:
            image, labels = draw_scene(rng, window_px)
            size = (window_px, window_px)
        else:
            image, labels, size = _real_crop(rng, training.draw(rng), window_px, image_size)
            if rng.random() < REPAINTED_SHARE:
                image = repaint(rng, labels)
        image = _recoloured(rng, image)
        labels = _without_small(labels)
        if labels.any():
            break
    padded = np.zeros_like(image)
    padded[: size[0], : size[1]] = image[: size[0], : size[1]]
    points_xy, cell = draw_points(rng, padded, labels, size, points)
    top, left = rng.integers(0, (image_size - window_px) // PATCH_SIZE + 1, 2).tolist()
    return Sample(padded, size, labels, points_xy, cell, (top, left))


def whole_image_sample(pair: Pair, image_size: int, points: int) -> Sample:
    """The validation sample of a pair: the whole image at its inference scale, fixed points."""
    height, width = pair.labels.shape
    scale = image_size / max(height, width)
    size = (int(height * scale + 0.5), int(width * scale + 0.5))
    image = np.zeros((image_size, image_size, 3), np.uint8)
    labels = np.zeros((image_size, image_size), np.int32)
    image[: size[0], : size[1]] = cv2.resize(pair.image, size[::-1], interpolation=cv2.INTER_LINEAR)
    labels[: size[0], : size[1]] = cv2.resize(
        pair.labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT
    )
    labels = _without_small(labels)
    rng = np.random.default_rng(int(pair.digest[:8], 16))
    points_xy, cell = draw_points(rng, image, labels, size, points)
    return Sample(image, size, labels, points_xy, cell, (0, 0))


def _real_crop(
    rng: np.random.Generator, pair: Pair, window_px: int, image_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32], tuple[int, int]]:
    """A rotated, flipped, scaled crop, by one affine map. Returns image, labels and valid size."""
    height, width = pair.labels.shape
    scale = image_size / max(height, width)
    kind = rng.random()
    if kind < SHRUNK_SHARE:
        wanted = float(np.exp(rng.uniform(*np.log(SHRUNK_DIAMETERS_PX))))
        scale = min(scale, wanted / _median_diameter(pair.labels))
    elif kind < SHRUNK_SHARE + CROP_SHARE:
        scale *= rng.uniform(*CROP_ZOOMS)
    else:
        scale *= float(np.exp(np.clip(rng.normal(0.1, 0.35), -0.7, 0.9)))
    turned = rng.random() < 0.25
    angle = rng.uniform(0, 2 * np.pi) if turned else np.pi / 2 * rng.integers(4)
    stretch = float(np.exp(rng.normal(0, 0.08)))
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag([scale * stretch, scale / stretch])
    if rng.random() < 0.5:
        linear = linear @ np.diag([-1.0, 1.0])
    corners = linear @ np.array([[0, width, 0, width], [0, 0, height, height]], float)
    low, high = corners.min(axis=1), corners.max(axis=1)
    extent = high - low
    room = extent - window_px  # what of the turned image cannot be shown; < 0 where it all fits
    shift = low + np.where(room > 0, rng.uniform(0, 1, 2) * np.maximum(room, 0), 0)
    size = tuple(int(min(window_px, side)) for side in extent[::-1])
    matrix = np.column_stack([linear, -shift])
    target = (window_px, window_px)
    pixels: NDArray[Any] = pair.image
    if scale < 0.7:  # what is shrunk at inference is shrunk without aliasing
        pixels = cv2.GaussianBlur(pixels, (0, 0), 0.4 / scale)
    image = np.asarray(cv2.warpAffine(pixels, matrix, target, flags=cv2.INTER_LINEAR), np.uint8)
    labels = cv2.warpAffine(
        pair.labels.astype(np.float32), matrix, target, flags=cv2.INTER_NEAREST
    ).astype(np.int32)
    labels[size[0] :], labels[:, size[1] :] = 0, 0
    return image, labels, (size[0], size[1])


def _median_diameter(labels: NDArray[np.int32]) -> float:
    """Of the cells, in px: that of a disc of a cell's area. At least 1."""
    areas = np.bincount(labels.ravel())[1:]
    present = areas[areas > 0]
    return max(1.0, float(np.sqrt(np.median(present) * 4 / np.pi))) if len(present) else 1.0


def _recoloured(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    unit: NDArray[Any] = image.astype(np.float32) / 255
    if rng.random() < 0.7:
        unit = unit ** np.float32(np.exp(rng.normal(0, 0.35)))
    if rng.random() < 0.5:
        unit = unit * rng.uniform(0.5, 1.2) + rng.uniform(-0.05, 0.15)
    if rng.random() < 0.3:
        unit = cv2.GaussianBlur(unit, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < 0.4:
        unit = unit + rng.normal(0, rng.uniform(0, 0.06), unit.shape[:2])[..., None]
    if rng.random() < 0.08:
        unit = 1 - unit
    if rng.random() < 0.1:
        unit = unit * rng.uniform(0.2, 1, 3)
    return np.asarray(np.clip(unit, 0, 1) * 255, np.uint8)


def _without_small(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    areas = np.bincount(labels.ravel())
    keep = areas >= SMALLEST_CELL_PX
    keep[0] = False
    return np.where(keep[labels], labels, 0).astype(np.int32)

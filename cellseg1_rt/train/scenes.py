"""Synthetic microscope scenes with exact labels: shapes, arrangement, and how they look.

Cells are ellipses, rods, blobs and irregular outlines of 7 to 150 px that touch, overlap and
divide; the picture is fluorescence, stain, phase contrast or outlined brightfield, with texture,
uneven light, blur and noise. Pure functions of a random generator; numpy and OpenCV only.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.train.packed_scenes import pack_cells, smooth_noise

__all__ = ["Appearance", "draw_scene", "repaint"]

Appearance = Literal["fluorescence", "stain", "phase", "outline"]
_APPEARANCES: tuple[Appearance, ...] = ("fluorescence", "stain", "phase", "outline")
_APPEARANCE_SHARES = (0.55, 0.2, 0.13, 0.12)

PACKED_SHARE = 0.35
"""Scenes of cells side by side; the others are scattered."""


def draw_scene(
    rng: np.random.Generator, size: int, appearance: Appearance | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A square scene and its labels.

    Parameters
    ----------
    rng : the only source of randomness.
    size : side in px.
    appearance : drawn from the usual mix if None.

    Returns
    -------
    image : uint8 [size, size, 3], RGB, min-max normalised over the image.
    labels : int32 [size, size], 0 background, 1..n cells; a later cell lies on top.
    """
    labels = (pack_cells if rng.random() < PACKED_SHARE else _scatter_cells)(rng, size)
    return repaint(rng, labels, appearance), labels


def repaint(
    rng: np.random.Generator, labels: NDArray[np.int32], appearance: Appearance | None = None
) -> NDArray[np.uint8]:
    """A synthetic picture, uint8 [S, S, 3], of given labels, int32 [S, S]; as ``draw_scene``."""
    if appearance is None:
        appearance = _APPEARANCES[rng.choice(len(_APPEARANCES), p=_APPEARANCE_SHARES)]
    grey = _degrade(rng, _paint(rng, labels, appearance))
    return _coloured(rng, grey, labels, appearance)


def _scatter_cells(rng: np.random.Generator, size: int) -> NDArray[np.int32]:
    labels = np.zeros((size, size), np.int32)
    diameter = float(np.exp(rng.uniform(np.log(7), np.log(min(150, 0.35 * size)))))
    spread = rng.uniform(0.05, 0.35)
    elongation = rng.uniform(1.0, 2.2) if rng.random() < 0.8 else rng.uniform(2.0, 5.0)
    irregularity = rng.choice([0.0, 0.05, 0.12, 0.25])
    cover = rng.uniform(0.05, 0.8)
    most = int(np.clip(cover * size**2 / (0.78 * diameter**2), 1, 800))
    clustering, overlap = rng.uniform(0, 0.7), rng.uniform(0, 0.25)
    centres: list[tuple[float, float, float]] = []
    for label in range(1, most + 1):
        d = diameter * float(np.exp(rng.normal(0, spread)))
        if centres and rng.random() < clustering:
            x0, y0, d0 = centres[rng.integers(len(centres))]
            angle, reach = rng.uniform(0, 2 * np.pi), (d + d0) / 2 * rng.uniform(0.8, 1.05)
            x, y = x0 + reach * np.cos(angle), y0 + reach * np.sin(angle)
        else:
            x, y = rng.uniform(0, size, 2)
        mask, top, left = _cell_mask(rng, d, elongation, irregularity, float(x), float(y), size)
        if mask.sum() < 16:
            continue
        view = labels[top : top + mask.shape[0], left : left + mask.shape[1]]
        if np.count_nonzero(view[mask]) > overlap * mask.sum():
            continue
        view[mask] = label
        centres.append((float(x), float(y), d))
    return labels


def _cell_mask(
    rng: np.random.Generator,
    diameter: float,
    elongation: float,
    irregularity: float,
    x: float,
    y: float,
    size: int,
) -> tuple[NDArray[np.bool_], int, int]:
    """A cell's mask in its own box clipped to the scene, and the box's top and left."""
    ratio = max(1.0, elongation * float(np.exp(rng.normal(0, 0.15))))
    half_long, half_short = diameter / 2 * np.sqrt(ratio), diameter / 2 / np.sqrt(ratio)
    reach = int(np.ceil(half_long * (1.3 + 2 * irregularity))) + 1
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    bottom, right = min(size, int(y) + reach + 1), min(size, int(x) + reach + 1)
    if top >= bottom or left >= right:
        return np.zeros((0, 0), bool), 0, 0
    dy, dx = np.mgrid[top:bottom, left:right].astype(np.float32)
    dy, dx = dy - y, dx - x
    angle = rng.uniform(0, np.pi)
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = -dx * np.sin(angle) + dy * np.cos(angle)
    if ratio > 1.8 and rng.random() < 0.6:  # a rod: all points within half a width of a segment
        beyond = np.maximum(np.abs(along) - (half_long - half_short), 0)
        if rng.random() < 0.3:  # bent, as long bacteria are
            across = across + rng.uniform(-0.3, 0.3) * along**2 / half_long
        return np.hypot(beyond, across) < half_short, top, left
    radius = np.hypot(along / half_long, across / half_short)
    theta = np.arctan2(across, along)
    outline = np.ones_like(theta)
    for order in range(2, 6):
        outline += irregularity / order * rng.normal() * np.cos(order * theta + rng.uniform(0, 7))
    if rng.random() < 0.06:  # dividing: a waist across the long axis
        outline -= 0.45 * np.exp(-((np.abs(theta) - np.pi / 2) ** 2) / 0.15)
    return radius < outline, top, left


def _distance_in_cells(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Distance in px of each cell pixel to the cell's own border; neighbours count as outside."""
    inside = (labels > 0).astype(np.uint8)
    for axis in (0, 1):
        differs = np.diff(labels, axis=axis) != 0
        if axis == 0:
            inside[1:][differs] = 0
        else:
            inside[:, 1:][differs] = 0
    return cv2.distanceTransform(inside, cv2.DIST_L2, 3).astype(np.float32)


def _paint(
    rng: np.random.Generator, labels: NDArray[np.int32], appearance: Appearance
) -> NDArray[np.float32]:
    """Grey values from about 0 (background) to 1 (bright cells); stain and phase are dark."""
    size, count = len(labels), int(labels.max()) + 1
    inside = labels > 0
    variation = rng.uniform(0.05, 0.5)
    level = np.clip(rng.normal(1, variation, count), 0.2, 2).astype(np.float32)
    level[0] = 0
    body = level[labels]
    texture = 1 + rng.uniform(0, 0.35) * smooth_noise(rng, size, rng.uniform(2, 12))
    distance = _distance_in_cells(labels)
    depth = np.minimum(distance / max(1.0, float(distance.max()) * rng.uniform(0.2, 1)), 1)
    rim = np.exp(-((distance - 1.5) ** 2) / (2 * rng.uniform(0.8, 2.5) ** 2)) * inside
    if appearance == "fluorescence":
        domed = 1 - rng.uniform(0, 0.7) * (1 - depth)
        grey = body * texture * domed + rng.choice([0, 0, rng.uniform(0, 0.6)]) * rim * body
        haze = cv2.GaussianBlur(body, (0, 0), rng.uniform(5, 40)) * rng.uniform(0, 0.4)
        if rng.random() < 0.4:  # out of focus, or no cells at all: seen, and not labelled
            debris = np.clip(smooth_noise(rng, size, rng.uniform(10, 60)) - 1, 0, 1)
            haze = haze + rng.uniform(0.05, 0.35) * debris
        return np.asarray(grey + haze + rng.uniform(0, 0.15), np.float32)
    if appearance == "stain":
        grey = body * texture * (0.6 + 0.4 * depth)
        clutter = np.clip(smooth_noise(rng, size, rng.uniform(10, 60)), 0, 1)
        stained = 1.2 - grey * rng.uniform(0.4, 0.9) - clutter * rng.uniform(0, 0.3)
        return np.asarray(stained, np.float32)
    halo = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), rng.uniform(2, 6)) * ~inside
    if appearance == "phase":
        grey = 0.5 - rng.uniform(0.1, 0.5) * body * texture * (0.4 + 0.6 * depth)
        return np.asarray(grey + rng.uniform(0.1, 0.8) * halo, np.float32)
    sign = rng.choice([-1.0, 1.0])
    grey = 0.5 + sign * rng.uniform(0.2, 0.6) * rim + rng.uniform(-0.15, 0.15) * body * texture
    return np.asarray(grey - sign * rng.uniform(0, 0.4) * halo, np.float32)


def _degrade(rng: np.random.Generator, grey: NDArray[np.float32]) -> NDArray[np.float32]:
    size = len(grey)
    if rng.random() < 0.7:
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.4, 2.2)), np.float32)
    if rng.random() < 0.5:
        grey = grey * (1 + rng.uniform(0, 0.35) * smooth_noise(rng, size, size / 2))
    if rng.random() < 0.4:
        grey = grey + rng.uniform(0, 0.25) * smooth_noise(rng, size, rng.uniform(20, size / 2))
    noise = rng.uniform(0, 0.12) * rng.normal(0, 1, grey.shape).astype(np.float32)
    if rng.random() < 0.5:
        noise *= np.sqrt(np.clip(grey, 0.05, None))
    return np.asarray(grey + noise, np.float32)


def _coloured(
    rng: np.random.Generator,
    grey: NDArray[np.float32],
    labels: NDArray[np.int32],
    appearance: Appearance,
) -> NDArray[np.uint8]:
    low, high = np.percentile(grey, [0, rng.choice([99.5, 100])])
    unit = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1)[..., None]
    share = {"fluorescence": 0.1, "stain": 0.8, "phase": 0.05, "outline": 0.1}[appearance]
    if rng.random() >= share:
        image = np.repeat(unit, 3, axis=2)
    else:
        dark, bright = rng.uniform(0, 0.5, 3), rng.uniform(0.6, 1, 3)
        if appearance == "stain":  # haematoxylin and its relatives: violet on pink or white
            dark = np.array([0.35, 0.15, 0.5]) + rng.uniform(-0.15, 0.15, 3)
            bright = np.array([0.95, 0.85, 0.95]) + rng.uniform(-0.1, 0.05, 3)
        tint = 0.05 * smooth_noise(rng, len(labels), 40)[..., None] * rng.normal(0, 1, 3)
        image = np.clip(dark + (bright - dark) * unit + tint, 0, 1)
    return np.asarray(image * 255, np.uint8)

"""Planes of ellipses, and what each tile says of them: cut, shaken, or not at all."""

from __future__ import annotations

import numpy as np
from packing import packed
from plain_stitching import Plain

from cellseg1_rt.runtime.candidates import Found
from cellseg1_rt.runtime.pipeline import Candidates
from cellseg1_rt.settings import InferenceSettings


def ellipses(rng: np.random.Generator, shape, count: int, radii) -> list[np.ndarray]:
    """Masks bool [H, W] that may overlap."""
    ys, xs = np.indices(shape)
    masks = []
    for _ in range(count):
        (y, x), (a, b) = rng.random(2) * shape, rng.uniform(*radii, 2)
        turn = rng.uniform(0, np.pi)
        u = (xs - x) * np.cos(turn) + (ys - y) * np.sin(turn)
        v = (ys - y) * np.cos(turn) - (xs - x) * np.sin(turn)
        mask = (u / a) ** 2 + (v / b) ** 2 <= 1
        if mask.any():
            masks.append(mask)
    return masks


def found_in_tiles(
    rng: np.random.Generator, masks, windows, *, missed: float, shaken: int
) -> list[list[Plain]]:
    """For each tile the masks it sees of each cell, best score first, none overlapping another."""
    tiles = []
    for tile, (y0, x0, y1, x1) in enumerate(windows):
        taken = np.zeros(masks[0].shape, bool)
        seen: list[tuple[float, np.ndarray]] = []
        for mask in masks:
            shift = rng.integers(-shaken, shaken + 1, 2)
            inside = np.zeros(mask.shape, bool)
            inside[y0:y1, x0:x1] = np.roll(mask, shift, (0, 1))[y0:y1, x0:x1]
            inside &= ~taken
            if rng.random() >= missed and inside.any():
                taken |= inside
                seen.append((float(np.float32(rng.uniform(0.8, 1))), inside))
        seen.sort(key=lambda one: -one[0])
        tiles.append(
            [
                Plain(tile, place, (y0, x0, y1, x1), mask, score)
                for place, (score, mask) in enumerate(seen)
            ]
        )
    return tiles


def candidates_of(found: list[Plain], window, settings: InferenceSettings) -> Candidates:
    """What a tile found as the runtime holds it, in pixels of the tile."""
    y0, x0, y1, x1 = window
    local = np.array([one.mask[y0:y1, x0:x1] for one in found]).reshape(-1, y1 - y0, x1 - x0)
    points = [np.argwhere(mask)[0][::-1] for mask in local]
    return Candidates(
        Found(
            np.zeros(len(found), np.int32),
            np.array([one.score for one in found], np.float32),
            np.ones(len(found), np.float32),
            np.array(points, np.float32).reshape(-1, 2),
            packed(local),
        ),
        (y1 - y0, x1 - x0),
        floors=settings,
        settings=settings,
    )

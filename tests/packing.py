"""Masks packed by numpy, for tests of what counts on packed masks."""

from __future__ import annotations

import numpy as np

from cellseg1_rt.runtime.packed import PackedMasks


def packed(masks: np.ndarray) -> PackedMasks:
    """Bool [N, H, W] as packed masks; an empty one has the box 0, 0, 0, 0."""
    boxes, areas, starts, words, end = [], [], [], [np.zeros(0, np.uint32)], 0
    for mask in masks:
        ys, xs = np.nonzero(mask)
        x0, y0, x1, y1 = (
            (int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())) if len(xs) else (0,) * 4
        )
        columns = slice(x0 // 32 * 32, (x1 // 32 + 1) * 32)
        rows = np.zeros((y1 - y0 + 1, columns.stop - columns.start), bool)
        shown = mask[y0 : y1 + 1, columns]
        rows[:, : shown.shape[1]] = shown
        bits = np.packbits(rows.reshape(len(rows), -1, 8), axis=-1, bitorder="little")
        words.append(np.ascontiguousarray(bits[..., 0]).view("<u4").astype(np.uint32).ravel())
        boxes.append((x0, y0, x1, y1))
        areas.append(len(xs))
        starts.append(end)
        end += len(words[-1])
    return PackedMasks(
        np.array(boxes, np.int32).reshape(-1, 4),
        np.array(areas, np.int64),
        np.array(starts, np.int64),
        np.concatenate(words),
    )


def random_masks(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Bool [N, H, W]: noise, blobs, lines, single pixels, and empty ones, in boxes of all sizes."""
    masks = np.zeros((count, height, width), bool)
    for mask in masks:
        ys, xs = (np.sort(rng.integers(0, side + 1, 2)) for side in (height, width))
        density = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        window = mask[ys[0] : ys[1], xs[0] : xs[1]]
        window[:] = rng.random(window.shape) < density
    return masks

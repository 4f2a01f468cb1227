"""Label maps with what outlines and measurements can get wrong, on odd sizes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.formats import read_labels


def _picture(text: str) -> NDArray[np.uint16]:
    rows = text.split()
    return np.array([[int(each.replace(".", "0")) for each in row] for row in rows], np.uint16)


def _random(seed: int, height: int, width: int, cells: int) -> NDArray[np.uint16]:
    """Noise: pieces, holes and corners that touch, in every constellation."""
    found = np.random.default_rng(seed).integers(0, cells + 1, (height, width))
    found.flat[:cells] = np.arange(1, cells + 1)  # none is missing
    return found.astype(np.uint16)


def _blobs(seed: int, height: int, width: int) -> NDArray[np.uint16]:
    """Grown from seeds: convex cells that touch, some cut by the image's edge."""
    rng = np.random.default_rng(seed)
    centres = rng.random((17, 2)) * (height, width)
    rows, columns = np.indices((height, width))
    far = np.hypot(rows[..., None] - centres[:, 0], columns[..., None] - centres[:, 1])
    found = np.where(far.min(axis=2) < 9, far.argmin(axis=2) + 1, 0)
    return np.unique(found, return_inverse=True)[1].reshape(found.shape).astype(np.uint16)


def _sample(path: str) -> NDArray[np.uint16]:
    labels = read_labels(SAMPLES / "labels" / path)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.uint16)


SMALL: dict[str, NDArray[np.uint16]] = {
    "one_pixel": _picture("1"),
    "full": np.ones((5, 7), np.uint16),
    "row": _picture("1223331"),
    "column": _picture("1 2 2 . 1"),
    "corners_of_the_image": _picture("1..2 .... 3..4"),
    "touching": _picture("1122. 1122. 33344 .3344"),
    "hole": _picture("..... .111. .1.1. .111. ....."),
    "cell_in_a_hole": _picture("11111 1...1 1.2.1 1...1 11111"),
    "cell_fills_a_hole": _picture("11111 12221 12321 12221 11111"),
    "bridge": _picture("111.... 1111111 111.111 ....111"),
    "two_pieces": _picture("11..11 11..11 ..22.."),
    "pieces_touch_in_a_corner": _picture("11... 11... ..11. ..11."),
    "two_cells_touch_in_a_corner": _picture("11... 11... ..22. ..22."),
    "crossing_pieces": _picture("12 21"),
    "hole_open_in_a_corner": _picture("1111. 1..1. 1..1. 111.. ....1"),
    "ring_closed_in_a_corner": _picture("11111 1...1 1...1 1..1. 1111."),
    "holes_touch_in_a_corner": _picture("11111 1.111 11.11 111.1 11111"),
    "hole_touches_the_outside": _picture("11111 1.111 11.11 111.. 11111"),
    "comb": _picture("1.1.1.1 1111111 .1.1.1."),
    **{f"noise_{seed}": _random(seed, 11, 13, 1 + seed % 4) for seed in range(12)},
}
"""Small enough for references that go pixel by pixel; cells are 1..K without gaps."""

LARGE: dict[str, NDArray[np.uint16]] = {
    "blobs": _blobs(3, 61, 83),
    "noise": _random(5, 53, 71, 29),
    "sample_nuclei": _sample("8d9b4205ddb1.png"),
    "sample_tissue": _sample("9ebcfaf23229.png"),
}

EMPTY = np.zeros((13, 17), np.uint16)


def many_cells() -> NDArray[np.uint32]:
    """More cells than 16 bits can number, most of one pixel, none touching."""
    labels = np.zeros((523, 521), np.uint32)
    seeds = labels[::2, ::2]
    seeds[...] = np.arange(1, seeds.size + 1).reshape(seeds.shape)
    labels[1, ::2] = labels[0, ::2]
    return labels

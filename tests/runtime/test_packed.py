"""Packed masks: bits against bools, and pixels that two masks share."""

from __future__ import annotations

import numpy as np
import pytest
from packing import packed, random_masks

from cellseg1_rt.runtime.kernels.overlaps import shared_pixels
from cellseg1_rt.runtime.kernels.scalars import count_bits
from cellseg1_rt.runtime.packed import PackedMasks

SIZES = [(1, 1), (1, 31), (3, 2), (5, 32), (7, 33), (29, 64), (41, 67), (13, 131)]


def in_image(masks: PackedMasks, index: int, height: int, width: int) -> np.ndarray:
    x0, y0, x1, y1 = masks.box[index]
    image = np.zeros((height, width), bool)
    image[y0 : y1 + 1, x0 : x1 + 1] = masks.pixels(index)
    return image


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_bits_are_the_pixels(height: int, width: int):
    bools = random_masks(np.random.default_rng([height, width]), 17, height, width)
    masks = packed(bools)
    for index, mask in enumerate(bools):
        np.testing.assert_array_equal(in_image(masks, index, height, width), mask)


def test_take_and_concatenate_keep_each_mask_s_words():
    bools = random_masks(np.random.default_rng(3), 11, 23, 71)
    index = np.array([7, 0, 7, 10])
    both = PackedMasks.concatenate([packed(bools).take(index), packed(bools[:0]), packed(bools)])
    for place, expected in enumerate([*bools[index], *bools]):
        np.testing.assert_array_equal(in_image(both, place, 23, 71), expected)
    assert len(PackedMasks.concatenate([])) == 0


def test_count_bits_of_every_kind_of_word():
    words = np.random.default_rng(5).integers(0, 2**32, 997, dtype=np.uint32)
    for word in [0, 1, 2**31, 2**32 - 1, 0x55555555, *words.tolist()]:
        assert count_bits(word) == word.bit_count()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_shared_pixels_are_those_of_the_bool_masks(height: int, width: int):
    bools = random_masks(np.random.default_rng([height, width, 7]), 13, height, width)
    masks = packed(bools)
    for a in range(len(bools)):
        for b in range(len(bools)):
            shared = shared_pixels(
                masks.box[a], masks.words[masks.start[a] :],
                masks.box[b], masks.words[masks.start[b] :],
            )  # fmt: skip
            assert shared == np.count_nonzero(bools[a] & bools[b])

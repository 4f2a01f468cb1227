"""NMS on packed masks against the reference's, on random masks: ties, lines, empty masks."""

from __future__ import annotations

import numpy as np
import pytest
from packing import packed, random_masks
from reference.inference import nms
from reference.rules import RULES
from reference.rules_masks import box_of_mask

from cellseg1_rt.runtime.nms import suppress


class Silent:
    """A decision log that keeps nothing: these tests compare decisions, not margins."""

    def pair(self, *_: object) -> None:
        pass

    line_pair = pair


def reference_keeps(masks, boxes, ranks, threshold: float) -> list[int]:
    places = list(range(len(masks)))
    return nms(places, boxes, list(masks), list(ranks), threshold, RULES, Silent(), None)


SIZES = [(1, 1), (1, 37), (53, 1), (3, 5), (31, 33), (47, 67), (61, 131)]


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_keeps_what_the_reference_keeps(height: int, width: int, threshold: float):
    rng = np.random.default_rng([height, width])
    for _ in range(7):
        masks = random_masks(rng, 23, height, width)
        masks[rng.integers(0, 23, 5)] = masks[3]
        ranks = rng.choice(np.float32([0.25, 0.5, 0.75, 0.8]), 23)
        kept = suppress(packed(masks), ranks, threshold)
        boxes = [box_of_mask(mask) for mask in masks]
        assert kept.tolist() == reference_keeps(masks, boxes, ranks, threshold)


def test_pairs_are_found_by_the_boxes_given_and_compared_by_their_own_pixels():
    """As in rule 6: boxes of cleaned masks, IoU of the originals, which may stick out of them."""
    rng = np.random.default_rng(29)
    told_apart = 0
    for _ in range(31):
        masks = random_masks(rng, 17, 41, 71)
        others = [box_of_mask(mask) for mask in random_masks(rng, 17, 41, 71)]
        ranks = rng.choice(np.float32([0, 1]), 17)
        kept = suppress(packed(masks), ranks, 0.05, boxes=np.array(others, np.int32)).tolist()
        assert kept == reference_keeps(masks, others, ranks, 0.05)
        told_apart += kept != suppress(packed(masks), ranks, 0.05).tolist()
    assert told_apart > 10


def test_ranks_that_are_not_numbers_come_last():
    masks = np.zeros((3, 11, 13), bool)
    masks[:, 2:7, 3:9] = True
    assert suppress(packed(masks), np.float32([np.nan, 0.1, np.nan]), 0.5).tolist() == [1]
    assert suppress(packed(masks), np.float32([np.nan, 0.1, np.nan]), 1.0).tolist() == [1, 0, 2]


def test_nothing_to_suppress():
    none = packed(np.zeros((0, 3, 5), bool))
    assert suppress(none, np.zeros(0, np.float32), 0.05).tolist() == []

"""Sizes in the card's memory against sums by hand, and the search against trying every batch."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from cellseg1_rt.engine.memory import buffer_bytes, footprint, largest_batch
from cellseg1_rt.engine_files import Figures, Span

PROFILE = {"B": Span(1, 2, 3), "N": Span(1, 5, 11), "M": Span(1, 2, 7)}


@pytest.mark.parametrize("precision, item", [("fp32", 4), ("fp16", 2), ("bf16", 2)])
def test_buffers_by_hand(tiny_manifest, precision: str, item: int):
    """At 80 px the grid is 5, so 25 positions and logits of 20 × 20."""
    manifest = replace(tiny_manifest, image_size=80, precision=precision)
    assert buffer_bytes(manifest, PROFILE) == {
        "image": 3 * 80 * 80 * 3,
        "size": 3 * 2 * 4,
        "embedding": 3 * 256 * 5 * 5 * item,
        "points": 11 * 2 * 4,
        "score": 11 * 4,
        "hyper": 11 * 32 * item,
        "keys": 11 * 25 * 256 * item,
        "index": 7 * 8,
        "logits": 7 * 20 * 20 * 4,
        "survivors": 11 * 20 * 20 * 4,
    }


def test_a_footprint_adds_up(tiny_manifest):
    figures = {
        "encoder": Figures(1, 0.5, 1000, 17),
        "prompt_decoder": Figures(2, 0.5, 200, 19),
        "mask_head": Figures(3, 0.5, 30, 23),
    }
    total = footprint(tiny_manifest, PROFILE, figures)
    assert total.weights_bytes == 59
    assert total.activation_bytes == 1230
    assert total.total_bytes == 1289 + sum(buffer_bytes(tiny_manifest, PROFILE).values())


def by_trying_all(sizes: list[int], budget: int, step: int) -> int | None:
    fitting = [n for n in range(step, len(sizes), step) if sizes[n] <= budget]
    return max(fitting, default=None)


@pytest.mark.parametrize("seed", range(60))
def test_the_search_finds_what_trying_all_finds(seed: int):
    """Sizes that grow evenly, in jumps, or hardly at all."""
    draw = random.Random(seed)
    too_many = draw.choice([1, 2, 3, 7, 31, 32, 33, 100, 257, 1024])
    jumps = draw.choice([(3, 3), (0, 9), (0, 0, 0, 400), (1, 2, 3, 50)])
    sizes = [draw.randrange(1000)]
    for _ in range(too_many):
        sizes.append(sizes[-1] + draw.choice(jumps))
    sizes[too_many] += 1
    budget = draw.randrange(sizes[0] - 1, sizes[too_many])
    asked: list[int] = []

    def size_of(batch: int) -> int:
        assert batch < too_many  # that size is known
        asked.append(batch)
        return sizes[batch]

    found = largest_batch(size_of, budget, too_many, sizes[too_many])
    expected = by_trying_all(sizes[:too_many], budget, max(1, too_many // 32))
    assert found == (None if expected is None else (expected, sizes[expected]))
    assert len(asked) == len(set(asked))  # each is a build


def test_where_sizes_are_a_line_three_builds_do():
    asked: list[int] = []

    def size_of(batch: int) -> int:
        asked.append(batch)
        return 1000 + 4 * batch

    assert largest_batch(size_of, 1000 + 4 * 700, 1024, 1000 + 4 * 1024) == (672, 3688)
    assert asked == [32, 672, 704]

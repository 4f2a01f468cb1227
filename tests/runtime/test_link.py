"""Slices linked into a stack, against pairs compared mask by mask."""

from __future__ import annotations

import numpy as np
import pytest
from tile_scenes import ellipses

from cellseg1_rt.runtime.link import SliceLinker


def iou(a, b) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def linked_plainly(slices, least: float) -> list[np.ndarray]:
    """The rule of ``SliceLinker``, on whole masks."""
    done: list[np.ndarray] = []
    count = 0
    for labels in slices:
        own = [int(n) for n in np.unique(labels) if n]
        former = [int(n) for n in np.unique(done[-1]) if n] if done else []
        table = {
            (a, b): iou(done[-1] == a, labels == b)
            for a in former
            for b in own
            if ((done[-1] == a) & (labels == b)).any()
        }
        numbers = {}
        for b in own:
            rivals = [(-value, a) for (a, other), value in table.items() if other == b]
            if not rivals:
                continue
            value, a = min(rivals)
            best_of_a = min((-v, other) for (mine, other), v in table.items() if mine == a)[1]
            if best_of_a == b and -value >= least:
                numbers[b] = a
        result = np.zeros(labels.shape, np.uint32)
        for b in own:
            if b not in numbers:
                count += 1
                numbers[b] = count
            result[labels == b] = numbers[b]
        done.append(result)
    return done


def stack(seed: int, slices: int, shape=(61, 83)) -> list[np.ndarray]:
    """Ellipses that drift, come, go, meet and are numbered anew in each slice, with gaps."""
    rng = np.random.default_rng(seed)
    cells = ellipses(rng, shape, 25, (2, 9))
    found = []
    for _ in range(slices):
        labels = np.zeros(shape, np.int32)
        for number in rng.permutation(len(cells)):
            if rng.random() < 0.85:
                labels[np.roll(cells[number], rng.integers(-3, 4, 2), (0, 1))] = 3 * number + 2
        found.append(labels)
    return found


@pytest.mark.parametrize("least", [0.05, 0.25, 0.6])
@pytest.mark.parametrize("seed", range(4))
def test_linked_as_by_the_rule(seed, least):
    slices = stack(seed, 5)
    linker = SliceLinker(least)
    expected = linked_plainly(slices, least)
    for labels, same in zip(slices, expected, strict=True):
        found = linker.add(labels)
        assert found.dtype == np.uint32
        np.testing.assert_array_equal(found, same)
    numbers = np.unique(np.stack(expected))
    assert numbers.tolist() == list(range(linker.cells + 1))
    assert linker.cells > 25


def row(*labels: int) -> np.ndarray:
    return np.array([labels], np.uint16)


CASES = {
    "divides": ([row(1, 1, 1, 1, 1), row(1, 1, 1, 2, 2)], [row(1, 1, 1, 1, 1), row(1, 1, 1, 2, 2)]),
    "meets": ([row(1, 1, 2, 2, 2), row(7, 7, 7, 7, 7)], [row(1, 1, 2, 2, 2), row(2, 2, 2, 2, 2)]),
    "of_equals_the_lower": ([row(4, 4, 9, 9), row(5, 5, 5, 5)], [row(1, 1, 2, 2), row(1, 1, 1, 1)]),
    "too_little": (
        [row(1, 1, 1, 1, 1, 0), row(0, 0, 0, 0, 1, 1)],
        [row(1, 1, 1, 1, 1, 0), row(0, 0, 0, 0, 2, 2)],
    ),
    "missed_once": (
        [row(1, 1, 0), row(0, 0, 0), row(1, 1, 0)],
        [row(1, 1, 0), row(0, 0, 0), row(2, 2, 0)],
    ),
    "nothing": ([row(0, 0, 0), row(0, 0, 0)], [row(0, 0, 0), row(0, 0, 0)]),
}


@pytest.mark.parametrize("name", CASES)
def test_small_cases(name):
    slices, expected = CASES[name]
    linker = SliceLinker()
    for labels, same in zip(slices, expected, strict=True):
        np.testing.assert_array_equal(linker.add(labels), same)


def test_slices_of_two_sizes():
    linker = SliceLinker()
    linker.add(row(1, 1))
    with pytest.raises(ValueError, match="a slice of"):
        linker.add(row(1, 1, 1))

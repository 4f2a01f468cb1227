"""Runs: the stretches of set pixels in each row of a mask, and the regions they form.

A mask's runs lie in raster order in an int32 [R, 3] array of (row, first, end), ``end`` exclusive.
Regions are found by joining runs that touch in neighbouring rows (union-find); a region is known by
its first run in raster order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime.kernels.compiling import compiled
from cellseg1_rt.runtime.kernels.scalars import word_of

__all__ = ["count_runs", "find_runs", "join_runs", "largest_region"]

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Words = NDArray[np.uint32]


@compiled
def count_runs(box: Ints, words: Words) -> int:
    """Runs of a packed mask: pixels that are set and whose left neighbour is not."""
    width = word_of(box[2]) - word_of(box[0]) + 1
    count = 0
    for y in range(box[3] - box[1] + 1):
        before = np.int64(0)
        for column in range(width):
            word = np.int64(words[y * width + column])
            begins = word & ~((word << 1) | before)
            while begins:
                begins &= begins - 1
                count += 1
            before = word >> 31
    return count


@compiled
def find_runs(box: Ints, words: Words, runs: Ints) -> int:
    """Write the runs of a packed mask, image pixels, into ``runs``; how many there are."""
    first_word = word_of(box[0])
    width = word_of(box[2]) - first_word + 1
    count = 0
    for y in range(box[3] - box[1] + 1):
        inside = False
        for column in range(width):
            word = np.int64(words[y * width + column])
            if word == (0xFFFFFFFF if inside else 0):
                continue
            for bit in range(32):
                if ((word >> bit) & 1) != inside:
                    x = ((first_word + column) << 5) + bit
                    if inside:
                        runs[count - 1, 2] = x
                    else:
                        runs[count, 0], runs[count, 1] = y + box[1], x
                        count += 1
                    inside = not inside
        if inside:
            runs[count - 1, 2] = (first_word + width) << 5
    return count


@compiled
def join_runs(runs: Ints, reach: int, root: Ints, area: Longs) -> None:
    """Regions of runs.

    Parameters
    ----------
    runs : int32 [R, 3] in raster order.
    reach : 1 where pixels that meet in a corner are connected (8-connected), 0 where not.
    root : int32 [R], written: the first run of the region that each belongs to.
    area : int64 [R], written: pixels of the region at its first run, 0 elsewhere.
    """
    above = 0  # the first run of the row before that can still meet this one
    for run in range(len(runs)):
        root[run] = run
        row, first, end = runs[run, 0], runs[run, 1], runs[run, 2]
        while runs[above, 0] < row and (
            runs[above, 0] < row - 1 or runs[above, 2] + reach <= first
        ):
            above += 1
        other = above
        while runs[other, 0] == row - 1 and runs[other, 1] < end + reach:
            _join(root, run, other)
            other += 1
    area[:] = 0
    for run in range(len(runs)):
        root[run] = root[root[run]]  # a root comes before its runs, and is settled by now
        area[root[run]] += runs[run, 2] - runs[run, 1]


@compiled
def _join(root: Ints, run: int, other: int) -> None:
    """Give two runs' regions one root, the earlier one."""
    while root[run] != run:
        root[run] = root[root[run]]
        run = root[run]
    while root[other] != other:
        root[other] = root[root[other]]
        other = root[other]
    root[max(run, other)] = min(run, other)


@compiled
def largest_region(area: Longs) -> int:
    """Root of the region with most pixels, of equal ones the first in raster order; -1 for none."""
    best, best_area = -1, 0
    for run in range(len(area)):
        if area[run] > best_area:
            best, best_area = run, area[run]
    return best

"""Small holes filled and small islands dropped, on runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime.kernels.compiling import compiled, inlined
from cellseg1_rt.runtime.kernels.runs import count_runs, find_runs, join_runs, largest_region

__all__ = ["clean_masks", "count_all_runs"]

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Flags = NDArray[np.bool_]
Words = NDArray[np.uint32]


@compiled
def count_all_runs(boxes: Ints, start: Longs, words: Words, counts: Longs) -> None:
    """Runs of each of N packed masks, int64 [N], written."""
    for mask in range(len(boxes)):
        counts[mask] = count_runs(boxes[mask], words[start[mask] :])


@compiled
def clean_masks(
    boxes: Ints,
    start: Longs,
    words: Words,
    run_counts: Longs,
    windows: Ints,
    min_area: int,
    runs: Ints,
    run_start: Longs,
    changed: Flags,
) -> None:
    """Rule 6 but for its NMS: the cleaned runs of N packed masks.

    Parameters
    ----------
    boxes, start, words : of ``PackedMasks``.
    run_counts : int64 [N], of ``count_all_runs``.
    windows : int32 [N, 4], x0, y0, x1, y1 with exclusive ends: where a small hole of the mask can
        be; background that goes on outside has at least ``min_area`` pixels inside.
    min_area : px; smaller holes and islands go.
    runs : int32 [..., 3], written: the runs of all masks, one mask after another; a mask needs room
        for its runs and one more in each row of its window.
    run_start : int64 [N + 1], written: where each mask's runs begin.
    changed : bool [N], written: whether there was a small hole or island.
    """
    run_start[0] = 0
    for mask in range(len(boxes)):
        found = np.empty((run_counts[mask], 3), np.int32)
        find_runs(boxes[mask], words[start[mask] :], found)
        room = runs[run_start[mask] :]
        count, had_holes = _fill_holes(found, windows[mask], min_area, room)
        count, had_islands = _drop_islands(room[:count], min_area)
        changed[mask] = had_holes or had_islands
        run_start[mask + 1] = run_start[mask] + count


@compiled
def _background(runs: Ints, window: Ints, gaps: Ints) -> int:
    """Write the runs of a window that are not in ``runs``; how many there are."""
    x0, y0, x1, y1 = window[0], window[1], window[2], window[3]
    run, count = 0, 0
    for y in range(y0, y1):
        x = x0
        while run < len(runs) and runs[run, 0] == y:
            if runs[run, 1] > x:
                gaps[count, 0], gaps[count, 1], gaps[count, 2] = y, x, runs[run, 1]
                count += 1
            x = runs[run, 2]
            run += 1
        if x < x1:
            gaps[count, 0], gaps[count, 1], gaps[count, 2] = y, x, x1
            count += 1
    return count


@compiled
def _fill_holes(runs: Ints, window: Ints, min_area: int, filled: Ints) -> tuple[int, bool]:
    """Write the runs with small holes filled; how many, and whether there was a hole."""
    gaps = np.empty((len(runs) + window[3] - window[1], 3), np.int32)
    gaps = gaps[: _background(runs, window, gaps)]
    root, area = np.empty(len(gaps), np.int32), np.empty(len(gaps), np.int64)
    join_runs(gaps, 1, root, area)
    count, run, had_holes = 0, 0, False
    for gap in range(len(gaps)):
        if area[root[gap]] >= min_area:
            continue
        had_holes = True
        while run < len(runs) and _comes_before(runs[run], gaps[gap]):
            count = _append(filled, count, runs[run])
            run += 1
        count = _append(filled, count, gaps[gap])
    while run < len(runs):
        count = _append(filled, count, runs[run])
        run += 1
    return count, had_holes


@inlined
def _comes_before(run: Ints, other: Ints) -> bool:
    """Whether a run comes before another in raster order."""
    return bool(run[0] < other[0] or (run[0] == other[0] and run[1] < other[1]))


@compiled
def _append(runs: Ints, count: int, run: Ints) -> int:
    """Write a run after ``count`` others, joined to the last if they touch; how many there are."""
    if count and runs[count - 1, 0] == run[0] and runs[count - 1, 2] == run[1]:
        runs[count - 1, 2] = run[2]
        return count
    runs[count, 0], runs[count, 1], runs[count, 2] = run[0], run[1], run[2]
    return count + 1


@compiled
def _drop_islands(runs: Ints, min_area: int) -> tuple[int, bool]:
    """Keep the runs of large islands, in place; how many, and whether there was a small one.

    Where all are small the largest stays; that too counts as a small one.
    """
    root, area = np.empty(len(runs), np.int32), np.empty(len(runs), np.int64)
    join_runs(runs, 1, root, area)
    largest = largest_region(area)
    all_small = largest >= 0 and area[largest] < min_area
    count, had_islands = 0, False
    for run in range(len(runs)):
        is_small = area[root[run]] < min_area
        had_islands |= is_small
        if not is_small or (all_small and root[run] == largest):
            for column in range(3):
                runs[count, column] = runs[run, column]
            count += 1
    return count, had_islands

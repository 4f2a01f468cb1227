"""Labels of the slices of a stack linked into labels of the whole: a cell keeps its number.

One pass from the first slice to the last; the slice before is all that is held. Imports numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LINK_IOU", "SliceLinker"]

LINK_IOU = 0.25
"""Least IoU of two cells in neighbouring slices to be one."""


class SliceLinker:
    """Gives the cells of each slice the numbers that they have in the stack.

    Two cells of neighbouring slices are one if their IoU is at least ``least_iou`` and each is the
    other's best: of equal IoUs the lower number counts. So a cell goes on in one cell of the next
    slice at most: where it divides, the more alike part goes on and the other is new, and where two
    meet, the more alike one goes on and the other ends. A cell that is missed in one slice begins
    anew in the next.

    Numbers are 1, 2, 3 ... in the order in which cells are first seen, slice by slice and inside a
    slice by the slice's own labels. There are no gaps.

    Parameters
    ----------
    least_iou : above 0, at most 1.
    """

    def __init__(self, least_iou: float = LINK_IOU) -> None:
        self._least_iou = least_iou
        self._before: NDArray[np.uint32] | None = None
        self._count = 0

    @property
    def cells(self) -> int:
        """How many there are in the slices so far."""
        return self._count

    def add(self, labels: NDArray[Any]) -> NDArray[np.uint32]:
        """The next slice with the stack's numbers.

        Parameters
        ----------
        labels : integer [H, W], 0 is background; every slice of one size. Numbers may have gaps.

        Returns
        -------
        uint32 [H, W].

        Raises
        ------
        ValueError : if the size is not that of the slice before.
        """
        own, places = np.unique(labels, return_inverse=True)
        cells = places.reshape(labels.shape) + (0 if own[0] == 0 else 1)
        count = int(cells.max())
        numbers = np.zeros(count + 1, np.uint32)
        if self._before is not None:
            if labels.shape != self._before.shape:
                raise ValueError(f"a slice of {labels.shape} after one of {self._before.shape}")
            before, place = _mutual_best(self._before, cells, count, self._least_iou)
            numbers[place] = before
        new = np.flatnonzero(numbers[1:] == 0) + 1
        numbers[new] = np.arange(self._count + 1, self._count + 1 + len(new))
        self._count += len(new)
        self._before = numbers[cells]
        return self._before.copy()


def _mutual_best(
    before: NDArray[np.uint32], cells: NDArray[np.int64], count: int, least_iou: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of a number in the slice before and a cell 1..count that are each other's best."""
    known, places = np.unique(before, return_inverse=True)
    places = places.reshape(before.shape)
    both = (before > 0) & (cells > 0)
    pairs, common = np.unique(places[both] * (count + 1) + cells[both], return_counts=True)
    first, second = np.divmod(pairs, count + 1)
    area_first = np.bincount(places.ravel(), minlength=len(known))
    area_second = np.bincount(cells.ravel(), minlength=count + 1)
    iou = common / (area_first[first] + area_second[second] - common)
    # Pairs rise by their numbers, so that the first of the best is the one of the lower number.
    best_of_first = _first_best(first, iou, len(known))
    best_of_second = _first_best(second, iou, count + 1)
    index = np.arange(len(pairs))
    is_mutual = (best_of_first[first] == index) & (best_of_second[second] == index)
    chosen = is_mutual & (iou >= least_iou)
    return known[first[chosen]].astype(np.int64), second[chosen]


def _first_best(owner: NDArray[np.int64], iou: NDArray[np.float64], count: int) -> NDArray[Any]:
    """For each owner the place of its highest IoU, of equal ones the first; 0 where it has none."""
    order = np.lexsort((np.arange(len(owner)), -iou, owner))
    found = np.zeros(count, np.int64)
    owners, at = np.unique(owner[order], return_index=True)
    found[owners] = order[at]
    return found

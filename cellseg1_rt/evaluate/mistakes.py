"""Kinds of mistakes in one image: missed, false, split and merged cells.

A cell lies *mostly* in another if more than half of its area does. With matches at IoU 0.5:

- A **split** cell is a true cell in which at least two predicted cells mostly lie: its parts.
- A **merged** cell is a predicted cell in which at least two true cells mostly lie: its parts.
- A **missed** cell is a true one without a match, neither split nor a part of a merged cell.
- A **false** cell is a predicted one without a match, neither merged nor a part of a split cell.

A split or merged cell may be matched all the same, if one part is most of it. A part is matched
with its whole or not at all: another partner would have to hold half of it as well. A cell that
was found but badly outlined (IoU below 0.5) is missed, and what was found is false. Imports numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.evaluate.metrics import match_cells

__all__ = ["MATCH_IOU", "Mistakes", "find_mistakes"]

MATCH_IOU = 0.5
"""IoU from which two cells match. Below it a part could match what is not its whole."""


@dataclass(frozen=True)
class Mistakes:
    """Labels of the cells of one image by kind of mistake, each in ascending order.

    Attributes
    ----------
    missed, split : integer [M], labels in the true map.
    false, merged : integer [M], labels in the predicted map.
    split_parts : integer [M], labels in the predicted map: the parts of split cells.
    merged_parts : integer [M], labels in the true map: the parts of merged cells. A true cell can
        be split and a part of a merged cell at once.
    """

    missed: NDArray[Any]
    false: NDArray[Any]
    split: NDArray[Any]
    merged: NDArray[Any]
    split_parts: NDArray[Any]
    merged_parts: NDArray[Any]


def find_mistakes(pred: NDArray[Any], true: NDArray[Any]) -> Mistakes:
    """Find the mistakes of one image, at IoU 0.5.

    Parameters
    ----------
    pred, true : integer label maps of one shape, 0 is background, gaps are fine.

    Raises
    ------
    InputError : if the maps differ in shape, are not integers, or hold a negative label.
    """
    matches = match_cells(pred, true, MATCH_IOU)
    split, split_parts = _in_parts(pred, true)
    merged, merged_parts = _in_parts(true, pred)
    return Mistakes(
        missed=_others(true, matches.true_label, split, merged_parts),
        false=_others(pred, matches.pred_label, merged, split_parts),
        split=split,
        merged=merged,
        split_parts=split_parts,
        merged_parts=merged_parts,
    )


def _in_parts(inner: NDArray[Any], outer: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cells of ``outer`` in which several of ``inner`` mostly lie; and those."""
    parts, wholes = _mostly_inside(inner, outer)
    found, counts = np.unique(wholes, return_counts=True)
    several = found[counts >= 2]
    return several, parts[np.isin(wholes, several)]


def _mostly_inside(inner: NDArray[Any], outer: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cells of ``inner`` with more than half of their area in one of ``outer``; and that one."""
    cells, ranks, areas = np.unique(inner[inner > 0], return_inverse=True, return_counts=True)
    hosts, host_ranks = np.unique(outer[inner > 0], return_inverse=True)
    codes, shared = np.unique(ranks * len(hosts) + host_ranks, return_counts=True)
    cell, host = np.divmod(codes, max(len(hosts), 1))
    mostly = (2 * shared > areas[cell]) & (hosts[host] > 0)
    return cells[cell[mostly]], hosts[host[mostly]]


def _others(labels: NDArray[Any], *explained: NDArray[Any]) -> NDArray[Any]:
    """The cells of a map that are in none of ``explained``."""
    cells = np.unique(labels)
    return cells[(cells > 0) & ~np.isin(cells, np.concatenate(explained))]

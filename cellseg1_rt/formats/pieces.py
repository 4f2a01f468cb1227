"""The connected pieces of cells in a label map, where touching cells stay apart.

Imports numpy and scipy (graphs).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["pieces_from_labels"]


def pieces_from_labels(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Number the 4-connected pieces of all cells: one number belongs to one piece of one cell.

    Runs of equal labels along rows are the nodes of a graph, and runs of a cell that meet in
    neighbouring rows its edges. That is far fewer than pixels.

    Parameters
    ----------
    labels : integer [H, W], 0 is background.

    Returns
    -------
    int32 [H, W], 0 is background. Numbers have gaps and rise in reading order of the pieces' first
    pixels.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    starts = np.ones(labels.shape, np.bool_)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = np.cumsum(starts, dtype=np.int32).reshape(labels.shape) - 1
    meets = (labels[1:] == labels[:-1]) & (labels[1:] > 0)
    # Of a stretch in which the same two runs meet, the first pixel stands for all.
    first = meets.copy()
    first[:, 1:] &= ~meets[:, :-1] | starts[1:, 1:] | starts[:-1, 1:]
    upper, lower = runs[:-1][first], runs[1:][first]
    count = int(runs[-1, -1]) + 1
    graph = coo_matrix((np.ones(len(upper), np.int8), (upper, lower)), shape=(count, count))
    _, piece_of_run = connected_components(graph, directed=False)
    numbers = np.where(labels[starts] > 0, piece_of_run + 1, 0).astype(np.int32)
    return np.asarray(numbers[runs])

"""The published metric: average precision of one label map against another.

AP at an IoU threshold t is TP / (TP + FP + FN), TP being the size of a maximum matching between
predicted and true cells with IoU >= t. Two empty maps agree: AP is 1. Averages over images and
reports are not made here. Imports numpy and scipy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellseg1_rt.errors import ConfigError, InputError

__all__ = ["Counts", "Matches", "average_precision", "match_cells", "match_counts"]


@dataclass(frozen=True)
class Counts:
    """Cells of one image at one IoU threshold.

    Attributes
    ----------
    threshold : IoU from which a pair may match, above 0, at most 1.
    tp, fp, fn : matched cells, predicted cells without a match, true cells without one.
    """

    threshold: float
    tp: int
    fp: int
    fn: int

    @property
    def average_precision(self) -> float:
        """AP: tp / (tp + fp + fn), 0..1; 1 if there are no cells at all."""
        total = self.tp + self.fp + self.fn
        return self.tp / total if total else 1.0


@dataclass(frozen=True)
class Matches:
    """The matched pairs of one image, in the order of the predicted labels.

    Attributes
    ----------
    pred_label, true_label : integer [M], the labels of a pair in their maps.
    iou : float64 [M], intersection over union of a pair, from the threshold to 1.
    """

    pred_label: NDArray[Any]
    true_label: NDArray[Any]
    iou: NDArray[np.float64]


@dataclass(frozen=True)
class _Overlaps:
    """Pairs of cells that share a pixel: indices into the labels [Np], [Nt] and IoU, each [P]."""

    pred_labels: NDArray[Any]
    true_labels: NDArray[Any]
    pred: NDArray[np.intp]
    true: NDArray[np.intp]
    iou: NDArray[np.float64]


def match_counts(
    pred: NDArray[Any], true: NDArray[Any], thresholds: Sequence[float]
) -> tuple[Counts, ...]:
    """Count matches at each of ``thresholds``.

    Parameters
    ----------
    pred, true : integer label maps of one shape, 0 is background, gaps are fine.
    thresholds : IoU thresholds, each above 0 and at most 1.

    Raises
    ------
    InputError : if the maps differ in shape, are not integers, or hold a negative label.
    ConfigError : if a threshold is out of range.
    """
    _require_thresholds(thresholds)
    overlaps = _overlaps(pred, true)
    n_pred, n_true = len(overlaps.pred_labels), len(overlaps.true_labels)
    counts = []
    for threshold in thresholds:
        tp = len(_matching(overlaps, threshold))
        counts.append(Counts(float(threshold), tp, n_pred - tp, n_true - tp))
    return tuple(counts)


def average_precision(pred: NDArray[Any], true: NDArray[Any], threshold: float = 0.5) -> float:
    """AP at one IoU threshold, 0..1. Parameters and errors are those of ``match_counts``."""
    return match_counts(pred, true, (threshold,))[0].average_precision


def match_cells(pred: NDArray[Any], true: NDArray[Any], threshold: float = 0.5) -> Matches:
    """Match as many pairs with IoU >= ``threshold`` as possible, then the best in total IoU.

    Parameters and errors are those of ``match_counts``.
    """
    _require_thresholds((threshold,))
    overlaps = _overlaps(pred, true)
    chosen = _matching(overlaps, threshold)
    return Matches(
        overlaps.pred_labels[overlaps.pred[chosen]],
        overlaps.true_labels[overlaps.true[chosen]],
        overlaps.iou[chosen],
    )


def _require_thresholds(thresholds: Sequence[float]) -> None:
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise ConfigError(
                "an IoU threshold out of range", got=threshold, expected="above 0, at most 1"
            )


def _overlaps(pred: NDArray[Any], true: NDArray[Any]) -> _Overlaps:
    if pred.shape != true.shape:
        raise InputError(
            "label maps of different shapes",
            got=f"predicted {pred.shape}, true {true.shape}",
            expected="one shape",
            fix="compare maps of the same image at the same size",
        )
    pred_labels, pred_ranks, pred_areas = _ranked(pred, "predicted labels")
    true_labels, true_ranks, true_areas = _ranked(true, "true labels")
    shared = (pred_ranks > 0) & (true_ranks > 0)
    width = len(true_labels)
    codes, inter = np.unique(
        (pred_ranks[shared] - 1) * width + (true_ranks[shared] - 1), return_counts=True
    )
    i, j = (codes // width, codes % width) if width else (codes, codes)
    iou = inter / (pred_areas[i] + true_areas[j] - inter)
    return _Overlaps(pred_labels, true_labels, i, j, iou)


def _ranked(
    labels: NDArray[Any], where: str
) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[np.intp]]:
    """The cells' labels [K] in order, each pixel's rank (0 is background, 1..K), the areas [K]."""
    if labels.dtype.kind not in "bui":
        raise InputError(
            "not a label map",
            where=where,
            got=f"dtype {labels.dtype}",
            expected="integers",
        )
    if labels.size and labels.min() < 0:
        raise InputError(
            "a negative label", where=where, got=int(labels.min()), expected="0 or above"
        )
    found, ranks, areas = np.unique(labels, return_inverse=True, return_counts=True)
    if found.size and found[0] == 0:
        return found[1:], ranks.ravel(), areas[1:]
    return found, ranks.ravel() + 1, areas


def _matching(overlaps: _Overlaps, threshold: float) -> NDArray[np.intp]:
    """Indices [M] of the pairs of a maximum matching among those with IoU >= ``threshold``."""
    candidates = np.flatnonzero(overlaps.iou >= threshold)
    i, j = overlaps.pred[candidates], overlaps.true[candidates]
    # Pairs that compete with no other are in every maximum matching; above 0.5 that is all of them.
    contested = (np.bincount(i)[i] > 1) | (np.bincount(j)[j] > 1)
    if not contested.any():
        return candidates
    chosen = [candidates[~contested]]
    rest = candidates[contested]
    groups = _groups(overlaps.pred[rest], overlaps.true[rest])
    order = np.argsort(groups, kind="stable")
    pieces = np.split(rest[order], np.flatnonzero(np.diff(groups[order])) + 1)
    chosen += [_assigned(overlaps, group) for group in pieces]
    return np.sort(np.concatenate(chosen))


def _groups(i: NDArray[np.intp], j: NDArray[np.intp]) -> NDArray[np.intp]:
    """Group number [P] of pairs (i, j) [P]: pairs that share a cell, directly or not, share one."""
    n = int(i.max()) + 1
    graph = coo_array((np.ones(len(i), np.bool_), (i, n + j)), shape=(n + int(j.max()) + 1,) * 2)
    _, component = connected_components(graph, directed=False)
    return np.asarray(component[i], np.intp)


def _assigned(overlaps: _Overlaps, pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """The pairs of a maximum matching within one group of competing ones."""
    rows, i = np.unique(overlaps.pred[pairs], return_inverse=True)
    columns, j = np.unique(overlaps.true[pairs], return_inverse=True)
    gain = np.zeros((len(rows), len(columns)))
    # One more pair always outweighs any IoU: all IoUs together add up to less than 1.
    gain[i, j] = 1 + overlaps.iou[pairs] / (2 * min(gain.shape))
    taken_rows, taken_columns = linear_sum_assignment(gain, maximize=True)
    taken = np.zeros(gain.shape, np.bool_)
    taken[taken_rows, taken_columns] = True
    return pairs[taken[i, j]]

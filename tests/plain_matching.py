"""Matching and mistakes in plain Python on sets of pixels, sharing no code with the package."""

from __future__ import annotations

import numpy as np


def cells_of(labels):
    """{label: set of flat pixel indices}."""
    return {int(i): set(np.flatnonzero(labels == i).tolist()) for i in np.unique(labels) if i}


def iou(a, b):
    return len(a & b) / len(a | b)


def matched_pairs(pred, true, threshold):
    """A maximum matching [(pred label, true label)] by augmenting paths, one true cell a time."""
    pred_cells, true_cells = cells_of(pred), cells_of(true)
    partner = {}

    def augment(t, tried):
        for p in pred_cells:
            if p in tried or iou(pred_cells[p], true_cells[t]) < threshold:
                continue
            tried.add(p)
            if p not in partner or augment(partner[p], tried):
                partner[p] = t
                return True
        return False

    for t in true_cells:
        augment(t, set())
    return sorted(partner.items())


def counts(pred, true, threshold):
    """(tp, fp, fn)"""
    tp = len(matched_pairs(pred, true, threshold))
    return tp, len(cells_of(pred)) - tp, len(cells_of(true)) - tp


def contested(pred, true, threshold):
    """Whether a cell could be matched with more than one other."""
    pred_cells, true_cells = cells_of(pred), cells_of(true)
    pairs = [
        (p, t) for p in pred_cells for t in true_cells
        if iou(pred_cells[p], true_cells[t]) >= threshold
    ]  # fmt: skip
    return any(len({pair[side] for pair in pairs}) < len(pairs) for side in (0, 1))


def held(wholes, parts):
    """{whole: parts with more than half of their pixels in it}, of those with two or more."""
    found = {
        w: [p for p, pixels in parts.items() if 2 * len(pixels & whole) > len(pixels)]
        for w, whole in wholes.items()
    }
    return {w: inside for w, inside in found.items() if len(inside) >= 2}


def mistakes(pred, true):
    """{kind: labels} at IoU 0.5."""
    pred_cells, true_cells = cells_of(pred), cells_of(true)
    pairs = matched_pairs(pred, true, 0.5)
    split, merged = held(true_cells, pred_cells), held(pred_cells, true_cells)
    split_parts = {p for parts in split.values() for p in parts}
    merged_parts = {t for parts in merged.values() for t in parts}
    return {
        "missed": set(true_cells) - {t for _, t in pairs} - set(split) - merged_parts,
        "false": set(pred_cells) - {p for p, _ in pairs} - set(merged) - split_parts,
        "split": set(split),
        "merged": set(merged),
        "split_parts": split_parts,
        "merged_parts": merged_parts,
    }


def random_pair(seed):
    """Maps [23, 29], up to eight boxes; the predicted ones are moved, cut, joined, lost or new."""
    rng = np.random.default_rng(seed)
    true, pred = np.zeros((23, 29), np.int32), np.zeros((23, 29), np.int32)
    for number in range(rng.integers(0, 9)):
        y, x, h, w = (
            rng.integers(0, 19),
            rng.integers(0, 25),
            rng.integers(2, 9),
            rng.integers(2, 9),
        )
        label = 3 * number + 2
        true[y : y + h, x : x + w] = label
        change = rng.choice(["same", "moved", "halved", "cut", "joined", "lost", "grown"])
        if change == "lost":
            continue
        dy, dx = rng.integers(-2, 3, 2) if change == "moved" else (0, 0)
        grow = 3 if change == "grown" else 0
        rows, columns = (
            np.s_[max(y + dy, 0) : y + dy + h + grow],
            np.s_[max(x + dx, 0) : x + dx + w],
        )
        pred[rows, columns] = 5 * number + 1
        if change in ("halved", "cut"):
            at = w // 2 if change == "halved" else rng.integers(1, w)
            pred[rows, x + at : x + w] = 5 * number + 2
        if change == "joined" and number:
            pred[pred == 5 * (number - 1) + 1] = 5 * number + 1
    for number in range(rng.integers(0, 3)):
        y, x = rng.integers(0, 20), rng.integers(0, 26)
        pred[y : y + 3, x : x + 3] = 101 + number
    return pred, true

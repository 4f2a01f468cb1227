"""``evaluate`` against a matching written plainly, on 200 random pairs of label files."""

from __future__ import annotations

import numpy as np
import plain_matching as plain
import pytest

from cellseg1_rt.evaluate import (
    THRESHOLDS,
    average_precision,
    evaluate_folders,
    find_mistakes,
    match_counts,
)

SEEDS = range(200)
LOW = (0.02, 0.1, 0.2, 1 / 3, 0.45)


@pytest.fixture(scope="module")
def pairs():
    return {f"{seed:03}": plain.random_pair(seed) for seed in SEEDS}


@pytest.fixture(scope="module")
def found(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for side in ("pred", "true"):
        (folder / side).mkdir()
    for name, (pred, true) in pairs.items():
        np.save(folder / "pred" / f"{name}_labels.npy", pred)
        np.save(folder / "true" / f"{name}.npy", true)
    return evaluate_folders(folder / "pred", folder / "true")


def test_every_figure_of_200_pairs(pairs, found):
    assert [image.pair.name for image in found.images] == list(pairs)
    for image in found.images:
        pred, true = pairs[image.pair.name]
        figures = image.figures
        for threshold, ap in zip(THRESHOLDS, figures.average_precision, strict=True):
            tp, fp, fn = plain.counts(pred, true, threshold)
            assert ap == (tp / (tp + fp + fn) if tp + fp + fn else 1.0), image.pair.name
        tp, fp, fn = plain.counts(pred, true, 0.5)
        assert (figures.tp, figures.fp, figures.fn) == (tp, fp, fn)
        assert (figures.predicted, figures.true) == (tp + fp, tp + fn)
        cells = plain.cells_of(pred), plain.cells_of(true)
        ious = [
            plain.iou(cells[0][p], cells[1][t]) for p, t in plain.matched_pairs(pred, true, 0.5)
        ]
        assert figures.mean_iou == (pytest.approx(np.mean(ious)) if ious else None)
        expected = plain.mistakes(pred, true)
        for kind in ("missed", "false", "split", "merged"):
            assert getattr(figures, kind) == len(expected[kind]), (image.pair.name, kind)


def test_the_mean_over_images_is_the_published_map(pairs, found):
    for threshold, mean in zip(THRESHOLDS, found.overall.average_precision, strict=True):
        aps = [average_precision(pred, true, threshold) for pred, true in pairs.values()]
        assert mean == pytest.approx(np.mean(aps), abs=1e-12)
    assert found.overall.mean_average_precision == np.mean(found.overall.average_precision)


def test_low_thresholds_where_cells_compete(pairs):
    for name, (pred, true) in pairs.items():
        for counts in match_counts(pred, true, LOW):
            expected = plain.counts(pred, true, counts.threshold)
            assert (counts.tp, counts.fp, counts.fn) == expected, name


def test_labels_of_mistakes(pairs):
    for name, (pred, true) in pairs.items():
        found = find_mistakes(pred, true)
        for kind, labels in plain.mistakes(pred, true).items():
            if kind in ("missed", "false") and plain.contested(pred, true, 0.5):
                # Of two equal partners either may be the one; which is told by no rule.
                assert len(getattr(found, kind)) == len(labels), name
            else:
                assert getattr(found, kind).tolist() == sorted(labels), (name, kind)


def test_the_pairs_hold_what_they_are_to_test(pairs):
    maps = list(pairs.values())
    assert sum(plain.contested(*pair, 0.5) for pair in maps) > 5
    for threshold in LOW[:3]:
        assert sum(plain.contested(*pair, threshold) for pair in maps) > 50
    greedy_falls_short = 0
    for pred, true in maps:
        for threshold in LOW:
            greedy_falls_short += (
                greedy_tp(pred, true, threshold) < plain.counts(pred, true, threshold)[0]
            )
    assert greedy_falls_short > 0
    kinds = [plain.mistakes(*pair) for pair in maps]
    for kind in ("missed", "false", "split", "merged"):
        assert sum(len(one[kind]) for one in kinds) > 50, kind


def greedy_tp(pred, true, threshold):
    """What taking the best IoU first would find."""
    a, b = plain.cells_of(pred), plain.cells_of(true)
    taken = [set(), set()]
    for value, p, t in sorted(((plain.iou(a[p], b[t]), p, t) for p in a for t in b), reverse=True):
        if value >= threshold and p not in taken[0] and t not in taken[1]:
            taken[0].add(p)
            taken[1].add(t)
    return len(taken[0])
